"""The interface of every engine: windows in, windows out, NumPy float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.actions import GUESS
from refiner.causal_state import CAUSAL
from refiner.diffusion.familiarity import InputModel

Array = NDArray[np.float32]

# Where the checkpoints lie that come with the package.
BUNDLED = Path(__file__).parent.parent / "checkpoints"

# The rate of Human3.6M, which the lifters of the field are trained at.
DEFAULT_FPS = 50.0
# Of an engine that takes any number of windows.
ANY_BATCH = 2**31 - 1

# The names and the order of an engine's inputs, and the name of its output; graphs have the same.
# "action-lifter" is a lifter that is told the action (FinePOSE); "lifter-refiner" one with a refiner behind it.
INPUTS = {
    "refiner": ["pose_2d", "pose_3d", "image_size"],
    "lifter": ["pose_2d", "image_size"],
    "action-lifter": ["pose_2d", "image_size", "action"],
    "lifter-refiner": ["pose_2d", "image_size"],
    # One frame at a time; the state comes after these (`refiner.causal_state`).
    CAUSAL: ["pose_2d", "pose_3d", "image_size"],
}
OUTPUTS = {
    "refiner": "refined_pose_3d",
    "lifter": "pose_3d",
    "action-lifter": "pose_3d",
    "lifter-refiner": "refined_pose_3d",
    CAUSAL: "refined_pose_3d",
}
# Which kinds of model can be loaded as a `Refiner`, as a `Lifter` and for streams (`open_causal_engine`).
SAME_ROLE = {
    "refiner": ("refiner",),
    "lifter": ("lifter", "action-lifter", "lifter-refiner"),
    "causal": (CAUSAL,),
}


class RefinerEngine(Protocol):
    """Refines windows of ``frames`` frames at ``fps`` frames/s; ``metadata`` says what model it is.

    ``least_batch`` to ``largest_batch`` windows run at a time.
    """

    frames: int
    fps: float
    least_batch: int
    largest_batch: int
    # Whether windows come as keypoints (x, y, confidence) ``(B, T, J, 3)`` with cameras (width, height, focal length)
    # ``(B, 3)`` instead of pixels and image sizes.
    rays: bool
    metadata: dict[str, Any]
    # What the training inputs looked like, where the file says so; a graph does not.
    inputs: InputModel | None
    # Of a causal refiner, which takes sequences of any length instead of windows: frames before a frame that its result
    # depends on. None of the others.
    reach: int | None

    def __call__(self, pose_2d: Array, pose_3d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, T, J, 3)`` metres, ``(B, 2)`` -> ``(B, T, J, 3)`` metres."""
        ...


class LifterEngine(Protocol):
    """Lifts windows of ``frames`` frames at ``fps`` frames/s; its poses may be refined already (lifter-refiner)."""

    frames: int
    fps: float
    least_batch: int
    largest_batch: int
    # Whether windows come as keypoints (x, y, confidence) ``(B, T, J, 3)`` with cameras (width, height, focal length)
    # ``(B, 3)`` instead of pixels and image sizes.
    rays: bool
    metadata: dict[str, Any]

    def __call__(self, pose_2d: Array, image_size: Array, *action: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, 2)`` -> ``(B, T, J, 3)`` metres, root at 0.

        Where ``metadata["actions"]`` names some, ``(B, 1)`` more: a place among them, behind them the unknown action,
        below 0 where it is to be guessed.
        """
        ...


def lift_unsaid(engine: LifterEngine, pose_2d: Array, image_size: Array) -> Array:
    """Lift where nobody says the action: a lifter that takes one is left to guess. Arguments as for the engine."""
    told = (np.full((len(pose_2d), 1), GUESS, np.float32),) if engine.metadata.get("actions") else ()
    return engine(pose_2d, image_size, *told)


def config_fps(config: dict[str, Any]) -> float:
    """The frame rate that a checkpoint was trained at."""
    return float(config.get("data_description", {}).get("fps", DEFAULT_FPS))
