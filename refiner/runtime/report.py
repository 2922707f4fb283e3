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
        everywhere: NDArray[np.bool_] = np.ones(len(self.gaps), dtype=bool)
        marks = [everywhere if note.frames is None else np.asarray(note.frames) for note in self.notes]
        # Most frames have the same notes as others.
        of_marks: dict[bytes, tuple[Reason, ...]] = {}
        found = []
        for row in np.stack([everywhere, *marks], axis=1):
            key = row.tobytes()
            if key not in of_marks:
                reasons = [note.reason for note, marked in zip(self.notes, row[1:], strict=True) if marked]
                of_marks[key] = tuple(dict.fromkeys(reasons))
            found.append(of_marks[key])
        return tuple(found)

    @property
    def status(self) -> tuple[Status, ...]:
        """The status of each frame, as `RefinedFrame.status` of a stream; "invalid" in frames without a pose."""
        return self._status_of(self.reasons)

    def _status_of(self, of_frames: Sequence[tuple[Reason, ...]]) -> tuple[Status, ...]:
        # Most frames have the reasons of others.
        of_reasons = {reasons: _status_of_posed(reasons) for reasons in set(of_frames)}
        return tuple(
            "invalid" if gap else of_reasons[reasons] for reasons, gap in zip(of_frames, self.gaps, strict=True)
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the .npz that `refiner-refine` writes: the poses, and what is to be said of each frame."""
        reasons = self.reasons
        arrays = {
            "refined_pose_3d": self.pose_3d,
            "guessed": self.guessed,
            "status": np.array(self._status_of(reasons)),
            "reasons": np.array(["; ".join(found) for found in reasons]),
        }
        return arrays if self.std is None else {**arrays, "std": self.std}

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


def _status_of_posed(reasons: Sequence[Reason]) -> Status:
    """The status of a frame that has a pose."""
    # A frame with too few joints in a short gap has a guessed pose.
    kept = [reason for reason in reasons if reason != "too few joints"]
    guessed: Status = "degraded" if len(kept) < len(reasons) else "ok"
    return max(status_of(kept), guessed, key=STATUSES.index)


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
