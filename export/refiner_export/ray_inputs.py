"""What camera-aware models see beside the 2D pose, made up for windows of a comparison: confidences and lenses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refiner.camera import default_focal_length
from refiner.data.clips import CameraClip

Array = NDArray[np.float32]

# Share of the joints that a detector misses, of the frames in which it misses all of them, and of the windows whose
# detector says nothing of confidence; the least confidence of a joint that it found.
MISSING_JOINTS, MISSING_FRAMES, ALL_SURE, LEAST_CONFIDENCE = 0.05, 0.01, 0.25, 0.2
# Share of the motion windows whose lens nobody knows.
UNKNOWN_LENS = 0.5
# Focal lengths of wild windows, in units of the longer side of the image.
WILD_FOCAL = (0.4, 8.0)


def confidences(windows: int, frames: int, rng: np.random.Generator, wild: bool = False) -> Array:
    """``(N, T, 17)`` from 0 (missing) to 1; in ``wild`` windows six times as much is missing."""
    times = 6.0 if wild else 1.0
    values = rng.uniform(LEAST_CONFIDENCE, 1.0, (windows, frames, 17))
    values[rng.random(values.shape) < times * MISSING_JOINTS] = 0.0
    values[rng.random((windows, frames)) < times * MISSING_FRAMES] = 0.0
    if not wild:
        values[rng.random(windows) < ALL_SURE] = 1.0
    return values.astype(np.float32)


def focal_lengths(clips: Sequence[CameraClip], rng: np.random.Generator) -> Array:
    """``(N,)`` pixels: that of each clip's lens, or the default of its image where it has none or nobody knows it."""
    unknown = rng.random(len(clips)) < UNKNOWN_LENS
    return np.array(
        [
            default_focal_length(clip.image_size) if hidden or clip.lens is None else clip.lens.focal_length.mean()
            for clip, hidden in zip(clips, unknown, strict=True)
        ],
        np.float32,
    )


def wild_focal_lengths(image_size: Array, rng: np.random.Generator) -> Array:
    """``(N, 2)`` -> ``(N,)`` pixels, from a fisheye's to a long tele lens's."""
    shortest, longest = np.log(WILD_FOCAL)
    units = np.exp(rng.uniform(shortest, longest, len(image_size)))
    focal: Array = (units * image_size.max(axis=1)).astype(np.float32)
    return focal


def ray_inputs(pose_2d: Array, confidence: Array, image_size: Array, focal_length: Array) -> tuple[Array, Array]:
    """The inputs ``keypoints`` ``(N, T, 17, 3)`` and ``camera`` ``(N, 3)`` of their parts."""
    keypoints = np.concatenate([pose_2d, confidence[..., None]], axis=-1)
    return keypoints, np.concatenate([image_size, focal_length[:, None]], axis=-1)
