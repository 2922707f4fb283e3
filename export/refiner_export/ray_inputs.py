"""Random confidences and lenses for the windows of a comparison, as inputs of camera-aware models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refiner.camera import default_focal_length
from refiner.data.clips import CameraClip

Array = NDArray[np.float32]

# The share of the joints that a detector misses, of the frames in which it misses all joints, and of the windows whose
# detector gives no confidence; the smallest confidence of a detected joint.
MISSING_JOINTS, MISSING_FRAMES, ALL_SURE, LEAST_CONFIDENCE = 0.05, 0.01, 0.25, 0.2
# The share of the motion windows whose lens is unknown.
UNKNOWN_LENS = 0.5
# The range of the focal lengths of wild windows, in units of the longer side of the image.
WILD_FOCAL = (0.4, 8.0)


def confidences(windows: int, frames: int, rng: np.random.Generator, wild: bool = False) -> Array:
    """Random confidences ``(N, T, 17)`` from 0 (missing) to 1. In ``wild`` windows six times as many are missing."""
    times = 6.0 if wild else 1.0
    values = rng.uniform(LEAST_CONFIDENCE, 1.0, (windows, frames, 17))
    values[rng.random(values.shape) < times * MISSING_JOINTS] = 0.0
    values[rng.random((windows, frames)) < times * MISSING_FRAMES] = 0.0
    if not wild:
        values[rng.random(windows) < ALL_SURE] = 1.0
    return values.astype(np.float32)


def focal_lengths(clips: Sequence[CameraClip], rng: np.random.Generator) -> Array:
    """The focal lengths of clips, ``(N,)`` pixels; the default of the image where the lens is unknown or hidden."""
    unknown = rng.random(len(clips)) < UNKNOWN_LENS
    return np.array(
        [
            default_focal_length(clip.image_size) if hidden or clip.lens is None else clip.lens.focal_length.mean()
            for clip, hidden in zip(clips, unknown, strict=True)
        ],
        np.float32,
    )


def wild_focal_lengths(image_size: Array, rng: np.random.Generator) -> Array:
    """Random focal lengths ``(N,)`` in pixels, from a fisheye to a long tele lens, for images of ``(N, 2)`` pixels."""
    shortest, longest = np.log(WILD_FOCAL)
    units = np.exp(rng.uniform(shortest, longest, len(image_size)))
    focal: Array = (units * image_size.max(axis=1)).astype(np.float32)
    return focal


def ray_inputs(pose_2d: Array, confidence: Array, image_size: Array, focal_length: Array) -> tuple[Array, Array]:
    """Join the parts to the inputs ``keypoints`` ``(N, T, 17, 3)`` and ``camera`` ``(N, 3)``."""
    keypoints = np.concatenate([pose_2d, confidence[..., None]], axis=-1)
    return keypoints, np.concatenate([image_size, focal_length[:, None]], axis=-1)
