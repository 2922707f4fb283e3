"""One pose of many without ground truth: where the root must be, and which joint is seen where."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.errors import InputError, NonFiniteError, ShapeError
from refiner.hypotheses import joints_by_reprojection, mean_pose, root_positions

CAMERA = human36m_cameras()[2]


def scene(seed, frames=40):
    """Root-relative bodies, where their root is, and what the camera sees."""
    rng = np.random.default_rng(seed)
    body = rng.normal(0, 0.3, (frames, 17, 3))
    body[:, 0] = 0.0
    root = np.array([0.2, -0.1, 4.5]) + rng.normal(0, 0.4, (frames, 3))
    return body, root, CAMERA.project(body + root[:, None])


def test_exact_poses_give_the_exact_root():
    body, root, pixels = scene(1)
    np.testing.assert_allclose(root_positions(body, pixels, CAMERA), root, atol=1e-9)


def test_the_root_is_the_least_squares_one():
    """Against a brute-force search about it: no other place is seen nearer to the detections, at unit depth."""
    body, _, pixels = scene(2, frames=6)
    rng = np.random.default_rng(3)
    pixels = pixels + rng.normal(0, 5, pixels.shape)
    found = root_positions(body, pixels, CAMERA)
    rays = CAMERA.rays(pixels)

    def error(place):
        points = body + place[:, None]
        return np.square(points[..., :2] / points[..., 2:] - rays).sum(axis=(1, 2))

    best = error(found)
    for _ in range(200):
        # The equations are weighted by the depths of the solution itself, which moves it by a little from the least.
        assert (error(found + rng.normal(0, 0.05, found.shape)) > 0.999 * best).all()


def test_the_nearest_projection_is_taken_joint_by_joint():
    body, root, pixels = scene(4)
    rng = np.random.default_rng(5)
    hypotheses = body + rng.normal(0, 0.06, (7, *body.shape))
    hypotheses[:, :, 0] = 0.0
    found = joints_by_reprojection(hypotheses, pixels, CAMERA, root)
    expected = np.empty_like(body)
    for frame in range(len(body)):
        for joint in range(17):
            distances = [
                np.hypot(*(CAMERA.project(pose[frame, joint] + root[frame]) - pixels[frame, joint]))
                for pose in hypotheses
            ]
            expected[frame, joint] = hypotheses[int(np.argmin(distances)), frame, joint]
    np.testing.assert_array_equal(found, expected)


def test_the_estimated_root_serves_nearly_as_well_as_the_true_one():
    body, root, pixels = scene(6, frames=200)
    hypotheses = body + np.random.default_rng(7).normal(0, 0.05, (20, *body.shape))
    hypotheses[:, :, 0] = 0.0

    def error(pose):
        return np.linalg.norm(pose - body, axis=-1).mean()

    one, known = error(hypotheses[0]), error(joints_by_reprojection(hypotheses, pixels, CAMERA, root))
    estimated = error(joints_by_reprojection(hypotheses, pixels, CAMERA))
    assert known < 0.6 * one and estimated < 1.03 * known


def test_the_mean_is_the_mean():
    poses = np.random.default_rng(0).normal(size=(5, 4, 17, 3)).astype(np.float32)
    found = mean_pose(poses)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, poses.astype(np.float64).mean(axis=0), atol=1e-6)


def test_what_cannot_be_told_is_refused():
    body, _, pixels = scene(8)
    flat = pixels.copy()
    flat[[3, 9]] = [500.0, 500.0]
    with pytest.raises(InputError, match="in 2 of 40 frames, the first 3, the 2D joints lie on one point"):
        root_positions(body, flat, CAMERA)
    with pytest.raises(InputError, match="behind the camera"):
        root_positions(-body, pixels, CAMERA)
    with pytest.raises(NonFiniteError, match="NaN"):
        root_positions(np.where(body > 0.5, np.nan, body), pixels, CAMERA)
    with pytest.raises(ShapeError, match=r"\(frames, joints, 2\)"):
        root_positions(body, pixels[1:], CAMERA)
    with pytest.raises(ShapeError, match=r"expected \(hypotheses, frames, joints, 3\)"):
        joints_by_reprojection(body, pixels, CAMERA)
    with pytest.raises(ShapeError, match="root has shape"):
        joints_by_reprojection(body[None], pixels, CAMERA, np.ones(3))
