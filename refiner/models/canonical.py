"""What a camera-aware network sees of a 2D pose: rays, turned to a virtual camera that looks at the person.

Pixels depend on the resolution, the lens, the place in the image and the distance. Rays do not depend on the first two,
and seen by a camera that looks straight at the body they do not depend on the third; divided by the body's own size
they do not depend on the fourth. The size itself and the place are given apart. A network that lifts in the virtual
camera's axes gives poses that are turned back to the real camera's.

The idea is that of canonical domains (Canonical domain learning for 3D pose lifting, arXiv 2501.16146) and of Ray3D
(Zhan et al., CVPR 2022); the features are ours. Every frame has a virtual camera of its own, so that a window and a
live frame are seen alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Columns of the features: the ray (2), where the person is seen (2), how large (1), how sure the detector is (1).
RAY_FEATURES = 6
# Columns of a keypoint (x, y, confidence) and of a camera (width, height, focal length), all in pixels.
KEYPOINT, CAMERA = 3, 3
# Weight of a missing joint in the mean of a frame, so that a frame without any joint has a mean all the same.
LEAST_WEIGHT = 1e-4
# A ray that the virtual camera sees under more than 84 degrees is cut off there.
LEAST_DEPTH = 0.1
# The spread of a body that is seen from 30 m away; the features divide by the spread.
LEAST_SPREAD = 1e-3
# Mean logarithm of the spread over usual distances, taken off so that the feature lies around 0.
MEAN_LOG_SPREAD = -2.3


class CanonicalPose(NamedTuple):
    """``features`` ``(..., J, 6)``, which a network sees, and ``rotation`` ``(..., 3, 3)``, which takes camera axes to
    the virtual camera's."""

    features: Tensor
    rotation: Tensor


def canonical_pose(keypoints: Tensor, camera: Tensor) -> CanonicalPose:
    """Pixels and a lens -> features that do not depend on resolution, lens and place.

    Args:
        keypoints: ``(B, ..., J, 3)``: x and y in pixels, confidence from 0 (missing, x and y any finite numbers) to 1.
        camera: ``(B, 3)``: width, height and focal length in pixels. The principal point is the middle of the image and
            the lens has no distortion; undo what is known first (`refiner.camera.Camera.to_ideal`).

    A missing joint is a mask: its ray is 0 and so is its confidence. Where a whole frame is missing, x and y should be
    those of the frames around it, since the virtual camera looks at them.
    """
    lens = camera.reshape(camera.shape[0], *(1,) * (keypoints.dim() - 2), CAMERA)
    rays = (keypoints[..., :2] - 0.5 * lens[..., :2]) / lens[..., 2:]
    confidence = keypoints[..., 2:]
    weight = confidence + LEAST_WEIGHT
    weight = weight / weight.sum(dim=-2, keepdim=True)
    # The mean of directions and not of points in the image, which would move with the place in the image.
    near = weight * (1.0 + rays.square().sum(dim=-1, keepdim=True)).rsqrt()
    middle = (near * rays).sum(dim=-2) / near.sum(dim=-2)  # [..., 2]
    rotation = rotation_to(middle)
    x, y = rays[..., 0:1], rays[..., 1:2]
    # The rows of the rotation times (x, y, 1), written out: engines fuse this, and a product of 3 x 3 is mostly calls.
    row = rotation[..., None, :, :]  # [..., 1, 3, 3]
    turned = row[..., :, 0] * x + row[..., :, 1] * y + row[..., :, 2]  # [..., J, 3]
    seen = turned[..., :2] / turned[..., 2:].clamp(min=LEAST_DEPTH)
    spread = (weight * seen.square()).sum(dim=(-2, -1)).sqrt().clamp(min=LEAST_SPREAD)[..., None, None]  # [..., 1, 1]
    there = (confidence > 0).to(rays.dtype)
    whole = torch.ones_like(confidence)
    features = torch.cat(
        [
            there * seen / spread,
            middle[..., None, :] * whole,
            (spread.log() - MEAN_LOG_SPREAD) * whole,
            confidence,
        ],
        dim=-1,
    )
    return CanonicalPose(features, rotation)


def canonical_arrays(
    keypoints: NDArray[np.float32], pose_3d: NDArray[np.float32], camera: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A sequence of keypoints ``(F, J, 3)`` and root-relative poses ``(F, J, 3)`` by a camera ``(3,)`` -> its rays
    ``(F, J, 2)`` and poses ``(F, J, 3)`` in the axes of the virtual cameras."""
    seen, rotation = canonical_pose(*(torch.from_numpy(np.asarray(part))[None] for part in (keypoints, camera)))
    poses = turned(torch.from_numpy(np.asarray(pose_3d))[None], rotation)
    return seen[0, ..., :2].numpy(), poses[0].numpy()


def rotation_to(middle: Tensor) -> Tensor:
    """The smallest rotation that takes the ray through ``middle`` ``(..., 2)`` (X / Z, Y / Z) to the z axis,
    ``(..., 3, 3)``: the columns of a camera that looks there, without a turn about its own axis."""
    length = (1.0 + middle.square().sum(dim=-1, keepdim=True)).rsqrt()
    x, y = (middle * length).unbind(dim=-1)
    z = length[..., 0]
    fold = 1.0 / (1.0 + z)
    rows = [1.0 - x * x * fold, -x * y * fold, -x, -x * y * fold, 1.0 - y * y * fold, -y, x, y, z]
    return torch.stack(rows, dim=-1).reshape(*middle.shape[:-1], 3, 3)


def sees_rays(model: Mapping[str, Any]) -> bool:
    """Whether a network sees these features instead of screen coordinates: ``model`` of its configuration."""
    return bool(model.get("input", "screen") == "rays")


def place_of(features: Tensor) -> Tensor:
    """The ``middle`` that `canonical_pose` put into its features, ``(..., J, 6)`` -> ``(..., 2)``."""
    return features[..., 0, 2:4]


def turned(pose_3d: Tensor, rotation: Tensor) -> Tensor:
    """``(..., J, 3)`` in camera axes -> the virtual camera's axes."""
    x, y, z = pose_3d[..., 0:1], pose_3d[..., 1:2], pose_3d[..., 2:3]
    row = rotation[..., None, :, :]
    return row[..., :, 0] * x + row[..., :, 1] * y + row[..., :, 2] * z


def turned_back(pose_3d: Tensor, rotation: Tensor) -> Tensor:
    """``(..., J, 3)`` in the virtual camera's axes -> camera axes: undoes `turned`."""
    return turned(pose_3d, rotation.transpose(-1, -2))
