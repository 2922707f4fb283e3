"""Lifter: windows, the flip test, joint sets and frame rates."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import JointCountError, SwappedInputError, UnitError, UsageError
from refiner.runtime import Lifter
from refiner.skeleton import flip_pose, from_h36m17, to_h36m17

SIZE = (1000, 1002)


@pytest.mark.parametrize("frames", [1, 8, 9, 40])
def test_any_length(ramp_lifter, clip, frames):
    pose_2d, _ = clip(frames)
    kept = pose_2d.copy()
    lifted = Lifter(ramp_lifter).lift(pose_2d, image_size=SIZE)
    assert lifted.shape == (frames, 17, 3) and lifted.dtype == np.float32 and np.isfinite(lifted).all()
    np.testing.assert_array_equal(pose_2d, kept)


def test_the_flip_test_is_the_mean_with_the_mirrored_pass(ramp_lifter, clip):
    pose_2d, _ = clip(40)
    plain = Lifter(ramp_lifter)
    mirrored = flip_pose(pose_2d)
    mirrored[..., 0] += SIZE[0]
    expected = (plain.lift(pose_2d, SIZE) + flip_pose(plain.lift(mirrored, SIZE))) / 2
    flipped = Lifter(ramp_lifter, flip_test=True).lift(pose_2d, SIZE)
    np.testing.assert_allclose(flipped, expected, atol=1e-6)
    assert np.abs(flipped - plain.lift(pose_2d, SIZE)).max() > 1e-3
    # What is averaged with its mirror image mirrors with the input.
    again = Lifter(ramp_lifter, flip_test=True).lift(mirrored, SIZE)
    np.testing.assert_allclose(flip_pose(again), flipped, atol=1e-5)


def test_joint_sets_and_rates(ramp_lifter, clip):
    pose_2d = from_h36m17(clip(21)[0], "coco17")
    lifter = Lifter(ramp_lifter)
    lifted = lifter.lift(pose_2d, SIZE, fps=30, joints="coco17")
    assert lifted.shape == (21, 17, 3) and lifted.dtype == np.float32
    np.testing.assert_array_equal(lifted, lifter.lift(to_h36m17(pose_2d, "coco17"), SIZE, fps=30))


def test_bad_input(ramp_lifter, clip):
    pose_2d, pose_3d = clip(5)
    lifter = Lifter(ramp_lifter)
    with pytest.raises(SwappedInputError):
        lifter.lift(pose_3d, SIZE)
    with pytest.raises(JointCountError):
        lifter.lift(pose_2d[:, :16], SIZE)
    with pytest.raises(UnitError, match="shares of the image"):
        lifter.lift(pose_2d / 1000, SIZE)
    with pytest.raises(UsageError, match="hop"):
        Lifter(ramp_lifter, hop=10)


def test_properties(ramp_lifter):
    lifter = Lifter(ramp_lifter)
    assert (lifter.frames, lifter.fps, lifter.hop, lifter.flip_test) == (9, 50.0, 4, False)
