"""Percentile bootstrap of the paired difference between two evaluations, which resamples whole clips.

The errors in the frames and cameras of one clip are correlated. Resampling of frames or sequences would therefore make
the interval far too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError, UsageError
from refiner.evaluation.protocol import METRICS, EvaluationResult

Array = NDArray[np.float64]

# The number of resamples drawn at once. The counts (1024 x clips) need a few MB for thousands of clips.
CHUNK_RESAMPLES = 1024
UNITS = ("clip", "subject")


@dataclass(frozen=True)
class GainInterval:
    """The gain of the second evaluation over the first, with its bootstrap interval. Positive: the second is better.

    Attributes:
        metric: The name of the metric.
        before: The frame-wise mean error of the first evaluation, in the unit of the metric.
        after: The frame-wise mean error of the second evaluation.
        difference: ``before - after``.
        difference_low: The lower bound of the difference; NaN if there is only one unit to resample.
        difference_high: The upper bound of the difference.
        gain_percent: The difference in percent of ``before``.
        gain_percent_low: The lower bound of the gain.
        gain_percent_high: The upper bound of the gain.
        level: The confidence level of the intervals.
        resamples: The number of bootstrap samples.
        seed: The seed of the bootstrap.
        unit: The resampled unit, "clip" or "subject".
        units: The number of units.
    """

    metric: str
    before: float
    after: float
    difference: float
    difference_low: float
    difference_high: float
    gain_percent: float
    gain_percent_low: float
    gain_percent_high: float
    level: float
    resamples: int
    seed: int
    unit: str
    units: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval of the difference lies on one side of 0."""
        return self.difference_low > 0.0 or self.difference_high < 0.0


def bootstrap_difference(
    a: EvaluationResult,
    b: EvaluationResult,
    metric: str = "mpjpe",
    unit: str = "clip",
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> GainInterval:
    """Compute a percentile bootstrap interval for the difference of two frame-wise mean errors, error(a) - error(b).

    Each bootstrap sample takes the same clips (or subjects) from both evaluations. The same seed gives the same
    interval.

    Args:
        a: The evaluation before.
        b: The evaluation after, of the same sequences.
        metric: A name of `refiner.evaluation.protocol.METRICS`.
        unit: The resampled unit, "clip" or "subject".
        resamples: The number of bootstrap samples.
        level: The confidence level, between 0 and 1.
        seed: The seed of the bootstrap.

    Raises:
        InputError: The two evaluations do not score the same frames.
        UsageError: An option has an invalid value.
    """
    if metric not in METRICS:
        raise UsageError(f"unknown metric '{metric}'; known: {', '.join(METRICS)}")
    if unit not in UNITS:
        raise UsageError(f"unknown bootstrap unit '{unit}'; known: {', '.join(UNITS)}")
    if resamples < 1 or not 0.0 < level < 1.0:
        raise UsageError(f"expected resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    table = _unit_sums(a, b, metric, unit)
    # Units that are too short for this metric have no value, and a resample that holds only such units has no mean.
    table = table[table[:, 2] > 0]
    totals = table.sum(axis=0)
    if not len(table):
        before = after = math.nan
    else:
        before, after = totals[0] / totals[2], totals[1] / totals[2]
    difference_bounds = gain_bounds = (math.nan, math.nan)
    if len(table) > 1:
        sampled = _resampled_means(table, resamples, seed)
        tail = (1.0 - level) / 2.0
        differences = sampled[:, 0] - sampled[:, 1]
        difference_bounds = _bounds(differences, tail)
        gain_bounds = _bounds(_percent(differences, sampled[:, 0]), tail)
    return GainInterval(
        metric=metric,
        before=float(before),
        after=float(after),
        difference=float(before - after),
        difference_low=difference_bounds[0],
        difference_high=difference_bounds[1],
        gain_percent=float(_percent(np.array([before - after]), np.array([before]))[0]),
        gain_percent_low=gain_bounds[0],
        gain_percent_high=gain_bounds[1],
        level=level,
        resamples=resamples,
        seed=seed,
        unit=unit,
        units=len(table),
    )


def _unit_sums(a: EvaluationResult, b: EvaluationResult, metric: str, unit: str) -> Array:
    """Return ``(units, 3)``: the sum of a's errors, the sum of b's errors and the number of frames (or frame steps)."""
    second = {score.identity: score for score in b.sequences}
    if {score.identity for score in a.sequences} != set(second):
        raise InputError("the two evaluations score different sequences; a paired interval needs the same ones")
    rows: dict[tuple[str, ...], list[float]] = {}
    for score in a.sequences:
        other = second[score.identity]
        if other.counts[metric] != score.counts[metric]:
            raise InputError(
                f"{' / '.join(score.identity)}: {score.frames} frames in one evaluation, {other.frames} in the other"
            )
        key = (score.subject, score.name) if unit == "clip" else (score.subject,)
        row = rows.setdefault(key, [0.0, 0.0, 0.0])
        row[0] += score.sums[metric]
        row[1] += other.sums[metric]
        row[2] += score.counts[metric]
    return np.array(list(rows.values()), dtype=np.float64)


def _resampled_means(table: Array, resamples: int, seed: int) -> Array:
    """Draw units with replacement and return the frame-weighted means of a and b, ``(resamples, 2)``.

    The numbers of draws of the units have a multinomial distribution, so a resample is one row of a matrix product.
    """
    rng = np.random.default_rng(seed)
    units = len(table)
    means = np.empty((resamples, 2))
    for start in range(0, resamples, CHUNK_RESAMPLES):
        rows = slice(start, min(start + CHUNK_RESAMPLES, resamples))
        draws = rng.multinomial(units, np.full(units, 1.0 / units), size=rows.stop - rows.start)
        sums = draws.astype(np.float64) @ table
        means[rows] = sums[:, :2] / sums[:, 2:]
    return means


def _bounds(values: Array, tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def _percent(difference: Array, before: Array) -> Array:
    # If the error is exactly 0, the gain is 0.
    return 100.0 * np.divide(difference, before, out=np.zeros_like(difference), where=before != 0.0)
