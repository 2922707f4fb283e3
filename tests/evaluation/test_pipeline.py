"""What is scored beside the lifter: one pose of its hypotheses with and without ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data import CameraClip
from refiner.errors import UsageError
from refiner.evaluation.pipeline import score_models

CAMERA = human36m_cameras()[1]


def clip(seed, lens=CAMERA, frames=60):
    rng = np.random.default_rng(seed)
    body = rng.normal(0, 0.3, (frames, 17, 3))
    body[:, 0] = 0.0
    pixels = CAMERA.project(body + rng.normal([0.1, 0.2, 4.5], 0.05, (frames, 1, 3)))
    parts = {"pose_2d": pixels, "pose_2d_clean": pixels, "pose_3d": body}
    arrays = {name: values.astype(np.float32) for name, values in parts.items()}
    return CameraClip("S1", "Walking 1", "Walking", CAMERA.id, **arrays, image_size=(1000, 1000), fps=50.0, lens=lens)


def hypotheses(of, count=8):
    noise = np.random.default_rng(len(of.pose_3d)).normal(0, 0.05, (count, *of.pose_3d.shape))
    noise[:, :, 0] = 0.0
    return (of.pose_3d + noise).astype(np.float32)


def test_one_pose_of_the_hypotheses_four_ways():
    scored = score_models(
        [clip(1)],
        lift=lambda of: hypotheses(of).mean(axis=0),
        refine=lambda of, pose_3d: pose_3d,
        hypothesise=hypotheses,
    )
    assert list(scored) == ["lifter", "by reprojection", "oracle P-Best", "oracle J-Best", "refined"]
    error = {label: result.frame_mean("mpjpe") for label, result in scored.items()}
    one = 1000 * np.linalg.norm(hypotheses(clip(1))[0] - clip(1).pose_3d, axis=-1).mean()
    assert error["oracle J-Best"] < error["oracle P-Best"] < one
    # Without ground truth the nearest projection still tells two of three coordinates.
    assert error["by reprojection"] < 0.7 * one


def test_without_hypotheses_there_are_no_such_columns():
    scored = score_models([clip(2)], lambda of: of.pose_3d, lambda of, pose_3d: pose_3d)
    assert list(scored) == ["lifter", "refined"]


def test_a_clip_without_its_camera_cannot_be_projected():
    with pytest.raises(UsageError, match="S1 Walking 1 comes without a camera"):
        score_models(
            [clip(3, lens=None)],
            lambda of: of.pose_3d,
            lambda of, pose_3d: pose_3d,
            hypothesise=hypotheses,
        )
