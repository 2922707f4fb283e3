"""The interface of every engine. An engine takes windows and returns windows, as NumPy arrays of float32."""

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
from refiner.errors import UsageError
from refiner.model_spec import DEFAULT_FPS
from refiner.skeleton import JOINT_NAMES

Array = NDArray[np.float32]

# The largest batch of an engine that takes any number of windows.
ANY_BATCH = 2**31 - 1
JOINTS = len(JOINT_NAMES)

# The names and the order of an engine's inputs, by the kind of its model; graphs have the same.
# An "action-lifter" also takes the action (FinePOSE); a "lifter-refiner" is a lifter with a refiner after it.
_INPUTS = {
    "refiner": ("pose_2d", "pose_3d", "image_size"),
    "lifter": ("pose_2d", "image_size"),
    "action-lifter": ("pose_2d", "image_size", "action"),
    "lifter-refiner": ("pose_2d", "image_size"),
    # One frame at a time. The tensors of the state follow these inputs (`refiner.causal_state`).
    CAUSAL: ("pose_2d", "pose_3d", "image_size"),
}
# Camera-aware models (`refiner.models.canonical`) take these inputs instead.
_RAY_INPUTS = {"pose_2d": "keypoints", "image_size": "camera"}
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
    """The names of an engine's inputs, in order; graphs have the same.

    Args:
        kind: the kind of the model, a key of `OUTPUTS`.
        rays: the model is camera-aware. It takes "keypoints" (x, y, confidence) instead of "pose_2d", and "camera"
            (width, height, focal length) instead of "image_size".
    """
    return [_RAY_INPUTS.get(name, name) if rays else name for name in _INPUTS[kind]]


def window_inputs(kind: str, frames: int, rays: bool = False) -> dict[str, tuple[int, ...]]:
    """The shape of each input of a window model, by name in order, without the batch axis.

    Args:
        kind: see `input_names`.
        frames: T, the number of frames in a window.
        rays: see `input_names`.
    """
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
    """The description of its model that every engine gives.

    Attributes:
        engine: the name of its row in `refiner.engines.ENGINES`.
        device: "cpu" or "cuda".
        kind: the kind of the model, a key of `OUTPUTS`.
        frames: T, the number of frames in a window; for a causal refiner the number of frames that it remembers.
        stride: the distance, in frames of the sequence, between two neighbouring frames of a window.
        fps: the model's frame rate, frames/s.
        rays: the model is camera-aware. It takes keypoints (x, y, confidence) and cameras (width, height, focal
            length); other models take 2D poses and image sizes.
        steps: the number of denoising or sampling steps K; None for a model without steps.
        actions: the names of the actions that a lifter takes (FinePOSE); empty for other models.
        uncertainty: the calibrated standard deviation of each joint, for streams; None where the model was not
            calibrated.
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
    """The values of the attributes of `Model` that most engines share."""

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
    """An engine that runs from ``least_batch`` to ``largest_batch`` windows of ``frames`` frames at a time."""

    least_batch: int
    largest_batch: int


class RefinerEngine(WindowEngine, Protocol):
    """An engine that refines windows.

    Attributes:
        inputs: the distribution of the training inputs. None where the file does not hold it, as in a graph.
        reach: only for a causal refiner, which takes sequences of any length instead of windows: the number of earlier
            frames that the result of a frame depends on. None for other refiners.
    """

    inputs: InputModel | None
    reach: int | None

    def __call__(self, pose_2d: Array, pose_3d: Array, image_size: Array) -> Array:
        """Refine a batch of windows.

        Args:
            pose_2d: ``(B, T, J, 2)`` pixels. With `rays` ``(B, T, J, 3)``, pixels and confidence; a missing joint has
                the confidence 0 and any finite x and y.
            pose_3d: ``(B, T, J, 3)`` metres in camera axes. The root may lie anywhere and is kept.
            image_size: ``(B, 2)`` width and height in pixels. With `rays` ``(B, 3)``, with the focal length; all three
                above 0.

        Returns:
            ``(B, T, J, 3)`` metres in camera axes.
        """
        ...


class LifterEngine(WindowEngine, Protocol):
    """An engine that lifts windows. A "lifter-refiner" also refines the poses that it lifts.

    Attributes:
        flip_test: whether the lifter's authors average with the mirrored pass.
        guesses_action: whether a lifter that takes an action can guess it.
        validation_curve: (training step, MPJPE in mm) pairs of the training.
    """

    flip_test: bool
    guesses_action: bool
    validation_curve: tuple[tuple[int, float], ...]

    def __call__(self, pose_2d: Array, image_size: Array, *action: Array) -> Array:
        """Lift a batch of windows.

        Args:
            pose_2d: see `RefinerEngine.__call__`.
            image_size: see `RefinerEngine.__call__`.
            action: only for a lifter with ``actions``: ``(B, 1)``, the index of the action in them. The number of
                actions stands for the unknown action; a negative number lets the lifter guess.

        Returns:
            ``(B, T, J, 3)`` metres in camera axes, root at 0.
        """
        ...


def check_kind(engine: Model, role: str, windows: bool = False) -> None:
    """Check that a model does what it is about to be used for. Every class that runs engines calls this.

    Args:
        engine: the engine of the model.
        role: a key of `KINDS_OF_ROLE`.
        windows: the model gets windows, which a causal refiner of whole sequences does not take.

    Raises:
        UsageError: the model is of another kind.
    """
    # An engine of a user's own may leave its kind out.
    if engine.kind not in ("", *KINDS_OF_ROLE[role]):
        named = {"refiner": "a refiner of sequences", "lifter": "a lifter", CAUSAL: "a causal refiner for streams"}
        raise UsageError(f"this model is a {engine.kind}; expected {named[role]}")
    if windows and getattr(engine, "reach", None) is not None:
        raise UsageError(
            "this refiner is causal and was not trained on windows, where its poses would be wrong: stream it with "
            "mode='causal', or refine whole sequences with refiner.Refiner"
        )


def lift_without_action(engine: LifterEngine, pose_2d: Array, image_size: Array) -> Array:
    """Lift windows whose action nobody named. A lifter that takes an action guesses it.

    The arguments and the result are those of `LifterEngine.__call__`.
    """
    action = (np.full((len(pose_2d), 1), GUESS, np.float32),) if engine.actions else ()
    return engine(pose_2d, image_size, *action)
