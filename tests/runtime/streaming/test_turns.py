"""Whose turn it is: a client that keeps to its rate comes first. Times are given, and none is measured."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from refiner.runtime.streaming.turns import MOST_AHEAD_S, SLACK_S, USUAL_BYTES, Pace, Turns


def test_a_client_that_keeps_to_its_rate_never_waits():
    rng = np.random.default_rng(1)
    pace = Pace(50.0)
    moments = np.arange(1000) / 50 + rng.uniform(0, 0.9 * SLACK_S, 1000)
    assert all(pace.turn(now) == now for now in np.sort(moments))


def test_a_burst_gets_the_turns_of_its_rate():
    pace = Pace(50.0)
    turns = [pace.turn(10.0) for _ in range(30)]
    early = 1 + round(SLACK_S * 50)
    assert turns[:early] == [10.0] * early
    np.testing.assert_allclose(np.diff(turns[early - 1 :]), 0.02)
    # Whoever sent far ahead of its rate is not put off for ever, and is on time again after a pause.
    for _ in range(10_000):
        last = pace.turn(10.0)
    assert last <= 10.0 + MOST_AHEAD_S + 0.02
    assert pace.turn(10.0 + MOST_AHEAD_S + 0.04) == 10.0 + MOST_AHEAD_S + 0.04


def test_a_large_message_counts_as_several():
    small, large = Pace(50.0), Pace(50.0)
    large.turn(0.0, 10 * USUAL_BYTES)
    for _ in range(11):
        small.turn(0.0, USUAL_BYTES - 1)
    assert small.turn(0.0) == pytest.approx(large.turn(0.0))


def run(calls, cancelled=()):
    """The order in which calls of (turn, name) run that all wait at once, and the threads that run them."""
    order, threads = [], set()

    async def scenario():
        turns = Turns()

        def work(name):
            order.append(name)
            threads.add(threading.get_ident())
            if name.startswith("wrong"):
                raise ValueError(name)
            return name

        tasks = {name: asyncio.create_task(turns.call(turn, lambda name=name: work(name))) for turn, name in calls}
        await asyncio.sleep(0)  # all have asked
        for name in cancelled:
            tasks[name].cancel()
        running = asyncio.create_task(turns.run())
        found = await asyncio.gather(*tasks.values(), return_exceptions=True)
        running.cancel()
        return dict(zip(tasks, found, strict=True))

    return order, threads, asyncio.run(scenario())


def test_the_earliest_turn_is_first_and_then_whoever_came_first():
    order, threads, found = run([(2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b")])
    assert order == ["a", "b", "c", "d"] and found == {name: name for name in "abcd"}
    assert len(threads) == 1 and threads.isdisjoint({threading.get_ident()})


def test_errors_and_cancelled_calls_stop_nobody():
    order, _, found = run([(1.0, "gone"), (2.0, "wrong"), (3.0, "right")], cancelled=["gone"])
    assert order == ["wrong", "right"] and found["right"] == "right"
    assert isinstance(found["gone"], asyncio.CancelledError) and str(found["wrong"]) == "wrong"


def test_a_burst_does_not_put_off_the_others():
    """One client sends 100 messages at once, five others one each a moment later: they wait for the slack alone."""
    burst, calls = Pace(50.0), []
    calls += [(burst.turn(0.0), f"burst {index}") for index in range(100)]
    calls += [(Pace(50.0).turn(0.001), f"other {index}") for index in range(5)]
    order, _, _ = run(calls)
    slack = 1 + round(SLACK_S * 50)
    assert order[:slack] == [f"burst {index}" for index in range(slack)]
    assert order[slack : slack + 5] == [f"other {index}" for index in range(5)]
    assert order[slack + 5 :] == [f"burst {index}" for index in range(slack, 100)]
