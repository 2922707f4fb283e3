"""Left and right that a detector took for each other for a while."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.keypoints import check_keypoints
from refiner.data.swaps import (
    ARMS,
    LEGS,
    SWAP_COST,
    _cheapest,
    _jumps,
    _size,
    exchange_sides,
    find_swapped_sides,
    swapped_frames,
)
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.errors import InputWarning
from refiner.lens import Lens
from refiner.runtime import Lifter
from refiner.skeleton import joint_set

BOTH = (*LEGS, *ARMS)


def views(action: str = SYNTHETIC_ACTIONS[0], frames: int = 150, seed: int = 3) -> list[np.ndarray]:
    """A synthetic person before four cameras: pixels ``(F, 17, 2)``."""
    world = synthetic_motion(seed, action, frames)
    return [camera.project(camera.to_camera(world)) for camera in human36m_cameras()]


def nothing_missing(pose: np.ndarray) -> np.ndarray:
    return np.zeros(pose.shape[:2], dtype=bool)


@pytest.mark.parametrize("action", SYNTHETIC_ACTIONS)
def test_bodies_that_move_are_left_alone(action: str) -> None:
    for pose in views(action):
        assert find_swapped_sides(pose, nothing_missing(pose)) == []
        noisy = pose + np.random.default_rng(1).normal(0, 3.0, pose.shape)
        assert find_swapped_sides(noisy, nothing_missing(pose)) == []


def frontal(frames: int = 80) -> np.ndarray:
    """A person seen from the front, walking on the spot."""
    rng = np.random.default_rng(0)
    rest = 100.0 * rng.normal(0, 0.2, (17, 2)) + 500.0
    for place, (left, right) in enumerate(BOTH):
        rest[left], rest[right] = (560, 300 + 60 * place), (440, 300 + 60 * place)
    swing = 6.0 * np.sin(np.linspace(0, 12, frames))[:, None, None] * rng.normal(0, 1, (1, 17, 2))
    return rest + swing


@pytest.mark.parametrize("stretches", [[(20, 45)], [(0, 15)], [(60, 80)], [(10, 11), (30, 50)]])
@pytest.mark.parametrize("pairs", [LEGS, ARMS, BOTH])
def test_swapped_stretches_are_found_and_taken_back(stretches: list[tuple[int, int]], pairs: tuple) -> None:
    pose = frontal()
    swapped = np.zeros(len(pose), dtype=bool)
    for start, end in stretches:
        swapped[start:end] = True
    hurt = exchange_sides(pose, swapped, pairs)
    mended = hurt
    for frames, part in find_swapped_sides(hurt, nothing_missing(pose)):
        np.testing.assert_array_equal(frames, swapped)
        mended = exchange_sides(mended, frames, part)
    np.testing.assert_array_equal(mended, pose)
    assert not np.array_equal(hurt, pose)


def test_the_same_in_three_dimensions_and_any_unit() -> None:
    pose = np.concatenate([frontal(), np.zeros((80, 17, 1))], axis=-1)
    swapped = np.arange(80) // 20 == 1
    hurt = exchange_sides(pose, swapped, BOTH)
    for unit in (1.0, 1e-3, 1e3):
        np.testing.assert_array_equal(swapped_frames(unit * hurt, nothing_missing(pose), LEGS), swapped)


def test_a_body_from_the_side_is_left_alone() -> None:
    pose = frontal()
    pose[..., 0] = 500.0 + 0.02 * (pose[..., 0] - 500.0)  # left and right on top of each other
    hurt = exchange_sides(pose, np.arange(80) // 20 == 1, BOTH)
    assert find_swapped_sides(hurt, nothing_missing(pose)) == []


def test_missing_joints_say_nothing_and_short_sequences_are_left_alone() -> None:
    pose = frontal()
    hurt = exchange_sides(pose, np.arange(80) // 20 == 1, LEGS)
    missing = nothing_missing(pose)
    missing[:, [joint for pair in LEGS for joint in pair]] = True
    assert not swapped_frames(hurt, missing, LEGS).any()
    assert not swapped_frames(hurt[19:21], missing[19:21], LEGS).any()


def test_the_states_are_the_cheapest_of_all() -> None:
    """Against every way of swapping eight frames."""
    from refiner.data import swaps

    rng = np.random.default_rng(5)
    for _ in range(40):
        kept, changed = rng.uniform(0, 0.5, (2, 7))
        found = swaps._cheapest(kept.tolist(), changed.tolist())

        def cost(states: np.ndarray, kept: np.ndarray = kept, changed: np.ndarray = changed) -> float:
            turns = np.diff(np.concatenate([[False], states, [False]]).astype(int)) != 0
            steps = np.where(np.diff(states.astype(int)) != 0, changed, kept).sum()
            return float(steps + 0.5 * SWAP_COST * turns.sum() + swaps.FRAME_COST * states[1:].sum())

        every = [np.array([number >> place & 1 for place in range(8)], dtype=bool) for number in range(256)]
        assert cost(found) == pytest.approx(min(map(cost, every)))


def test_frames_that_no_jump_explains_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no swap can gain what it costs, the search is left out; it would have found nothing."""
    rng = np.random.default_rng(5)
    searched = 0

    def counted(same: list[float], changed: list[float]) -> np.ndarray:
        nonlocal searched
        searched += 1
        return _cheapest(same, changed)

    monkeypatch.setattr("refiner.data.swaps._cheapest", counted)
    for _ in range(400):
        pose = rng.normal(0, 1, (17, 2)) + np.cumsum(rng.normal(0, rng.uniform(0.01, 0.3), (30, 17, 2)), axis=0)
        swapped = np.arange(30) // rng.integers(3, 20) == 1
        pose = exchange_sides(pose, swapped & (rng.random() < 0.5), LEGS)
        missing = rng.random((30, 17)) < 0.1
        unit = _size(pose)
        left, right = [pair[0] for pair in LEGS], [pair[1] for pair in LEGS]
        expected = _cheapest(*(costs.tolist() for costs in _jumps(pose / unit, ~missing, left, right)))
        np.testing.assert_array_equal(swapped_frames(pose, missing, LEGS), expected)
    assert 50 < searched < 350


