"""The 2D input of a camera-aware network: rays in the axes of a virtual camera that looks at the person.

Pixels depend on the resolution, the lens, the person's position in the image and the distance. Rays do not depend on
the resolution and the lens. Rays seen by a virtual camera that looks straight at the body do not depend on the position
in the image. Divided by their own spread, they do not depend on the distance either. The network gets the
position and the spread as separate features. It lifts in the axes of the virtual camera, and the pose is rotated back
to the axes of the real camera.

The idea comes from canonical domains (Canonical domain learning for 3D pose lifting, arXiv 2501.16146) and from Ray3D
(Zhan et al., CVPR 2022); the features are our own. Every frame has its own virtual camera, so that a frame of a window
and a frame of a live stream give the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refiner.rays import LEAST_DEPTH, LEAST_SPREAD, LEAST_WEIGHT, MEAN_LOG_SPREAD

# Columns of the features: the ray (2), the direction of the body's centre (2), the log of the spread (1), the
# confidence of the detector (1).
RAY_FEATURES = 6
# Columns of a keypoint (x, y, confidence) and of a camera (width, height, focal length), all in pixels.
KEYPOINT, CAMERA = 3, 3


class CanonicalPose(NamedTuple):
    """The result of `canonical_pose`.

    Attributes:
        features: what the network sees, ``(..., J, 6)``.
        rotation: rotation from camera axes to the axes of the virtual camera, ``(..., 3, 3)``.
    """

    features: Tensor
    rotation: Tensor


def canonical_pose(keypoints: Tensor, camera: Tensor) -> CanonicalPose:
    """Pixels and a lens -> features that do not depend on the resolution, the lens and the position in the image.

    A missing joint is masked: its ray and its confidence are 0. If a whole frame is missing, x and y should be copied
    from the frames around it, since the virtual camera looks at them.

    Args:
        keypoints: ``(B, ..., J, 3)``: x and y in pixels, confidence from 0 to 1. 0 marks a missing joint, whose x and y
            may be any finite numbers.
        camera: ``(B, 3)``: width, height and focal length in pixels. The principal point is the middle of the image and
            the lens has no distortion; undo a known distortion first (`refiner.camera.Camera.to_ideal`).

    Returns:
        The features and the rotation to the virtual camera of every frame.
    """
    lens = camera.reshape(camera.shape[0], *(1,) * (keypoints.dim() - 2), CAMERA)
    rays = (keypoints[..., :2] - 0.5 * lens[..., :2]) / lens[..., 2:]
    confidence = keypoints[..., 2:]
    weight = confidence + LEAST_WEIGHT
    weight = weight / weight.sum(dim=-2, keepdim=True)
    # The mean of unit directions. The mean of image points would not rotate with the camera.
    share = weight * (1.0 + rays.square().sum(dim=-1, keepdim=True)).rsqrt()
    centre = (share * rays).sum(dim=-2) / share.sum(dim=-2)  # [..., 2]
    rotation = rotation_to(centre)
    x, y = rays[..., 0:1], rays[..., 1:2]
    # The rows of the rotation times (x, y, 1), written out: engines fuse these sums, whereas a product with a 3 x 3
    # matrix costs little but calls.
    row = rotation[..., None, :, :]  # [..., 1, 3, 3]
    rotated = row[..., :, 0] * x + row[..., :, 1] * y + row[..., :, 2]  # [..., J, 3]
    seen = rotated[..., :2] / rotated[..., 2:].clamp(min=LEAST_DEPTH)
    spread = (weight * seen.square()).sum(dim=(-2, -1)).sqrt().clamp(min=LEAST_SPREAD)[..., None, None]  # [..., 1, 1]
    visible = (confidence > 0).to(rays.dtype)
    whole = torch.ones_like(confidence)
    features = torch.cat(
        [
            visible * seen / spread,
            centre[..., None, :] * whole,
            (spread.log() - MEAN_LOG_SPREAD) * whole,
            confidence,
        ],
        dim=-1,
    )
    return CanonicalPose(features, rotation)


def rotation_to(centre: Tensor) -> Tensor:
    """The smallest rotation that takes a direction to the z axis; the virtual camera does not roll.

    Args:
        centre: the ray as X / Z and Y / Z, ``(..., 2)``.

    Returns:
        The rotation from camera axes to the axes of the virtual camera, ``(..., 3, 3)``.
    """
    length = (1.0 + centre.square().sum(dim=-1, keepdim=True)).rsqrt()
    x, y = (centre * length).unbind(dim=-1)
    z = length[..., 0]
    fold = 1.0 / (1.0 + z)
    rows = [1.0 - x * x * fold, -x * y * fold, -x, -x * y * fold, 1.0 - y * y * fold, -y, x, y, z]
    return torch.stack(rows, dim=-1).reshape(*centre.shape[:-1], 3, 3)


def sees_rays(model: Mapping[str, Any]) -> bool:
    """Whether a network sees rays instead of image coordinates; ``model`` is that entry of its configuration."""
    return bool(model.get("input", "screen") == "rays")


def centre_of(features: Tensor) -> Tensor:
    """The direction of the body's centre, read from the features: ``(..., J, 6)`` -> ``(..., 2)`` (X / Z, Y / Z)."""
    return features[..., 0, 2:4]


def to_virtual_camera(pose_3d: Tensor, rotation: Tensor) -> Tensor:
    """Rotate a pose ``(..., J, 3)`` from camera axes to the axes of the virtual camera."""
    x, y, z = pose_3d[..., 0:1], pose_3d[..., 1:2], pose_3d[..., 2:3]
    row = rotation[..., None, :, :]
    return row[..., :, 0] * x + row[..., :, 1] * y + row[..., :, 2] * z


def from_virtual_camera(pose_3d: Tensor, rotation: Tensor) -> Tensor:
    """Rotate a pose ``(..., J, 3)`` from the axes of the virtual camera back to camera axes."""
    return to_virtual_camera(pose_3d, rotation.transpose(-1, -2))
