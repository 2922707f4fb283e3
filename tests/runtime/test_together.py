"""Many sequences refined and lifted together equal each of them alone, for every kind of model and awkward lengths."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import Lifter, Refiner
from refiner.camera import human36m_cameras
from refiner.data.synthetic import synthetic_motion
from refiner.runtime import stitching
from refiner.runtime.stitching import Run, run_causal, run_strided, run_windows

VIEW = human36m_cameras()[0]
LENS = {"image_size": VIEW.image_size, "focal_length": VIEW.focal_length}
# One frame, less than a window, one stride, several windows.
LENGTHS = (1, 5, 27, 28, 60, 200, 300)


def clip(seed, frames):
    """Pixels, poses in metres and confidences of a walk, with errors and a missing joint."""
    rng = np.random.default_rng(seed)
    poses = VIEW.to_camera(synthetic_motion(seed, "Walking", max(frames, 2)))[:frames]
    pixels = VIEW.project(poses) + rng.normal(0, 2, (frames, 17, 2))
    confidence = rng.uniform(0.3, 1, (frames, 17))
    confidence[rng.integers(frames), rng.integers(17)] = 0
    return pixels, poses + rng.normal(0, 0.02, poses.shape), confidence


def clips():
    return [clip(seed, frames) for seed, frames in enumerate(LENGTHS)]


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
@pytest.mark.parametrize("name", ["refiner-nano-rays-long", "refiner", "causal"])
@pytest.mark.parametrize("flip_test", [False, True])
def test_refined_together_as_alone(name, flip_test):
    refiner = Refiner.load(name, flip_test=flip_test)
    rates = [50, 25, 50, 60, 30, 50, 50]
    prepared, alone = [], []
    for (pixels, poses, confidence), rate in zip(clips(), rates, strict=True):
        given = {"confidence": confidence, **({"image_size": VIEW.image_size} if name == "refiner" else LENS)}
        prepared.append(refiner.prepare(pixels, poses, fps=rate, **given))
        alone.append(refiner.refine_report(pixels, poses, fps=rate, **given))
    together = refiner.refine_prepared(prepared)
    assert refiner.refine_prepared([]) == []
    for one, two in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.pose_3d, two.pose_3d, atol=1e-5)
        np.testing.assert_array_equal(one.guessed, two.guessed)
        assert [note.message for note in one.notes] == [note.message for note in two.notes]
        assert (one.std is None) is (two.std is None)
        if one.std is not None:
            np.testing.assert_allclose(one.std, two.std, atol=1e-5)


@pytest.mark.filterwarnings("ignore::refiner.errors.InputWarning")
@pytest.mark.parametrize("name", ["live-lifter", "lifter"])
def test_lifted_together_as_alone(name):
    lifter = Lifter.load(name)
    lens = {"image_size": VIEW.image_size} if name == "lifter" else LENS
    some = [(pixels, {"confidence": confidence, **lens}) for pixels, _, confidence in clips()]
    # Nobody is seen for two seconds: two parts.
    pixels, options = some[-1]
    pixels[100:200] = np.nan
    together = lifter.lift_prepared([lifter.prepare(pixels, **options) for pixels, options in some])
    for report, (pixels, options) in zip(together, some, strict=True):
        np.testing.assert_allclose(report.pose_3d, lifter.lift(pixels, **options), atol=1e-5)
    assert together[-1].gaps[100:200].all() and not together[-1].gaps[:100].any()


def recorded(sizes):
    """A model whose outputs depend on the place in the window and on its constant; it notes the sizes of batches."""

    def model(values, constant):
        sizes.append(len(values))
        place = np.linspace(0, 1, values.shape[1], dtype=np.float32).reshape(1, -1, 1)
        return values * constant[:, None] + place

    return model


@pytest.mark.parametrize("merged", [1, 7, 10_000])
@pytest.mark.parametrize("stride", [1, 3])
def test_windows_of_many_sequences_fill_the_batches(monkeypatch, merged, stride):
    monkeypatch.setattr(stitching, "MERGED_WINDOWS", merged)
    rng = np.random.default_rng(1)
    runs = [
        Run((rng.normal(size=(frames, 4)).astype(np.float32),), (np.array([frames], np.float32),))
        for frames in (1, 3, 9, 10, 40, 27, 131)
    ]
    sizes = []
    together = run_strided(recorded(sizes), runs, 9, 4, batch=5, stride=stride)
    alone = [run_strided(recorded([]), [run], 9, 4, batch=5, stride=stride)[0] for run in runs]
    for one, two in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, two)
    if stride == 1:
        expected = run_windows(lambda part: recorded([])(part, np.full((len(part), 1), 131.0)), runs[-1].arrays, 9, 4)
        np.testing.assert_allclose(together[-1], expected, rtol=1e-6)
    if merged == 10_000:
        assert all(size == 5 for size in sizes[:-1])


def test_the_least_batch_is_filled_and_dropped():
    sizes = []
    run = Run((np.arange(20, dtype=np.float32)[:, None],), (np.ones(1, np.float32),))
    result = run_strided(recorded(sizes), [run], 9, 4, batch=8, least_batch=8)[0]
    assert sizes == [8]
    np.testing.assert_array_equal(result, run_strided(recorded([]), [run], 9, 4)[0])


def test_causal_pieces_of_like_length_share_a_batch():
    rng = np.random.default_rng(2)
    shapes = []

    def model(values, constant):
        shapes.append(values.shape[:2])
        # The sum of a frame and the two frames before it.
        padded = np.pad(values, ((0, 0), (2, 0), (0, 0)))
        return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) * constant[:, None]

    lengths = (3, 90, 1, 4, 5, 33, 200)
    runs = [
        Run((rng.normal(size=(frames, 2)).astype(np.float32),), (np.array([frames], np.float32),)) for frames in lengths
    ]
    results = run_causal(model, runs, reach=2, batch=3, part=60)
    for run, result in zip(runs, results, strict=True):
        whole = model(run.arrays[0][None], run.constants[0][None])[0]
        np.testing.assert_allclose(result, whole, rtol=1e-6)
    calls = shapes[: -len(runs)]
    assert max(count for count, _ in calls) == 3
    assert all(count == 1 or count * frames <= 60 for count, frames in calls)
    assert [frames for _, frames in calls] == sorted((frames for _, frames in calls), reverse=True)
