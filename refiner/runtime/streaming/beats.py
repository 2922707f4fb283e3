"""A stream's own time-stamps against the regular beat of the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# A frame this close to a beat, in beats, counts as that beat: cameras jitter, and interpolating between
# neighbours for a few milliseconds costs more accuracy than the shift.
SNAP = 0.25
# How much of its distance the beat moves towards a frame that lies this close, where frame after frame is a beat:
# cameras within 2 % of the model's rate keep in step with it, others are resampled.
PULL, PULL_WITHIN = 0.2, 0.1
# How fast the camera's own interval is learnt, and the longest step, in intervals, that it is learnt from.
LEARNING, LONGEST_STEP = 0.1, 1.5

Verdict = Literal["in order", "repeated", "late", "restart"]


@dataclass(frozen=True)
class Beat:
    """A beat that a frame brings: ``share`` is how far it lies from the previous frame to this one, 1 being this."""

    index: int
    share: float


@dataclass(frozen=True)
class Arrival:
    """What a frame's time-stamp means: the beats that it completes, and where the frame itself lies.

    ``beat`` is the last beat at or before the frame, ``after`` how far beyond it the frame lies, in beats (0 to 1).
    ``missed`` is how many frames of the camera's own rate never came before it.
    """

    beats: tuple[Beat, ...]
    beat: int
    after: float
    missed: int = 0


@dataclass
class BeatClock:
    """Time-stamps in seconds -> beats of ``fps`` a second, counted from the first frame.

    Args:
        fps: the model's rate.
        longest_gap_s: a frame that comes later than this, or that lies this far back, begins anew.
        snap: see `SNAP`.
    """

    fps: float
    longest_gap_s: float
    snap: float = SNAP
    _origin: float = field(default=0.0, init=False)
    _last_time: float | None = field(default=None, init=False)
    _last_place: float = field(default=0.0, init=False)
    _last_beat: int = field(default=-1, init=False)
    _in_step: bool = field(default=False, init=False)
    _interval: float | None = field(default=None, init=False)

    def reset(self) -> None:
        """The next frame is the first."""
        self._last_time, self._last_beat, self._in_step, self._interval = None, -1, False, None

    def verdict(self, timestamp: float) -> Verdict:
        """What a frame of this time is; nothing changes. After "restart" the clock wants a `reset`."""
        if self._last_time is None:
            return "in order"
        passed = timestamp - self._last_time
        if abs(passed) > self.longest_gap_s:
            return "restart"
        if passed <= 0:
            return "repeated" if passed == 0 else "late"
        return "in order"

    def arrive(self, timestamp: float) -> Arrival:
        """The next frame, which is in order."""
        if self._last_time is None:
            self._origin = self._last_time = timestamp
            self._last_place, self._last_beat = 0.0, 0
            return Arrival((Beat(0, 1.0),), 0, 0.0)
        place = (timestamp - self._origin) * self.fps
        following = self._last_beat + 1
        missed = self._missed(timestamp - self._last_time)
        nearest = max(round(place), following)
        snapped = abs(place - nearest) <= self.snap
        if snapped:
            if self._in_step and nearest == following and abs(place - nearest) <= PULL_WITHIN:
                self._origin += PULL * (place - nearest) / self.fps
            place = float(nearest)
        self._in_step = snapped and nearest == following and self._last_place == self._last_beat
        beats = tuple(
            Beat(index, (index - self._last_place) / (place - self._last_place))
            for index in range(following, int(place) + 1)
        )
        self._last_time, self._last_place = timestamp, place
        if beats:
            self._last_beat = beats[-1].index
        return Arrival(beats, self._last_beat, max(place - self._last_beat, 0.0), missed)

    def _missed(self, passed: float) -> int:
        """How many frames did not come, by the camera's usual interval, which is learnt from this one too."""
        usual = passed if self._interval is None else self._interval
        self._interval = usual + LEARNING * (min(passed, LONGEST_STEP * usual) - usual)
        return max(round(passed / usual) - 1, 0)
