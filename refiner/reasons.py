"""Why a result is not simply "ok": the reasons that streams and recordings give, and the status that each one means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputWarning

Status = Literal["ok", "warm-up", "degraded", "invalid"]
# From the best to the worst.
STATUSES: tuple[Status, ...] = ("ok", "warm-up", "degraded", "invalid")

# What is wrong with 3D poses beside their 2D poses (`refiner.data.agreement`).
DisagreementKind = Literal[
    "axes",
    "mirrored",
    "joint order",
    "rows and columns",
    "image size",
    "frames shifted",
    "scale",
    "unusual size",
    "no fit",
]
Reason = Literal[
    DisagreementKind,
    "lens assumed",
    "lens unused",
    "spread assumed",
    "resampled",
    "uneven time-stamps",
    "missed frame",
    "renumbered",
    "sides exchanged",
    "warm-up",
    "began anew",
    "guessed joints",
    "after guessed joints",
    "gap",
    "after a gap",
    "small in the image",
    "outside the image",
    "unfamiliar",
    "too few joints",
]


DISAGREEMENTS: frozenset[Reason] = frozenset(get_args(DisagreementKind))


@dataclass(frozen=True)
class Meaning:
    """What a reason means.

    Attributes:
        status: the status of a frame that has this reason alone.
        text: what was done or found.
    """

    status: Status
    text: str


REASONS: Mapping[Reason, Meaning] = MappingProxyType(
    {
        "lens assumed": Meaning("ok", "nobody stated a focal length; the longer side of the image was taken"),
        "lens unused": Meaning("ok", "a focal length or a camera was given to a model of image coordinates"),
        "spread assumed": Meaning("ok", "the model was not calibrated: `std` is a guess"),
        "resampled": Meaning("ok", "the frame lies between two frames of the model's rate"),
        "uneven time-stamps": Meaning("ok", "the time-stamps are less regular than a camera's"),
        "missed frame": Meaning("ok", "a frame or two before this one never came and were interpolated"),
        "renumbered": Meaning("ok", "the person had another number before; the place of the body decided"),
        "sides exchanged": Meaning("ok", "the detector had left and right confused; they were exchanged"),
        "warm-up": Meaning("warm-up", "the model remembers more frames than have come"),
        "began anew": Meaning("warm-up", "after a gap or a jump of the time-stamps, earlier frames are forgotten"),
        "guessed joints": Meaning("degraded", "joints of this frame were not seen (`infilled`)"),
        "after guessed joints": Meaning("degraded", "joints of the last frames were not seen, which still shows"),
        "gap": Meaning("degraded", "so many frames before this one never came that the error grows"),
        "after a gap": Meaning("degraded", "the frames after a gap, as long as its error lasts"),
        "small in the image": Meaning("degraded", "the person has hardly 25 pixels"),
        "outside the image": Meaning("degraded", "many joints lie outside of the image; is its size right?"),
        "unfamiliar": Meaning("degraded", "the poses do not look like those that the refiner was trained on"),
        "axes": Meaning("degraded", "y or z points upwards in 2D or 3D"),
        "mirrored": Meaning("degraded", "2D or 3D is a mirror image"),
        "joint order": Meaning("degraded", "the joints have another order than the stated one"),
        "rows and columns": Meaning("degraded", "the 2D has y before x"),
        "image size": Meaning("degraded", "width and height of the image are swapped"),
        "frames shifted": Meaning("degraded", "the 3D is of earlier or later frames than the 2D"),
        "scale": Meaning("degraded", "nobody has legs of that length: the 3D is not in metres"),
        "unusual size": Meaning("degraded", "the legs of the 3D are those of a small child or a giant"),
        "no fit": Meaning("degraded", "2D and 3D have nothing to do with each other"),
        "too few joints": Meaning("invalid", "fewer than 6 joints were seen: there is no pose"),
    }
)


def status_of(reasons: Iterable[Reason]) -> Status:
    """The worst status that one of the reasons means; "ok" without a reason."""
    return max((REASONS[reason].status for reason in reasons), key=STATUSES.index, default="ok")


@dataclass(frozen=True, eq=False)
class Note:
    """What was found in a recording, or done to it.

    Attributes:
        reason: in a word.
        message: in a sentence, with the remedy.
        frames: ``(F,)``, the frames that it is about; None for all.
    """

    reason: Reason
    message: str
    frames: NDArray[np.bool_] | None = field(default=None, repr=False)

    def warn(self, stacklevel: int, category: type[InputWarning] = InputWarning) -> Note:
        """Warn of it, with the ``stacklevel`` of `warnings.warn` at the place of this call; returns the note."""
        warnings.warn(self.message, category, stacklevel=stacklevel + 1)
        return self

    def as_dict(self) -> dict[str, Any]:
        """As JSON: the reason, the message, and how many frames from which one on; without them for all frames."""
        entry: dict[str, Any] = {"reason": self.reason, "message": self.message}
        if self.frames is not None:
            entry |= {"frames": int(self.frames.sum()), "first_frame": int(np.argmax(self.frames))}
        return entry
