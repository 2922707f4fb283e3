"""The interface between a stream and its model: model frames in, refined model frames out.

A model frame is a frame at the model's frame rate (`refiner.runtime.streaming.frame_clock`). Every person in a stream
has a slot of the backend, a number from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.uncertainty import JointUncertainty

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FrameInput:
    """One person's pose at a model frame.

    Attributes:
        slot: the person's slot.
        keypoints: ``(17, 3)`` pixels and confidence.
        body: ``(17, 3)`` metres with the root at 0; None where the backend's lifter makes it.
        lens: ``(3,)`` width, height and focal length in pixels.
    """

    slot: int
    keypoints: Array
    body: Array | None
    lens: Array


@dataclass(frozen=True, eq=False)
class FrameOutput:
    """The refined pose of one person at a model frame.

    Attributes:
        slot: the person's slot.
        index: the number of the model frame, counted from the slot's last reset.
        unrefined: ``(17, 3)`` metres, root at 0: the pose before refinement, as it was pushed or lifted.
        refined: ``(17, 3)`` metres, root at 0: the refined pose.
    """

    slot: int
    index: int
    unrefined: Array
    refined: Array


def columns(rays: bool) -> int:
    """How many columns of `FrameInput.keypoints` and values of its lens a model takes.

    A model that sees rays takes all 3, others take 2: the pixels and the image's size.
    """
    return 3 if rays else 2


# Keypoints that `as_rays` converted, seen through this lens, give the same rays as the original pixels through their
# own lens.
UNIT_LENS = np.array([2.0, 2.0, 1.0], np.float32)


def as_rays(keypoints: Array, lens: Array) -> Array:
    """Convert keypoints ``(17, 3)`` from their own lens to `UNIT_LENS`.

    This way the frames of one window may come through different lenses.
    """
    rays = keypoints.copy()
    rays[:, :2] = (keypoints[:, :2] - 0.5 * lens[:2]) / lens[2] + 1.0
    return rays


def in_batches(model: Callable[..., Array], most: int, *inputs: Array) -> Array:
    """The output of a model for the windows of several people, in calls of up to ``most`` of them.

    Args:
        model: takes arrays with the windows in their first axis; returns such an array.
        most: the largest batch of the model.
        inputs: the model's inputs for at least one window.
    """
    starts = range(0, len(inputs[0]), most)
    parts = [model(*(part[start : start + most] for part in inputs)) for start in starts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StreamBackend(Protocol):
    """Refines the model frames of several people.

    Attributes:
        frames: the number of model frames that the model remembers.
        fps: the model's frame rate.
        delay: the largest number of model frames between an input and its output.
        slots: how many people it holds.
        lifts: whether it has a lifter, so that inputs come without a body.
        rays: whether one of its models uses the lens and the confidence.
        uncertainty: the calibrated standard deviation of each joint; None where the model was not calibrated.
        metadata: see `refiner.runtime.engine.Model`.
    """

    frames: int
    fps: float
    delay: int
    slots: int
    lifts: bool
    rays: bool
    uncertainty: JointUncertainty | None
    metadata: Mapping[str, Any]

    def feed(self, inputs: list[FrameInput]) -> list[FrameOutput]:
        """Take the next model frame of some slots, at most one each.

        Returns:
            The outputs that are ready. The outputs of a slot are in the order of their model frames.
        """
        ...

    def finish(self, slot: int) -> list[FrameOutput]:
        """End the stream of a slot and return its remaining outputs."""
        ...

    def reset(self, slot: int) -> None:
        """Make the slot's next model frame the first of a new stream."""
        ...
