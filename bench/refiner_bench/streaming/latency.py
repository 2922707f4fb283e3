"""Latency per frame of a live stream: percentiles over single calls, measured in alternating turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from refiner_bench.timing import Ratio, ratio_interval

PERCENTILES = (50.0, 99.0, 99.9)
# Calls in a turn of a contestant. A turn is so long that the model's weights are in the caches again for most calls.
TURN = 100
Array = NDArray[np.float64]
# Processes one frame, whose number it receives.
FrameRun = Callable[[int], object]


@dataclass(frozen=True)
class StreamTimes:
    """The measurement of one contestant of a live stream.

    Attributes:
        percentiles: The percentiles of single calls in milliseconds, by the keys of `percentiles`.
        calls: The number of calls.
        faster_than_rival: How many times as fast as the rival it was.
        of_ms: The intended duration of an empty loop; None for other contestants.
    """

    percentiles: dict[str, float]
    calls: int
    faster_than_rival: Ratio
    of_ms: float | None = None

    def to_json(self) -> dict[str, object]:
        """The entry of the JSON report."""
        entry = {**self.percentiles, "calls": self.calls, "faster_than_rival": asdict(self.faster_than_rival)}
        return entry if self.of_ms is None else entry | {"of_ms": self.of_ms}


def percentiles(milliseconds: Array) -> dict[str, float]:
    """The percentiles of single calls: the keys ``p50_ms``, ``p99_ms`` and ``p99.9_ms`` of the JSON report."""
    return {
        f"p{name:g}_ms": float(value)
        for name, value in zip(PERCENTILES, np.percentile(milliseconds, PERCENTILES), strict=True)
    }


def in_turns(
    contestants: Mapping[str, tuple[int, FrameRun]], frames: int, warm_up: int = TURN
) -> dict[str, list[Array]]:
    """Time single calls. The contestants take turns until the first one has processed ``frames`` frames.

    Args:
        contestants: By name, the number of calls in a turn and the function to call.
        frames: The number of frames of the first contestant.
        warm_up: The number of calls of each contestant before the first turn, at most the calls of a turn.

    Returns:
        By name, an array for each turn with the milliseconds of every call.
    """
    for calls, run in contestants.values():
        for frame in range(min(calls, warm_up)):
            run(frame)
    first = next(iter(contestants.values()))[0]
    turns: dict[str, list[Array]] = {name: [] for name in contestants}
    for turn in range(max(1, frames // first)):
        for name, (calls, run) in contestants.items():
            nanoseconds = np.empty(calls)
            for call in range(calls):
                began = time.perf_counter_ns()
                run(turn * calls + call)
                nanoseconds[call] = time.perf_counter_ns() - began
            turns[name].append(nanoseconds / 1e6)
    return turns


def summary(turns: Mapping[str, Sequence[Array]], rival: str) -> dict[str, StreamTimes]:
    """Summarise the times of every contestant.

    Args:
        turns: The result of `in_turns`.
        rival: The name of the contestant that the others are compared with. The ratio of a turn is that of the two
            medians in this turn.
    """
    times = {}
    for name, own_turns in turns.items():
        pairs = zip(own_turns, turns[rival], strict=True)
        ratios = np.array([np.median(rival_turn) / np.median(own) for own, rival_turn in pairs])
        calls = int(sum(map(len, own_turns)))
        times[name] = StreamTimes(percentiles(np.concatenate(own_turns)), calls, ratio_interval(ratios))
    return times


def spin(milliseconds: float) -> Callable[[int], None]:
    """An empty loop of a given duration. Longer calls of it show the jitter of the machine."""

    def run(frame: int) -> None:
        until = time.perf_counter_ns() + 1e6 * milliseconds
        while time.perf_counter_ns() < until:
            pass

    return run
