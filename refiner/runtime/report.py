"""What came of a recording: the poses, and what was guessed, assumed or found on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.reasons import STATUSES, Note, Reason, Status, status_of


@dataclass(frozen=True, eq=False)
class RefinementReport:
    """The result of `Refiner.refine_report` or `Lifter.lift_report` for a recording of F frames.

    Attributes:
        pose_3d: ``(F, 17, 3)`` metres, the result of `Refiner.refine` or `Lifter.lift`; NaN in frames without a pose.
        guessed: ``(F, 17)``: the joints that were not seen and were guessed.
        gaps: ``(F,)``: the frames that show nobody and have no pose.
        notes: what was found in the recording, or done to it. `refiner.reasons.REASONS` explains their reasons.
        std: ``(F, 17)`` metres, the standard deviation of each joint's position along one axis; None from a lifter, and
            where the refiner was not calibrated. NaN in frames without a pose.
    """

    pose_3d: NDArray[np.float32] = field(repr=False)
    guessed: NDArray[np.bool_] = field(repr=False)
    gaps: NDArray[np.bool_] = field(repr=False)
    notes: tuple[Note, ...] = ()
    std: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def reasons(self) -> tuple[tuple[Reason, ...], ...]:
        """The reasons of each frame, as `RefinedFrame.reasons` of a stream."""
        frames: list[list[Reason]] = [[] for _ in range(len(self.gaps))]
        for note in self.notes:
            for frame in range(len(frames)) if note.frames is None else np.flatnonzero(note.frames):
                if note.reason not in frames[frame]:
                    frames[frame].append(note.reason)
        return tuple(tuple(reasons) for reasons in frames)

    @property
    def status(self) -> tuple[Status, ...]:
        """The status of each frame, as `RefinedFrame.status` of a stream; "invalid" in frames without a pose."""
        found = []
        for reasons, gap in zip(self.reasons, self.gaps, strict=True):
            # A frame with too few joints in a short gap has a guessed pose.
            kept = [reason for reason in reasons if reason != "too few joints"]
            guessed: Status = "degraded" if len(kept) < len(reasons) else "ok"
            found.append("invalid" if gap else max(status_of(kept), guessed, key=STATUSES.index))
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the arrays."""
        status = self.status
        return {
            "frames": len(self.gaps),
            "status": {name: status.count(name) for name in STATUSES if name in status},
            "guessed_joints": int(self.guessed.sum()),
            "frames_without_pose": int(self.gaps.sum()),
            "notes": [note.as_dict() for note in self.notes],
        }


def guessed_note(guessed: NDArray[np.bool_], gaps: NDArray[np.bool_]) -> list[Note]:
    """A note about the guessed joints ``(F, 17)`` of frames that have a pose; none where all were seen."""
    frames = guessed.any(axis=1) & ~gaps
    if not frames.any():
        return []
    count = int(guessed[frames].sum())
    return [
        Note("guessed joints", f"{count} joints in {int(frames.sum())} frames were not seen and were guessed", frames)
    ]


def seconds_to_sight(missing: NDArray[np.bool_], rate: float) -> NDArray[np.float64]:
    """The time from each frame to the nearest one that shows the joint, ``(F, 17)`` seconds at ``rate`` frames/s.

    Args:
        missing: ``(F, 17)``.
        rate: frames/s.

    Returns:
        0 where the joint is seen, infinite where it never is.
    """
    frames = np.arange(len(missing), dtype=np.float64)[:, None]
    before = np.maximum.accumulate(np.where(missing, -np.inf, frames), axis=0)
    after = np.minimum.accumulate(np.where(missing, np.inf, frames)[::-1], axis=0)[::-1]
    return np.asarray(np.minimum(frames - before, after - frames) / rate)


def without_repetition(notes: Iterable[Note]) -> tuple[Note, ...]:
    """The notes without those that say the same as an earlier one."""
    kept: dict[str, Note] = {}
    for note in notes:
        kept.setdefault(note.message, note)
    return tuple(kept.values())


def concatenated(parts: Sequence[tuple[int, NDArray[np.float32]]], frames: int) -> NDArray[np.float32]:
    """Parts ``(first frame, (N, ...))`` of a sequence of ``frames`` frames; NaN in between."""
    whole = np.full((frames, *parts[0][1].shape[1:]), np.nan, np.float32)
    for begin, part in parts:
        whole[begin : begin + len(part)] = part
    return whole