def test_keypoints_have_their_confidence_exchanged_too() -> None:
    pose, lens = frontal(), Lens((1000.0, 1000.0), 1100.0, "given")
    swapped = np.arange(80) // 20 == 1
    sure = np.random.default_rng(2).uniform(0.5, 1.0, (80, 17))
    sure[25, LEGS[1][0]] = 0.0
    hurt, hurt_sure = (exchange_sides(part, swapped, BOTH) for part in (pose, sure))
    kind = joint_set("h36m17")
    expected = check_keypoints(pose, sure, lens, kind, sides=True)
    with pytest.warns(InputWarning, match="swapped in 20 of 80 frames, first frame 20"):
        found = check_keypoints(hurt, hurt_sure, lens, kind, sides=True)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-4)
    np.testing.assert_array_equal(found.missing, expected.missing)
    # Without being asked for it nothing is exchanged.
    np.testing.assert_allclose(check_keypoints(hurt, None, lens, kind).values[..., :2], hurt, atol=1e-3)


@pytest.mark.filterwarnings("ignore::refiner.errors.DefaultLensWarning")
def test_a_lifter_that_sees_rays_lifts_as_if_nothing_had_been_swapped() -> None:
    pytest.importorskip("torch")
    pose, lifter = frontal(), Lifter.load("lifter-nano-rays")
    hurt = exchange_sides(pose, np.arange(80) // 20 == 1, BOTH)
    expected = lifter.lift(pose, (1000, 1000), fps=50)
    with pytest.warns(InputWarning, match="they are exchanged"):
        found = lifter.lift(hurt, (1000, 1000), fps=50)
    np.testing.assert_allclose(found, expected, atol=1e-5)
