"""Skeletons as lines, for the live view and the video."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from refiner.skeleton import H36M17

BEFORE, AFTER = "#d1602b", "#1f6fb4"
BONES = np.array(H36M17.bones)
# The person's own left and right; in between lie the trunk and the head.
LEFT, RIGHT, MIDDLE = "#1f6fb4", "#d1602b", "#8a8a8a"

# The joints' names in words, like "left wrist" for "LWrist".
READABLE = tuple(
    {"L": "left ", "R": "right "}[name[0]] + name[1:].lower() if name[0] in "LR" and name[1].isupper() else name.lower()
    for name in H36M17.joint_names
)


def side_colours(joints: Iterable[int]) -> list[str]:
    """The colour of each of these joints of Human3.6M's 17, by its side of the body."""
    return [LEFT if joint in H36M17.left else RIGHT if joint in H36M17.right else MIDDLE for joint in joints]


def bone_ends(pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """The ends of every bone, parent and joint, ``(16, 2, 3)``, of a pose ``(17, 3)``."""
    ends: NDArray[np.float32] = pose_3d[BONES]
    return ends


def upright(pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn a pose from camera axes (x right, y down, z away) to x right, y away, z up, with the root at 0."""
    body = pose_3d - pose_3d[..., :1, :]
    turned: NDArray[np.float32] = np.stack([body[..., 0], body[..., 2], -body[..., 1]], axis=-1)
    return turned


def standing(pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
    """`upright`, with the lowest joint on the floor, z = 0, below or above the root's own place."""
    body = upright(pose_3d)
    body[:, 2] -= body[:, 2].min()
    return body


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour like "#d1602b"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
