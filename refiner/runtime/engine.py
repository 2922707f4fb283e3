"""The interface of every engine: windows in, windows out, NumPy float32."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.actions import GUESS
from refiner.causal_state import CAUSAL
from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.model_spec import DEFAULT_FPS
from refiner.skeleton import JOINT_NAMES

Array = NDArray[np.float32]

# Of an engine that takes any number of windows.
ANY_BATCH = 2**31 - 1
JOINTS = len(JOINT_NAMES)

# The names and the order of an engine's inputs, by the kind of its model; graphs have the same.
# "action-lifter" is a lifter that is told the action (FinePOSE); "lifter-refiner" one with a refiner behind it.
_INPUTS = {
    "refiner": ("pose_2d", "pose_3d", "image_size"),
    "lifter": ("pose_2d", "image_size"),
    "action-lifter": ("pose_2d", "image_size", "action"),
    "lifter-refiner": ("pose_2d", "image_size"),
    # One frame at a time; the state comes after these (`refiner.causal_state`).
    CAUSAL: ("pose_2d", "pose_3d", "image_size"),
}
# What camera-aware models (`refiner.models.canonical`) take in the places of two of them.
_OF_RAYS = {"pose_2d": "keypoints", "image_size": "camera"}
# The name of an engine's output; graphs have the same names.
OUTPUTS = {
    "refiner": "refined_pose_3d",
    "lifter": "pose_3d",
    "action-lifter": "pose_3d",
    "lifter-refiner": "refined_pose_3d",
    CAUSAL: "refined_pose_3d",
}
# Which kinds of model can be loaded as a `Refiner`, as a `Lifter` and for streams (`open_causal_engine`).
KINDS_OF_ROLE = {
    "refiner": ("refiner",),
    "lifter": ("lifter", "action-lifter", "lifter-refiner"),
    CAUSAL: (CAUSAL,),
}


def input_names(kind: str, rays: bool = False) -> list[str]:
    """The names and the order of an engine's inputs; graphs have the same.

    ``kind``: one of `OUTPUTS`. ``rays``: of a camera-aware model, which takes "keypoints" (x, y, confidence) and
    "camera" (width, height, focal length) in the places of "pose_2d" and "image_size".
    """
    return [_OF_RAYS.get(name, name) if rays else name for name in _INPUTS[kind]]


def window_inputs(kind: str, frames: int, rays: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of each input of a model of windows less its batch, by name in order; arguments as `input_names`."""
    shapes = {
        "pose_2d": (frames, JOINTS, 2),
        "keypoints": (frames, JOINTS, 3),
        "pose_3d": (frames, JOINTS, 3),
        "image_size": (2,),
        "camera": (3,),
        "action": (1,),
    }
    return {name: shapes[name] for name in input_names(kind, rays)}


class Model(Protocol):
    """What every engine says of its model.

    Attributes:
        engine: the name of its row in `refiner.engines.ENGINES`.
        device: "cpu" or "cuda".
        kind: one of `OUTPUTS`.
        frames: T, the length of a window, or what a causal refiner remembers.
        stride: frames of a sequence from one frame of a window to the next.
        fps: the model's frame rate, frames/s.
        rays: the model is camera-aware. It takes keypoints (x, y, confidence) and cameras (width, height, focal length)
            where others take 2D poses and image sizes.
        steps: K of a model that is refined or sampled in steps, else None.
        actions: the names of the actions that a lifter can be given (FinePOSE), else empty.
        uncertainty: how a stream tells each joint's standard deviation; None where the model was not calibrated.
        metadata: the checkpoint's configuration or the artefact's manifest as JSON, for records and for people.
    """

    engine: str
    device: str
    kind: str
    frames: int
    stride: int
    fps: float
    rays: bool
    steps: int | None
    actions: tuple[str, ...]
    uncertainty: JointUncertainty | None
    metadata: Mapping[str, Any]


class ModelDefaults:
    """The attributes of a `Model` that most models leave as they are."""

    engine = ""
    device = "cpu"
    kind = ""
    stride = 1
    fps = DEFAULT_FPS
    rays = False
    steps: int | None = None
    actions: tuple[str, ...] = ()
    uncertainty: JointUncertainty | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})


class WindowEngine(Model, Protocol):
    """Runs ``least_batch`` to ``largest_batch`` windows of ``frames`` frames at a time."""

    least_batch: int
    largest_batch: int


class RefinerEngine(WindowEngine, Protocol):
    """Refines windows.

    Attributes:
        inputs: what the training inputs looked like, where the file says so; a graph does not.
        reach: of a causal refiner, which takes sequences of any length instead of windows, the frames before a frame
            that its result depends on; None of the others.
    """

    inputs: InputModel | None
    reach: int | None

    def __call__(self, pose_2d: Array, pose_3d: Array, image_size: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, T, J, 3)`` metres, ``(B, 2)`` -> ``(B, T, J, 3)`` metres.

        With `rays`, ``(B, T, J, 3)`` pixels and confidence (0: missing, x and y any finite numbers) come first, and
        width, height and focal length ``(B, 3)``, in pixels above 0, last.
        """
        ...


class LifterEngine(WindowEngine, Protocol):
    """Lifts windows; its poses may be refined already (lifter-refiner).

    Attributes:
        flip_test: whether its authors average with the mirrored pass.
        guesses_action: whether it can guess the action where it takes one.
        validation_curve: (training step, MPJPE in mm) of its training.
    """

    flip_test: bool
    guesses_action: bool
    validation_curve: tuple[tuple[int, float], ...]

    def __call__(self, pose_2d: Array, image_size: Array, *action: Array) -> Array:
        """``(B, T, J, 2)`` pixels, ``(B, 2)`` -> ``(B, T, J, 3)`` metres, root at 0; with `rays` ``(B, T, J, 3)``
        keypoints and ``(B, 3)`` cameras, as `RefinerEngine.__call__` takes them.

        Where ``actions`` names some, ``(B, 1)`` more: a place among them, behind them the unknown action,
        below 0 where it is to be guessed.
        """
        ...


def lift_unsaid(engine: LifterEngine, pose_2d: Array, image_size: Array) -> Array:
    """Lift where nobody says the action: a lifter that takes one is left to guess. Arguments as for the engine."""
    told = (np.full((len(pose_2d), 1), GUESS, np.float32),) if engine.actions else ()
    return engine(pose_2d, image_size, *told)
