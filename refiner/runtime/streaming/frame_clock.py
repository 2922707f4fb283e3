"""Convert the time-stamps of a camera's frames to frames at the model's frame rate.

Two kinds of frames occur in a stream. A *camera frame* is a pose with a time-stamp, as it is pushed. A *model frame* is
one step of the model: model frames lie at regular times, ``fps`` of them a second, and are numbered from 0. Time is
measured in model frames here, so a camera frame lies at a position such as 12.3: 0.3 after model frame 12.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# A camera frame this close to a model frame, in model frames, counts as that model frame: cameras jitter, and
# interpolating between neighbours for a few milliseconds costs more accuracy than the shift.
SNAP = 0.25
# Where one camera frame after the other counts as a model frame, and a camera frame lies within PULL_WITHIN of its
# model frame, the clock moves by this share of the distance. So a camera within 2 % of the model's rate stays in step
# with it; others are resampled.
PULL, PULL_WITHIN = 0.2, 0.1
# How fast the clock learns the interval between camera frames, and the longest interval that it learns from, as a
# multiple of the usual one.
LEARNING, LONGEST_STEP = 0.1, 1.5
# Time-stamps are uneven where they lie this share of the usual interval from where they should, on average.
UNEVEN = 0.15

Verdict = Literal["in order", "repeated", "late", "restart"]


@dataclass(frozen=True)
class ModelFrame:
    """A model frame that a camera frame completes.

    Attributes:
        index: the number of the model frame.
        share: its position between the previous camera frame (0) and this one (1).
    """

    index: int
    share: float


@dataclass(frozen=True)
class Arrival:
    """The meaning of a camera frame's time-stamp.

    Attributes:
        completed: the model frames after the previous camera frame, up to and with this one.
        last_index: the last model frame at or before this camera frame.
        after: the distance of this camera frame from ``last_index``, in model frames (0 to 1).
        missed: how many camera frames, by the camera's own rate, never came before this one.
        uneven: the time-stamps of the last frames are far from regular.
    """

    completed: tuple[ModelFrame, ...]
    last_index: int
    after: float
    missed: int = 0
    uneven: bool = False


@dataclass
class FrameClock:
    """Converts the time-stamps of one person's camera frames, in seconds, to model frames.

    Model frame 0 is the first camera frame.

    Args:
        fps: the model's frame rate.
        longest_gap_s: the stream of a person begins anew with a camera frame that comes later than this after the
            previous one, or lies this far before it.
        snap: see `SNAP`.
    """

    fps: float
    longest_gap_s: float
    snap: float = SNAP
    _origin: float = field(default=0.0, init=False)
    _last_time: float | None = field(default=None, init=False)
    _last_position: float = field(default=0.0, init=False)
    _last_index: int = field(default=-1, init=False)
    _in_step: bool = field(default=False, init=False)
    _interval: float | None = field(default=None, init=False)
    _unevenness: float = field(default=0.0, init=False)

    def reset(self) -> None:
        """Make the next camera frame the first one."""
        self._last_time, self._last_index, self._in_step, self._interval = None, -1, False, None
        self._unevenness = 0.0

    def verdict(self, timestamp: float) -> Verdict:
        """Classify a camera frame by its time-stamp. This changes nothing.

        Returns:
            "in order": `arrive` takes the frame. "repeated" or "late": the frame is of no use. "restart": the frame
            comes after too long a gap, so the caller must `reset` the clock first.
        """
        if self._last_time is None:
            return "in order"
        passed = timestamp - self._last_time
        if abs(passed) > self.longest_gap_s:
            return "restart"
        if passed <= 0:
            return "repeated" if passed == 0 else "late"
        return "in order"

    def arrive(self, timestamp: float) -> Arrival:
        """Take the next camera frame, which must be in order (`verdict`)."""
        if self._last_time is None:
            self._origin = self._last_time = timestamp
            self._last_position, self._last_index = 0.0, 0
            return Arrival((ModelFrame(0, 1.0),), 0, 0.0)
        position = (timestamp - self._origin) * self.fps
        following = self._last_index + 1
        missed = self._missed(timestamp - self._last_time)
        nearest = max(round(position), following)
        snapped = abs(position - nearest) <= self.snap
        if snapped:
            if self._in_step and nearest == following and abs(position - nearest) <= PULL_WITHIN:
                self._origin += PULL * (position - nearest) / self.fps
            position = float(nearest)
        self._in_step = snapped and nearest == following and self._last_position == self._last_index
        completed = tuple(
            ModelFrame(index, (index - self._last_position) / (position - self._last_position))
            for index in range(following, int(position) + 1)
        )
        self._last_time, self._last_position = timestamp, position
        if completed:
            self._last_index = completed[-1].index
        uneven = self._unevenness > UNEVEN
        return Arrival(completed, self._last_index, max(position - self._last_index, 0.0), missed, uneven)

    def _missed(self, passed: float) -> int:
        """How many camera frames did not come in ``passed`` seconds, by the camera's usual interval.

        The usual interval is then adapted to this one.
        """
        usual = passed if self._interval is None else self._interval
        off = abs(passed / usual - max(round(passed / usual), 1))
        self._unevenness += LEARNING * (off - self._unevenness)
        self._interval = usual + LEARNING * (min(passed, LONGEST_STEP * usual) - usual)
        return max(round(passed / usual) - 1, 0)
