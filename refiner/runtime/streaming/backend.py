"""What runs behind a stream: beats in, refined beats out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.uncertainty import JointUncertainty

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BeatInput:
    """A person's pose at a beat: ``slot`` is the person's place, ``keypoints`` ``(17, 3)`` pixels and confidence,
    ``body`` ``(17, 3)`` metres with the root at 0 or None where a lifter makes it, ``lens`` ``(3,)`` width, height and
    focal length."""

    slot: int
    keypoints: Array
    body: Array | None
    lens: Array


@dataclass(frozen=True, eq=False)
class BeatOutput:
    """What became of beat ``index`` of a slot, counted from its last reset.

    ``given`` and ``refined`` ``(17, 3)``, root at 0: the pose that went in (or was lifted), and the refined one.
    """

    slot: int
    index: int
    given: Array
    refined: Array


def columns(rays: bool) -> int:
    """How many columns of keypoints and lens a model takes: all 3 where it sees rays, else pixels and image size."""
    return 3 if rays else 2


# A lens whose pixels are rays; see `as_rays`.
UNIT_LENS = np.array([2.0, 2.0, 1.0], np.float32)


def as_rays(keypoints: Array, lens: Array) -> Array:
    """Keypoints ``(17, 3)`` as `UNIT_LENS` sees them, so that frames of a window may differ in their lenses."""
    rays = keypoints.copy()
    rays[:, :2] = (keypoints[:, :2] - 0.5 * lens[:2]) / lens[2] + 1.0
    return rays


class StreamBackend(Protocol):
    """``frames``: the model's memory; ``fps`` its rate; ``delay`` the beats by which an output comes after its input,
    at most; ``slots`` how many people it holds; ``lifts`` whether beats come without a body."""

    frames: int
    fps: float
    delay: int
    slots: int
    lifts: bool
    # Whether one of the models takes the lens and the confidence into account.
    rays: bool
    uncertainty: JointUncertainty | None
    metadata: Mapping[str, Any]

    def feed(self, inputs: list[BeatInput]) -> list[BeatOutput]:
        """At most one beat of each slot; the outputs that are due, in the order of their beats."""
        ...

    def finish(self, slot: int) -> list[BeatOutput]:
        """What is still owed to a slot whose stream ends here."""
        ...

    def reset(self, slot: int) -> None:
        """The slot's next beat is the first of a new stream."""
        ...
