"""The oracles against loops, and that they choose pose by pose."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import ShapeError
from refiner.evaluation.oracles import oracle_best_joints, oracle_best_pose


def example(seed, hypotheses=4, frames=6):
    rng = np.random.default_rng(seed)
    target = rng.normal(0, 0.3, (frames, 17, 3))
    return target + rng.normal(0, 0.05, (hypotheses, frames, 17, 3)), target


def relative(pose):
    return pose - pose[..., :1, :]


def test_the_best_pose_of_every_frame():
    poses, target = example(1)
    found = oracle_best_pose(poses, target)
    for frame in range(len(target)):
        errors = [np.linalg.norm(relative(pose[frame]) - relative(target[frame]), axis=-1).mean() for pose in poses]
        np.testing.assert_array_equal(found[frame], relative(poses[int(np.argmin(errors)), frame]))


def test_the_best_joint_of_every_frame():
    poses, target = example(2)
    found = oracle_best_joints(poses, target)
    for frame in range(len(target)):
        for joint in range(17):
            errors = [np.linalg.norm(relative(p[frame])[joint] - relative(target[frame])[joint]) for p in poses]
            np.testing.assert_array_equal(found[frame, joint], relative(poses[int(np.argmin(errors)), frame])[joint])


def test_a_frame_s_choice_does_not_depend_on_the_others():
    poses, target = example(3)
    for oracle in (oracle_best_pose, oracle_best_joints):
        whole = oracle(poses, target)
        alone = np.concatenate([oracle(poses[:, [frame]], target[[frame]]) for frame in range(len(target))])
        np.testing.assert_array_equal(whole, alone)


def test_joints_are_never_worse_than_poses_nor_poses_than_the_best_hypothesis():
    poses, target = example(4, frames=50)

    def error(pose):
        return np.linalg.norm(relative(pose) - relative(target), axis=-1).mean()

    assert error(oracle_best_joints(poses, target)) < error(oracle_best_pose(poses, target)) < min(map(error, poses))


def test_shapes_that_do_not_belong_together_are_refused():
    poses, target = example(5)
    with pytest.raises(ShapeError, match="hypotheses have shape"):
        oracle_best_pose(poses[:, 1:], target)
