"""Contestants side by side in one run, ratios with intervals, and the rate of the machine's products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

if TYPE_CHECKING:
    import torch

# Threads of OpenMP and OpenBLAS spin for up to 0.2 s after a call, and would take the next contestant's processor.
PAUSE_S = 0.25
# The normal distribution's 97.5th percentile.
NORMAL = 1.96

Run = Callable[[], Any]


def interleaved(
    contestants: dict[str, tuple[int, Run]], rounds: int, warm_up: int = 1, turn_s: float = 0.0
) -> dict[str, list[float]]:
    """Items/s of every contestant ``name -> (items, run)`` in each round, in an order that turns by one each round;
    ``warm_up`` rounds before the first are not counted.

    A turn is one call, or as many as fill ``turn_s`` seconds, whose median counts: a call of a millisecond after the
    pause would tell how fast the processor wakes up.
    """
    names = list(contestants)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            items, run = contestants[name]
            time.sleep(PAUSE_S)
            taken = [_timed(run)]
            while sum(taken) < turn_s:
                taken.append(_timed(run))
            if number >= warm_up:
                rates[name].append(items / float(np.median(taken)))
    return rates


def _timed(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ratio_interval(ratios: NDArray[np.float64]) -> dict[str, float]:
    """Median ratio over rounds with the bootstrap's 95 % interval, which is widened where rounds are few: drawn from
    seven of them it would cover the truth far less often than it says."""
    draws = np.median(np.random.default_rng(0).choice(ratios, (4000, len(ratios))), axis=1)
    middle, rounds = float(np.median(ratios)), len(ratios)
    low, high = np.percentile(draws, [2.5, 97.5])
    if rounds > 1:
        # As an interval of a mean of so many would be wider than one of many.
        wider = math.sqrt(rounds / (rounds - 1)) * float(t.ppf(0.975, rounds - 1)) / NORMAL
        low, high = middle * (low / middle) ** wider, middle * (high / middle) ** wider
    return {"ratio": middle, "low": float(low), "high": float(high)}


def large_product(dtype: torch.dtype) -> tuple[int, Run]:
    """A large matrix product in ``dtype``: its operations, and what runs it."""
    import torch

    left, right = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    return 2 * 1024**3, lambda: torch.mm(left, right)


def large_copy() -> tuple[int, Run]:
    """A copy of 64 MiB: the bytes that it reads and writes, and what runs it."""
    import torch

    source = torch.ones(64 * 2**20 // 4)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4, lambda: target.copy_(source)


def best_rate(amount: int, run: Run) -> float:
    """``amount`` per second of the fastest of ten runs."""
    return amount / min(_timed(run) for _ in range(10))
