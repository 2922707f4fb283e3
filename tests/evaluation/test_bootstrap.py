"""The bootstrap: known differences, no difference, clips kept together, the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refiner.errors import InputError, UsageError
from refiner.evaluation import EvaluationResult, bootstrap_difference
from refiner.evaluation.protocol import METRICS, SequenceScore


def result(errors: dict[tuple[str, str, str], np.ndarray]) -> EvaluationResult:
    """An evaluation made of given per-frame errors (mm), the same for every metric."""
    return EvaluationResult(
        tuple(
            SequenceScore(
                name=name,
                subject=subject,
                action=name.split(" ")[0],
                camera=camera,
                frames=len(values),
                sums=dict.fromkeys(METRICS, float(np.sum(values))),
                counts=dict.fromkeys(METRICS, len(values)),
            )
            for (subject, name, camera), values in errors.items()
        )
    )


def paired(
    seed: int, clips: int, difference: float, spread: float, cameras: int = 4
) -> tuple[EvaluationResult, EvaluationResult]:
    """Clips whose error falls by ``difference`` + a clip's own N(0, spread), shared by its cameras."""
    rng = np.random.default_rng(seed)
    before, after = {}, {}
    for clip in range(clips):
        frames = int(rng.integers(50, 400))
        own = difference + rng.normal(0.0, spread)
        for camera in range(cameras):
            values = rng.gamma(9.0, 7.0, frames)
            before["S2", f"Walking {clip}", str(camera)] = values
            after["S2", f"Walking {clip}", str(camera)] = values - own + rng.normal(0.0, 0.3, frames)
    return result(before), result(after)


def test_a_known_difference_lies_inside():
    a, b = paired(1, clips=40, difference=2.0, spread=0.8)
    interval = bootstrap_difference(a, b, "mpjpe", seed=3)
    assert interval.difference_low < 2.0 < interval.difference_high
    assert interval.difference_low < interval.difference < interval.difference_high
    assert interval.difference_low > 0.0 and interval.excludes_zero
    assert interval.units == 40 and interval.unit == "clip" and interval.resamples == 10_000
    assert interval.difference == pytest.approx(a.frame_mean("mpjpe") - b.frame_mean("mpjpe"))
    assert interval.gain_percent == pytest.approx(100 * interval.difference / a.frame_mean("mpjpe"))
    assert interval.gain_percent_low < interval.gain_percent < interval.gain_percent_high


def test_no_difference_contains_zero():
    a, b = paired(2, clips=40, difference=0.0, spread=0.8)
    interval = bootstrap_difference(a, b, "mpjpe")
    assert interval.difference_low < 0.0 < interval.difference_high and not interval.excludes_zero
    same = bootstrap_difference(a, a, "p_mpjpe")
    assert same.difference_low == same.difference == same.difference_high == 0.0 and not same.excludes_zero


def test_the_width_is_the_one_of_the_mean_over_clips():
    # Equal clips with independent differences of standard deviation 0.8: standard error 0.8 / sqrt(60).
    rng = np.random.default_rng(4)
    own = rng.normal(2.0, 0.8, 60)
    a = result({("S2", f"Walking {n}", "0"): np.full(100, 60.0) for n in range(60)})
    b = result({("S2", f"Walking {n}", "0"): np.full(100, 60.0 - own[n]) for n in range(60)})
    interval = bootstrap_difference(a, b)
    half = 1.96 * own.std() / math.sqrt(60)
    assert interval.difference_high - interval.difference_low == pytest.approx(2 * half, rel=0.05)


def test_the_cameras_of_a_clip_stay_together():
    # Four copies of every clip carry no more information than one: the interval must not shrink.
    one_a, one_b = paired(5, clips=25, difference=1.0, spread=1.0, cameras=1)

    def four_times(single: EvaluationResult) -> EvaluationResult:
        return EvaluationResult(
            tuple(
                SequenceScore(s.name, s.subject, s.action, str(camera), s.frames, s.sums, s.counts)
                for s in single.sequences
                for camera in range(4)
            )
        )

    one = bootstrap_difference(one_a, one_b, seed=6)
    four = bootstrap_difference(four_times(one_a), four_times(one_b), seed=6)
    assert four.units == one.units == 25
    assert four.difference_low == pytest.approx(one.difference_low)
    assert four.difference_high == pytest.approx(one.difference_high)


def test_clips_of_the_same_name_from_two_people_are_two():
    a = result({("S2", "Walking", "0"): np.full(10, 50.0), ("S14", "Walking", "0"): np.full(30, 70.0)})
    b = result({("S2", "Walking", "0"): np.full(10, 49.0), ("S14", "Walking", "0"): np.full(30, 60.0)})
    interval = bootstrap_difference(a, b)
    assert interval.units == 2
    # Resamples of two units hold one of them twice or both: 1, 10 or (10 + 300) / 40.
    assert interval.difference == pytest.approx(7.75)
    assert (interval.difference_low, interval.difference_high) == pytest.approx((1.0, 10.0))
    assert bootstrap_difference(a, b, unit="subject").units == 2


def test_frame_weighting_of_a_resample():
    # A long clip that gains nothing outweighs a short one that gains much.
    a = result({("S2", "A", "0"): np.full(990, 50.0), ("S2", "B", "0"): np.full(10, 50.0)})
    b = result({("S2", "A", "0"): np.full(990, 50.0), ("S2", "B", "0"): np.full(10, 0.0)})
    interval = bootstrap_difference(a, b)
    assert interval.difference == pytest.approx(0.5) and interval.gain_percent == pytest.approx(1.0)


def test_the_seed_decides():
    a, b = paired(7, clips=15, difference=1.0, spread=1.0)
    assert bootstrap_difference(a, b, seed=1) == bootstrap_difference(a, b, seed=1)
    assert bootstrap_difference(a, b, seed=1) != bootstrap_difference(a, b, seed=2)


def test_the_order_of_the_second_evaluation_is_free():
    a, b = paired(8, clips=10, difference=1.0, spread=1.0)
    reordered = EvaluationResult(b.sequences[::-1])
    assert bootstrap_difference(a, reordered) == bootstrap_difference(a, b)


def test_a_single_clip_has_no_interval():
    a, b = paired(9, clips=1, difference=1.0, spread=0.1)
    interval = bootstrap_difference(a, b)
    assert interval.difference == pytest.approx(1.0, abs=0.5)
    assert math.isnan(interval.difference_low) and math.isnan(interval.gain_percent_high)
    assert interval.units == 1 and not interval.excludes_zero


def test_what_cannot_be_compared():
    a, b = paired(10, clips=5, difference=1.0, spread=0.1)
    with pytest.raises(InputError, match="different sequences"):
        bootstrap_difference(a, EvaluationResult(b.sequences[1:]))
    longer = result({("S2", "A", "0"): np.full(11, 50.0)})
    with pytest.raises(InputError, match="S2 / A / 0: 11 frames in one evaluation, 10 in the other"):
        bootstrap_difference(longer, result({("S2", "A", "0"): np.full(10, 50.0)}))
    for options in ({"metric": "pck"}, {"unit": "frame"}, {"level": 1.0}, {"resamples": 0}):
        with pytest.raises(UsageError):
            bootstrap_difference(a, b, **options)
