"""How many streams fit, the words for the next one, and the times of answers. No clock takes part."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import UsageError
from refiner.runtime.streaming.answer_times import AnswerTimes
from refiner.runtime.streaming.capacity import ENOUGH_MESSAGES, Agreement, Capacity


@pytest.mark.parametrize(
    ("rate", "share", "cost_ms", "limit"),
    [(50, 0.7, 1.0, 14), (50, 0.7, 1.08, 12), (25, 0.7, 1.0, 28), (50, 1.0, 1.0, 20), (50, 0.7, 140.0, 1)],
)
def test_as_many_streams_as_the_share_of_a_core_takes(rate, share, cost_ms, limit):
    capacity = Capacity(Agreement(rate, share), cost_ms / 1000)
    assert capacity.limit == limit and f"at most {limit} streams at {rate} frames/s" in str(capacity)
    assert [capacity.refusal(streams) is None for streams in range(limit + 2)] == [True] * limit + [False] * 2
    assert ("one alone takes" in str(capacity)) == (rate * cost_ms / 1000 > share)


def test_the_refusal_names_the_streams_the_rate_and_the_reason():
    capacity = Capacity(Agreement(50, 0.7), 0.001)
    assert capacity.refusal(14) == (
        "14 streams at 50 frames/s are open; one more would take over 70 % of a core; try again later"
    )
    assert capacity.refusal(3, late=0.125) == (
        "3 streams are open, and 12 % of the last answers took over 20 ms; try again later"
    )
    assert capacity.refusal(3, late=0.05) is None
    # Whatever was late before: a client that has the server to itself is taken.
    assert capacity.refusal(0, late=1.0) is None
    fixed = Capacity(Agreement(clients=2), 1.0)
    assert fixed.refusal(1, late=1.0) is None and fixed.refusal(2) == "2 clients are connected; try again later"
    # The reason of a closing frame has 123 bytes at most (RFC 6455).
    widest = Capacity(Agreement(1000 / 3, 1 / 3, None), 1e-9)
    assert max(len(text.encode()) for text in (widest.refusal(10_000), widest.refusal(9_999, 1.0))) <= 123


def test_the_cost_is_measured_again():
    capacity = Capacity(Agreement(50, 0.7), 0.001)
    capacity.took(0, 5.0)  # nobody sends: what an idle server takes is nobody's cost
    capacity.took(ENOUGH_MESSAGES - 1, 0.002 * (ENOUGH_MESSAGES - 1))
    assert capacity.cost_s == 0.001
    capacity.took(1, 0.002)
    assert capacity.cost_s == pytest.approx(0.0015) and capacity.limit == 9
    for _ in range(20):
        capacity.took(ENOUGH_MESSAGES, 0.002 * ENOUGH_MESSAGES)
    assert capacity.limit == 7


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"share": 0.0}, {"share": 1.1}, {"clients": 0}, {"clients": 2.5}]
)
def test_what_no_server_can_promise(wrong):
    with pytest.raises(UsageError):
        Agreement(**wrong)


def test_the_times_of_the_last_answers():
    times = AnswerTimes(kept=100)
    assert times.percentiles_ms() == {} and times.late(0.0, 0.02) == 0.0 and len(times) == 0
    seconds = np.random.default_rng(0).uniform(0.001, 0.05, 250)
    for index, taken in enumerate(seconds):
        times.add(float(index), index + taken)
    assert len(times) == 100
    expected = np.percentile(1000 * seconds[150:], (50, 95, 99))
    assert list(times.percentiles_ms()) == ["p50", "p95", "p99"]
    np.testing.assert_allclose(list(times.percentiles_ms().values()), expected, atol=6e-4)
    assert times.late(200.0, 0.02) == pytest.approx(np.mean(seconds[201:] > 0.02))
    assert times.late(1000.0, 0.02) == 0.0
