"""Contestants side by side in one run, ratios with intervals, and the rate of the machine's products."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

# Threads of OpenMP and OpenBLAS spin for up to 0.2 s after a call, and would take the next contestant's processor.
PAUSE_S = 0.25

Run = Callable[[], Any]


def interleaved(contestants: dict[str, tuple[int, Run]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Items/s of every contestant ``name -> (items, run)`` in each round, in an order that turns by one each round;
    ``warm_up`` rounds before the first are not counted."""
    names = list(contestants)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            items, run = contestants[name]
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            run()
            if number >= warm_up:
                rates[name].append(items / (time.perf_counter() - began))
    return rates


def ratio_interval(ratios: NDArray[np.float64]) -> dict[str, float]:
    """Median ratio over rounds with the bootstrap's 95 % interval."""
    draws = np.median(np.random.default_rng(0).choice(ratios, (4000, len(ratios))), axis=1)
    return {
        "ratio": float(np.median(ratios)),
        "low": float(np.percentile(draws, 2.5)),
        "high": float(np.percentile(draws, 97.5)),
    }


def product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product in ``dtype``, the best of ten."""
    import torch

    left, right = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    rates = []
    for _ in range(10):
        began = time.perf_counter()
        torch.mm(left, right)
        rates.append(2 * 1024**3 / (time.perf_counter() - began))
    return max(rates)
