"""The 2D input of a network and the axes of its poses, in NumPy.

The PyTorch form, for training and export, is `refiner.models.canonical`, which explains the features. A test holds both
to the same results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.camera import screen_coordinates

Array = NDArray[np.float32]

# Weight of a missing joint in the mean of a frame, so that the mean of a frame without any joint is defined.
LEAST_WEIGHT = 1e-4
# Rays at more than about 84 degrees to the axis of the virtual camera are clamped to this depth.
LEAST_DEPTH = 0.1
# The spread of a body that is seen from 30 m away. It is a lower limit, since the features divide by the spread.
LEAST_SPREAD = 1e-3
# Mean logarithm of the spread over usual distances; it is subtracted so that the feature lies around 0.
MEAN_LOG_SPREAD = -2.3


def seen_by_network(pose_2d: Array, lens: Array, rays: bool) -> tuple[Array, Array | None]:
    """What a network sees of a 2D pose.

    Args:
        pose_2d: ``(B, ..., J, 2)`` pixels; with ``rays`` ``(B, ..., J, 3)``, with the confidence.
        lens: ``(B, 2)`` image sizes; with ``rays`` ``(B, 3)`` cameras.
        rays: whether the network sees rays.

    Returns:
        ``(B, ..., J, 2)`` or ``(B, ..., J, 6)``, and the rotations to the virtual cameras ``(B, ..., 3, 3)``, None
        without rays.
    """
    # A row without a frame may have any lens, and must not disturb the others.
    with np.errstate(all="ignore"):
        return _rays(pose_2d, lens) if rays else (_screen(pose_2d, lens), None)


def _screen(pose_2d: Array, lens: Array) -> Array:
    size = lens.reshape(len(lens), *(1,) * (pose_2d.ndim - 2), 2)
    return np.asarray(screen_coordinates(pose_2d, size), np.float32)


def _rays(pose_2d: Array, lens: Array) -> tuple[Array, Array]:
    camera = lens.reshape(len(lens), *(1,) * (pose_2d.ndim - 2), 3)
    ray = (pose_2d[..., :2] - np.float32(0.5) * camera[..., :2]) / camera[..., 2:]
    confidence = pose_2d[..., 2:]
    weight = confidence + LEAST_WEIGHT
    weight = weight / weight.sum(axis=-2, keepdims=True)
    share = weight / np.sqrt(1.0 + np.square(ray).sum(axis=-1, keepdims=True))
    centre = (share * ray).sum(axis=-2) / share.sum(axis=-2)
    rotation = rotation_to(centre)
    rotated = ray @ np.swapaxes(rotation[..., :2], -1, -2) + rotation[..., None, :, 2]
    seen = rotated[..., :2] / np.maximum(rotated[..., 2:], LEAST_DEPTH)
    spread = np.maximum(np.sqrt((weight * np.square(seen)).sum(axis=(-2, -1), keepdims=True)), LEAST_SPREAD)
    features = np.empty((*pose_2d.shape[:-1], 6), np.float32)
    features[..., :2] = (confidence > 0) * seen / spread
    features[..., 2:4] = centre[..., None, :]
    features[..., 4:5] = np.log(spread) - MEAN_LOG_SPREAD
    features[..., 5:] = confidence
    return features, rotation


def rotation_to(centre: Array) -> Array:
    """The smallest rotation that takes a ray ``(..., 2)`` to the z axis, ``(..., 3, 3)``."""
    length = 1.0 / np.sqrt(1.0 + np.square(centre).sum(axis=-1, keepdims=True))
    x, y = np.moveaxis(centre * length, -1, 0)
    z = length[..., 0]
    fold = 1.0 / (1.0 + z)
    rows = [1.0 - x * x * fold, -x * y * fold, -x, -x * y * fold, 1.0 - y * y * fold, -y, x, y, z]
    return np.stack(rows, axis=-1).reshape(*centre.shape[:-1], 3, 3).astype(np.float32)


def turned(pose_3d: Array, rotation: Array | None) -> Array:
    """A pose ``(..., J, 3)`` in the axes of the virtual camera."""
    return pose_3d if rotation is None else pose_3d @ np.swapaxes(rotation, -1, -2)


def turned_back(pose_3d: Array, rotation: Array | None) -> Array:
    """A pose ``(..., J, 3)`` of the virtual camera in the axes of the real one."""
    return pose_3d if rotation is None else pose_3d @ rotation


def placed(relative: Array, rotation: Array | None, root: Array) -> Array:
    """A root-relative pose of the virtual camera ``(..., J, 3)`` in the axes of the real one, joint 0 exactly ``root``.

    ``root``: ``(..., 1, 3)`` metres.
    """
    pose = turned_back(relative, rotation) + root
    pose[..., 0, :] = root[..., 0, :]
    return pose
