"""Milliseconds a frame: a causal step beside the window that would have to run again, percentiles over single calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner_bench.timing import ratio_interval

PERCENTILES = (50.0, 99.0, 99.9)
# Frames between two turns of a contestant; long enough that its weights are in the caches again for most of them.
TURN = 100
Array = NDArray[np.float64]


def percentiles(milliseconds: Array) -> dict[str, float]:
    """p50, p99 and p99.9 of single calls."""
    return {
        f"p{name:g}_ms": float(value)
        for name, value in zip(PERCENTILES, np.percentile(milliseconds, PERCENTILES), strict=True)
    }


def in_turns(
    contestants: dict[str, tuple[int, Callable[[int], Any]]], frames: int, warm_up: int = TURN
) -> dict[str, list[Array]]:
    """Milliseconds of every call, by turn: each contestant ``name -> (calls a turn, run(frame))`` has one after another
    until the first has run ``frames`` frames."""
    for calls, run in contestants.values():
        for frame in range(min(calls, warm_up)):
            run(frame)
    first = next(iter(contestants.values()))[0]
    found: dict[str, list[Array]] = {name: [] for name in contestants}
    for turn in range(max(1, frames // first)):
        for name, (calls, run) in contestants.items():
            taken = np.empty(calls)
            for call in range(calls):
                began = time.perf_counter_ns()
                run(turn * calls + call)
                taken[call] = time.perf_counter_ns() - began
            found[name].append(taken / 1e6)
    return found


def summary(turns: dict[str, list[Array]], rival: str) -> dict[str, dict[str, Any]]:
    """Percentiles of each contestant, and how many times as fast as ``rival`` it was, from the medians of the turns."""
    found: dict[str, dict[str, Any]] = {}
    for name, taken in turns.items():
        ratios = np.array([np.median(theirs) / np.median(own) for own, theirs in zip(taken, turns[rival], strict=True)])
        found[name] = {
            **percentiles(np.concatenate(taken)),
            "calls": int(sum(map(len, taken))),
            "faster_than_rival": ratio_interval(ratios),
        }
    return found


def spin(milliseconds: float) -> Callable[[int], None]:
    """An empty loop that takes as long: what it takes longer is the machine's own jitter."""

    def run(frame: int) -> None:
        until = time.perf_counter_ns() + 1e6 * milliseconds
        while time.perf_counter_ns() < until:
            pass

    return run
