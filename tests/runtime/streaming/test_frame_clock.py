"""Time-stamps of a camera against the model's frame rate."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.runtime.streaming.frame_clock import FrameClock


def run(times, fps=50.0):
    clock = FrameClock(fps, 0.5)
    return [clock.arrive(time) for time in times]


@pytest.mark.parametrize("begin", [0.0, 12.3, 1.7e9])
def test_a_regular_stream_has_a_model_frame_for_each_camera_frame(begin):
    arrivals = run(begin + np.arange(5000) / 50.0)
    assert [[frame.index for frame in arrival.completed] for arrival in arrivals] == [[index] for index in range(5000)]
    assert all(arrival.completed[0].share == 1.0 and arrival.after == 0.0 for arrival in arrivals)


@pytest.mark.parametrize("fps", [10, 24, 25, 29.97, 30, 48, 49, 49.95, 50.05, 51, 60, 90, 100, 120])
def test_model_frames_keep_the_models_rate_whatever_the_cameras(fps):
    rng = np.random.default_rng(0)
    times = np.arange(3000) / fps
    arrivals = run(times + rng.uniform(-0.02, 0.02, 3000) / fps)
    frames = [frame for arrival in arrivals for frame in arrival.completed]
    assert [frame.index for frame in frames] == list(range(len(frames)))
    # Within 2 % of the model's rate the model frames follow the camera, otherwise the clock.
    expected = len(times) if abs(fps / 50 - 1) <= 0.02 else times[-1] * 50
    assert len(frames) == pytest.approx(expected, rel=0.003)
    assert all(0 < frame.share <= 1 for frame in frames) and all(0 <= arrival.after < 1 for arrival in arrivals)


def test_where_a_model_frame_lies_between_two_camera_frames():
    arrivals = run([0.0, 0.033, 0.066])
    assert [[frame.index for frame in arrival.completed] for arrival in arrivals] == [[0], [1], [2, 3]]
    assert arrivals[1].completed[0].share == pytest.approx(0.02 / 0.033)
    assert arrivals[1].after == pytest.approx(0.65)
    assert arrivals[2].completed[0].share == pytest.approx((0.04 - 0.033) / 0.033)


def test_frames_that_never_came():
    rng = np.random.default_rng(1)
    for fps in (10, 30, 50, 120):
        times = np.arange(200) / fps + rng.uniform(-0.1, 0.1, 200) / fps
        kept = np.setdiff1d(np.arange(200), [50, 51, 52, 120])
        arrivals = run(times[kept])
        if fps == 50:  # after a gap a regular camera is in step again at once
            assert all(arrival.after == 0.0 for arrival in arrivals)
        assert [(kept[place], arrival.missed) for place, arrival in enumerate(arrivals) if arrival.missed] == [
            (53, 3),
            (121, 1),
        ]


def test_verdicts():
    clock = FrameClock(50.0, 0.5)
    assert clock.verdict(3.0) == "in order"
    clock.arrive(3.0)
    clock.arrive(3.02)
    assert clock.verdict(3.02) == "repeated" and clock.verdict(3.0) == "late"
    assert clock.verdict(3.5) == "in order" and clock.verdict(3.53) == "restart" and clock.verdict(2.0) == "restart"
    clock.reset()
    assert clock.verdict(2.0) == "in order" and clock.arrive(2.0).completed[0].index == 0
