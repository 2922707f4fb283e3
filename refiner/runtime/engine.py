"""The interface of every engine: windows in, windows out, NumPy float32."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.familiarity import InputModel

Array = NDArray[np.float32]

# The rate of Human3.6M, which the lifters of the field are trained at.
DEFAULT_FPS = 50.0

# The names and the order of an engine's inputs, and the name of its output; graphs have the same.
INPUTS = {"refiner": ["pose_2d", "pose_3d", "image_size"], "lifter": ["pose_2d", "image_size"]}
OUTPUTS = {"refiner": "refined_pose_3d", "lifter": "pose_3d"}


class RefinerEngine(Protocol):
    """Refines windows of ``frames`` frames at ``fps`` frames/s; ``metadata`` says what model it is."""

    frames: int
    fps: float
    metadata: dict[str, Any]
    # What the training inputs looked like, where the file says so; a graph does not.
    inputs: InputModel | None

    def __call__(self, pose_2d: Array, pose_3d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, T, J, 3)`` metres, ``(B, 2)`` -> ``(B, T, J, 3)`` metres."""
        ...


class LifterEngine(Protocol):
    """Lifts windows of ``frames`` frames at ``fps`` frames/s."""

    frames: int
    fps: float
    metadata: dict[str, Any]

    def __call__(self, pose_2d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, 2)`` -> ``(B, T, J, 3)`` metres, root at 0."""
        ...


def config_fps(config: dict[str, Any]) -> float:
    """The frame rate that a checkpoint was trained at."""
    return float(config.get("data_description", {}).get("fps", DEFAULT_FPS))
