"""Inputs for the measurement of a model: what it sees of people, and the poses that it refines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from refiner_export.gate import parity_windows

from refiner.lens import check_lens

Array = NDArray[np.float32]


def refiner_inputs(rays: bool, frames: int) -> tuple[Array, Array, Array]:
    """One window of synthetic motion for a refiner.

    Args:
        rays: Whether the refiner takes rays.
        frames: T.

    Returns:
        Pixels ``(1, T, 17, 2)`` (with ``rays`` ``(1, T, 17, 3)``, with the confidence 1), poses ``(1, T, 17, 3)`` in
        metres, and the image's size ``(1, 2)`` (with ``rays`` ``(1, 3)``, with a focal length).
    """
    pose_2d, pose_3d, size = parity_windows(1, frames, seed=1)
    if rays:
        pose_2d = np.concatenate([pose_2d, np.ones_like(pose_2d[..., :1])], axis=-1)
        size = check_lens(size[0], quiet=True).row()[None]
    return pose_2d, pose_3d, size
