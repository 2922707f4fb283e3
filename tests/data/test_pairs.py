"""Predictions beside the truth: each mistake is named, and good predictions pass."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from refiner.data.pairs import mistake_of
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.errors import InputError, InputWarning, UnitError
from refiner.evaluation.protocol import Sequence, evaluate_sequences
from refiner.skeleton import flip_pose, from_h36m17
from refiner.training.predictions import load_predictions

ROOM = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # z up to y down, z away


def truth(action="Walking", frames=120, seed=2):
    """Metres in camera axes, 4 m before it, in joints that bend in every direction."""
    world = synthetic_motion(seed, action, frames).astype(np.float64)
    turn = np.deg2rad(35.0)
    turned = world @ np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]).T
    return turned @ ROOM.T + [0.1, 1.0, 4.0]


def predicted(target, noise=0.02):
    poses = target + np.random.default_rng(1).normal(0, noise, target.shape)
    return poses - poses[:, :1]


def score(*pairs):
    return evaluate_sequences([Sequence(f"Walking {i}", "S9", "Walking", "c", p, t) for i, (p, t) in enumerate(pairs)])


REFUSED = {
    "millimetres": (lambda p: p * 1000, UnitError, "looks like millimetres"),
    "y up": (lambda p: p * [1, -1, 1], InputError, r"\(x, -y, z\) of the predictions fit"),
    "x to the left": (lambda p: p * [-1, 1, 1], InputError, r"\(-x, y, z\)"),
    "a room": (lambda p: p @ ROOM, InputError, r"\(x, -z, y\)"),
    "y and z up": (lambda p: p * [1, -1, -1], InputError, r"\(x, -y, -z\)"),
    "mirrored": (flip_pose, InputError, "left and right exchanged"),
    "3dhp's order": (lambda p: from_h36m17(p, "3dhp"), InputError, "order of MPI-INF-3DHP"),
    "COCO's order": (lambda p: from_h36m17(p, "coco17"), InputError, "order of COCO"),
    "a failed frame": (lambda p: np.where(np.arange(len(p))[:, None, None] == 7, 0.0, p), InputError, "frame 7"),
}
WARNED = {
    "half scale": (lambda p: p * 0.5, "too small for metres: times about 2"),
    "twice the scale": (lambda p: p * 2.0, "too large for metres: times about 0.5"),
    "late": (lambda p: np.roll(p, 12, axis=0), "12 frames too late"),
    "early": (lambda p: np.roll(p, -12, axis=0), "12 frames too early"),
}


@pytest.mark.parametrize("action", SYNTHETIC_ACTIONS)
@pytest.mark.parametrize("noise", [0.0, 0.06])
def test_good_predictions_pass(action, noise):
    target = truth(action)
    assert mistake_of(predicted(target, noise), target) is None
    score((predicted(target, noise), target))


def test_poses_that_hardly_move_and_single_frames_pass():
    target = truth()
    for frames in (1, 2, 60):
        still = np.repeat(target[:1], frames, axis=0)
        score((predicted(still), still))
    score((np.zeros_like(target), target))  # what an untrained network says
    score((predicted(target)[:, :14], target[:, :14]))


@pytest.mark.parametrize("case", REFUSED)
def test_predictions_whose_errors_say_nothing_are_refused(case):
    change, error, words = REFUSED[case]
    target = truth()
    with pytest.raises(error, match=words):
        score((change(predicted(target)), target))


@pytest.mark.parametrize("case", WARNED)
def test_predictions_that_may_be_meant_so_are_warned_of(case):
    change, words = WARNED[case]
    target = truth()
    with pytest.warns(InputWarning, match=words):
        score((change(predicted(target)), target))


def test_a_sequence_that_failed_does_not_refuse_the_others():
    target = truth()
    good, bad = (predicted(target), target), (flip_pose(predicted(target)), target)
    with pytest.warns(InputWarning, match=r"left and right exchanged \(1 of 3 sequences, first in S9 / Walking 2"):
        score(good, good, bad)
    with pytest.raises(InputError, match="2 of 3 sequences"):
        score(good, bad, bad)


def rows(change, target):
    poses = predicted(target)
    frames = len(poses)
    pixels = np.random.default_rng(0).uniform(0, 900, (frames, 17, 2))
    half = frames // 2
    return {
        "pose_2d": pixels,
        "pose_3d": change(poses) + np.array([0.0, 0.0, 5.0]),
        "target_3d": target,
        "clip": np.arange(frames) // half,
        "person": np.where(np.arange(frames) < half, "Ann", "Bob"),
        "image_size": np.array([1000, 1000]),
        "fps": 50.0,
    }


@pytest.mark.parametrize("case", [name for name in REFUSED if name != "a failed frame"])
def test_a_file_for_training_is_checked_alike(case, tmp_path):
    change, _, words = REFUSED[case]
    np.savez(tmp_path / "mine.npz", **rows(change, truth()))
    with pytest.raises(InputError, match=words) as raised:
        load_predictions(tmp_path / "mine.npz")
    assert "mine.npz" in str(raised.value)
    np.savez(tmp_path / "mine.npz", **rows(lambda poses: poses, truth()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_predictions(tmp_path / "mine.npz").clips) == 2
