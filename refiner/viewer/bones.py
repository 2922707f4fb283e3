"""Skeletons as lines, for the live view and the video."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.skeleton import H36M17

BEFORE, AFTER = "#d1602b", "#1f6fb4"
BONES = np.array(H36M17.bones)


def bone_ends(pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """The ends of every bone, parent and joint, ``(16, 2, 3)``, of a pose ``(17, 3)``."""
    ends: NDArray[np.float32] = pose_3d[BONES]
    return ends


def upright(pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a pose from camera axes (x right, y down, z away) to x right, y away, z up, with the root at 0."""
    body = pose_3d - pose_3d[..., :1, :]
    turned: NDArray[np.float32] = np.stack([body[..., 0], body[..., 2], -body[..., 1]], axis=-1)
    return turned


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour like "#d1602b"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
