"""The results of a stream: refined frames, and counters."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from refiner.reasons import Reason, Status


@dataclass(frozen=True, eq=False)
class RefinedFrame:
    """A refined frame of one person.

    Attributes:
        timestamp: the time-stamp of the input, seconds.
        person_id: the number of the person.
        pose_3d: ``(17, 3)`` metres in camera axes, in Human3.6M's joints, with the root where the input's root was.
            Always finite.
        std: ``(17,)`` metres, the standard deviation of each joint's position along one axis; for a guessed joint it
            grows with the time since the joint was seen.
        infilled: ``(17,)``, the joints that were missing in 2D or 3D and were guessed from earlier frames.
        status: one of

            * "ok";
            * "warm-up": fewer frames than the model remembers have come since the stream began or began anew;
            * "degraded": the pose is less exact than those of the model are, or something is wrong with the input; the
              reasons say what;
            * "invalid": too few joints were seen to refine the frame; ``pose_3d`` is the last known pose.
        given_3d: ``(17, 3)`` metres, the pose of the input, or of the lifter, with the guessed joints.
        reasons: what was guessed, assumed or found (`refiner.reasons.REASONS`). The status is the worst that one of
            them means.
    """

    timestamp: float
    person_id: int
    pose_3d: NDArray[np.float32]
    std: NDArray[np.float32]
    infilled: NDArray[np.bool_]
    status: Status
    given_3d: NDArray[np.float32]
    reasons: tuple[Reason, ...] = ()


@dataclass
class StreamCounters:
    """What happened to the frames of a stream since it was opened."""

    frames: int = field(default=0, metadata={"means": "frames pushed"})
    steps: int = field(default=0, metadata={"means": "frames at the model's rate that were refined"})
    infilled_joints: int = field(default=0, metadata={"means": "joints that were missing and guessed"})
    invalid: int = field(default=0, metadata={"means": "frames with too few joints to be used"})
    repeated: int = field(default=0, metadata={"means": "frames with the time-stamp of an earlier one, dropped"})
    late: int = field(default=0, metadata={"means": "frames from before an earlier one, dropped"})
    missed: int = field(default=0, metadata={"means": "frames that never came and were interpolated"})
    restarts: int = field(default=0, metadata={"means": "times that a person was begun anew after a gap or a jump"})
    forgotten: int = field(default=0, metadata={"means": "people who were not seen for too long"})
    renumbered: int = field(default=0, metadata={"means": "people who went on under another number"})

    def as_dict(self) -> dict[str, int]:
        """The counters by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}
