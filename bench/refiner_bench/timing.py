"""Timing of several contestants in one run, ratios with confidence intervals, and the machine's own best rates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

if TYPE_CHECKING:
    import torch

# Threads of OpenMP and OpenBLAS keep a processor busy for up to 0.2 s after a call. Without a pause they would take
# processor time from the next contestant.
PAUSE_S = 0.25
# The 97.5th percentile of the standard normal distribution.
NORMAL = 1.96
BOOTSTRAP_DRAWS = 4000

Run = Callable[[], object]


class Contestant(NamedTuple):
    """One contestant of a timed run: ``run()`` processes ``items`` items (poses, windows, operations, bytes, ...)."""

    items: int
    run: Run


@dataclass(frozen=True)
class Ratio:
    """A ratio of two speeds with its 95 % interval. The field names are the keys of the JSON reports."""

    ratio: float
    low: float
    high: float


def interleaved(
    contestants: Mapping[str, Contestant], rounds: int, warm_up: int = 1, turn_s: float = 0.0
) -> dict[str, list[float]]:
    """Time all contestants in alternating turns, so that a change of the machine's speed affects all of them.

    In every round each contestant has one turn. The order rotates by one position from round to round.

    Args:
        contestants: The contestants by name.
        rounds: The number of rounds that count.
        warm_up: The number of rounds before them that don't count.
        turn_s: The least duration of a turn in seconds. A turn is one call, or as many calls as fill this time; then
            the median call counts. Short calls need it: a single call of one millisecond after the pause would measure
            how fast the processor wakes up.

    Returns:
        By name, the items per second of every round.
    """
    names = list(contestants)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            items, run = contestants[name]
            time.sleep(PAUSE_S)
            seconds = [_timed(run)]
            while sum(seconds) < turn_s:
                seconds.append(_timed(run))
            if number >= warm_up:
                rates[name].append(items / float(np.median(seconds)))
    return rates


def _timed(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def ratio_interval(ratios: NDArray[np.float64]) -> Ratio:
    """The median of the ratios with a 95 % bootstrap interval over rounds.

    A bootstrap from few rounds gives an interval that is too narrow: with seven rounds it would contain the true ratio
    much less often than in 95 % of the cases. The interval is therefore widened, by the factor by which Student's t
    interval of a mean is wider for so few values than for many.

    Args:
        ratios: The ratio in each round, ``(rounds,)``.
    """
    draws = np.median(np.random.default_rng(0).choice(ratios, (BOOTSTRAP_DRAWS, len(ratios))), axis=1)
    middle, rounds = float(np.median(ratios)), len(ratios)
    low, high = np.percentile(draws, [2.5, 97.5])
    if rounds > 1:
        factor = math.sqrt(rounds / (rounds - 1)) * float(t.ppf(0.975, rounds - 1)) / NORMAL
        low, high = middle * (low / middle) ** factor, middle * (high / middle) ** factor
    return Ratio(middle, float(low), float(high))


def large_product(dtype: torch.dtype) -> Contestant:
    """The product of two random 1024 x 1024 matrices in ``dtype``; its items are floating-point operations.

    In float32 on a CPU it is the faster one of the products that PyTorch's libraries give: on some processors MKL,
    which `torch.mm` takes, leaves half of the vector unit idle, and oneDNN does not.
    """
    import torch

    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    operations = 2 * 1024**3
    products: list[Run] = [lambda: torch.mm(left, right)]
    # The operations that torch.compile uses. They have no public name.
    if dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        packed = torch.ops.mkldnn._reorder_linear_weight(right, len(left))
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], ""))
    return Contestant(operations, max(products, key=lambda run: best_rate(operations, run)))


def large_copy() -> Contestant:
    """A copy of 64 MiB; its items are the bytes that it reads and writes."""
    import torch

    source = torch.ones(64 * 2**20 // 4)
    target = torch.empty_like(source)
    return Contestant(2 * source.numel() * 4, lambda: target.copy_(source))


def best_rate(items: int, run: Run) -> float:
    """Items per second of the fastest of ten calls of ``run``."""
    return items / min(_timed(run) for _ in range(10))
