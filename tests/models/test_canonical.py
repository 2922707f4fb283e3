"""Rays and virtual cameras: what a camera-aware network sees does not depend on resolution, lens and place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refiner.camera import look_at_camera
from refiner.models.canonical import (
    canonical_pose,
    centre_of,
    from_virtual_camera,
    rotation_to,
    to_virtual_camera,
)
from refiner.rays import MEAN_LOG_SPREAD

FRAMES = 5


def body(seed: int = 0) -> np.ndarray:
    """(T, 17, 3) metres around (0, 0, 1), z up."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.4, (FRAMES, 17, 3)) + np.array([0.0, 0.0, 1.0])


def seen_by(world: np.ndarray, focal: float, width: int, height: int, aim: tuple[float, float, float]):
    camera = look_at_camera((4.0, 0.5, 1.4), aim, focal, width, height)
    points = camera.to_camera(world)
    keypoints = np.concatenate([camera.project(points), np.ones((*points.shape[:-1], 1))], axis=-1)
    tensors = keypoints[None], np.array([[width, height, focal]]), points[None]
    return tuple(torch.from_numpy(array) for array in tensors)


def test_rotation_takes_the_ray_to_the_axis() -> None:
    middle = torch.tensor(np.random.default_rng(1).normal(0, 0.6, (50, 2)))
    rotation = rotation_to(middle)
    ray = torch.cat([middle, torch.ones(50, 1)], dim=-1)
    axis = (rotation @ ray[..., None])[..., 0]
    identity = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), identity, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(axis[:, :2], torch.zeros(50, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (axis[:, 2] > 0).all()


def test_features_and_pose_do_not_depend_on_resolution_lens_and_place() -> None:
    world = body()
    first = seen_by(world, 1145.0, 1000, 1002, (0.0, 0.0, 1.0))
    for focal, width, height, aim in [
        (2290.0, 2000, 2004, (0.0, 0.0, 1.0)),  # twice the resolution
        (800.0, 720, 1280, (0.0, 0.0, 1.0)),  # another lens, an upright image
        (1145.0, 1000, 1002, (0.0, 0.35, 0.8)),  # the same person elsewhere in the image
    ]:
        other = seen_by(world, focal, width, height, aim)
        features, rotation = canonical_pose(*first[:2])
        moved, other_rotation = canonical_pose(*other[:2])
        pose, other_pose = to_virtual_camera(first[2], rotation), to_virtual_camera(other[2], other_rotation)
        # A look at another point turns the virtual camera about its axis: undo that by the rays themselves.
        a, b = features[0, ..., :2], moved[0, ..., :2]
        angle = torch.atan2((a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(-1), (a * b).sum((-1, -2)))
        turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=-1).reshape(-1, 2, 2)
        exact = {"atol": 1e-9, "rtol": 0.0}
        torch.testing.assert_close(a @ turn, b, **exact)
        # The size in the image and the confidence are the same; where the person is seen may differ.
        torch.testing.assert_close(features[..., 4:], moved[..., 4:], **exact)
        torch.testing.assert_close(pose[0, ..., :2] @ turn, other_pose[0, ..., :2], **exact)
        torch.testing.assert_close(pose[..., 2], other_pose[..., 2], **exact)


def test_formula_in_plain_numpy() -> None:
    rng = np.random.default_rng(3)
    keypoints = np.concatenate([rng.uniform(100, 900, (2, FRAMES, 17, 2)), rng.uniform(0.1, 1, (2, FRAMES, 17, 1))], -1)
    keypoints[0, 2, 4, 2] = 0.0
    camera = np.array([[1000.0, 800.0, 900.0], [640.0, 1138.0, 1500.0]])
    features, rotation = (np.asarray(x) for x in canonical_pose(torch.from_numpy(keypoints), torch.from_numpy(camera)))
    for row, frame in np.ndindex(2, FRAMES):
        rays = (keypoints[row, frame, :, :2] - camera[row, :2] / 2) / camera[row, 2]
        weight = keypoints[row, frame, :, 2] + 1e-4
        directions = np.concatenate([rays, np.ones((17, 1))], 1)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        mean = (weight[:, None] * directions).sum(0)
        middle = mean[:2] / mean[2]
        points = np.concatenate([rays, np.ones((17, 1))], 1) @ rotation[row, frame].T
        seen = points[:, :2] / points[:, 2:]
        spread = np.sqrt((weight[:, None] * seen**2).sum() / weight.sum())
        expected = seen / spread * (keypoints[row, frame, :, 2:] > 0)
        np.testing.assert_allclose(features[row, frame, :, :2], expected, atol=1e-12)
        np.testing.assert_allclose(features[row, frame, :, 2:4], np.tile(middle, (17, 1)), atol=1e-12)
        np.testing.assert_allclose(features[row, frame, :, 4], np.log(spread) - MEAN_LOG_SPREAD, atol=1e-12)
        np.testing.assert_allclose(features[row, frame, :, 5], keypoints[row, frame, :, 2], atol=1e-15)
    assert (features[0, 2, 4, :2] == 0).all()
    np.testing.assert_allclose(np.asarray(centre_of(torch.from_numpy(features))), features[..., 0, 2:4])


@pytest.mark.parametrize("kind", ["all missing", "one joint", "far outside", "all at one point"])
def test_awkward_frames_stay_finite(kind: str) -> None:
    rng = np.random.default_rng(4)
    keypoints = np.concatenate([rng.uniform(100, 900, (1, FRAMES, 17, 2)), np.ones((1, FRAMES, 17, 1))], -1)
    if kind == "all missing":
        keypoints[..., 2] = 0.0
    elif kind == "one joint":
        keypoints[..., 1:, 2] = 0.0
    elif kind == "far outside":
        keypoints[..., :2] *= 30.0
    else:
        keypoints[..., :2] = 500.0
    given = torch.from_numpy(keypoints.astype(np.float32))
    features, rotation = canonical_pose(given, torch.tensor([[1000.0, 1000.0, 600.0]]))
    assert features.isfinite().all() and rotation.isfinite().all()
    assert features.abs().max() < 1e3


def test_turning_back_undoes_turning() -> None:
    rng = np.random.default_rng(5)
    pose = torch.from_numpy(rng.normal(0, 1, (3, FRAMES, 17, 3)))
    rotation = rotation_to(torch.from_numpy(rng.normal(0, 0.5, (3, FRAMES, 2))))
    torch.testing.assert_close(
        from_virtual_camera(to_virtual_camera(pose, rotation), rotation), pose, atol=1e-12, rtol=0
    )
    torch.testing.assert_close(to_virtual_camera(pose, rotation).norm(dim=-1), pose.norm(dim=-1))
