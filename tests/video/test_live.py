"""Live frames: the newest one, and people who keep their numbers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from coded_video import WALK, picture

from refiner.errors import UsageError, VideoError
from refiner.formats import Person
from refiner.video import LatestFrames, LivePeople, VideoFrame, paced


def frames(count, period=0.04):
    return [VideoFrame(picture(number), number * period) for number in range(count)]


def test_only_the_newest_frame_waits():
    taken, stored = threading.Event(), threading.Event()
    all_frames = frames(6)

    def source():
        yield all_frames[0]
        taken.wait(30)
        yield from all_frames[1:]
        stored.set()
        taken.wait(30)

    newest = LatestFrames(source())
    assert next(newest) is all_frames[0]
    taken.set()
    assert stored.wait(30)
    assert list(newest) == all_frames[-1:] and newest.left_out == 4
    newest.close()


def test_errors_of_the_source_reach_the_reader_of_the_frames():
    def source():
        yield from frames(1)
        raise VideoError("the camera is gone")

    newest = LatestFrames(source())
    with pytest.raises(VideoError, match="the camera is gone"):
        for _ in newest:
            pass


def test_closing_ends_the_source():
    closed = threading.Event()

    def source():
        try:
            number = 0
            while True:
                yield VideoFrame(picture(0), float(number))
                number += 1
        finally:
            closed.set()

    newest = LatestFrames(source())
    next(newest)
    newest.close()
    assert closed.is_set() and not newest._thread.is_alive()


def test_a_file_is_played_at_its_own_pace(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    assert len(list(paced(iter(frames(4, 0.5))))) == 4
    np.testing.assert_allclose(slept, [0, 0.5, 0.5, 0.5])


def person(number, frame, scale=1.0):
    points = WALK[number][frame]
    return Person((points - points[0]) * scale + points[0], np.full(17, 0.9))


def numbers(live, frame, *people):
    return [number for number, _ in live.take(frame / 25, people)]


def test_one_is_picked_followed_and_kept_whatever_the_order():
    live = LivePeople()
    picked = []
    for frame in range(20):
        near, far = person(0, frame, 1.1), person(1, frame, 0.8)
        found = live.take(frame / 25, [near, far][:: 1 if frame % 2 else -1])
        picked += [(number, one is near) for number, one in found]
    # From the third frame on, the larger one.
    assert picked == [(0, True)] * 18


def test_somebody_else_comes_half_a_second_after_the_first_left():
    live = LivePeople()
    for frame in range(10):
        numbers(live, frame, person(0, frame))
    got = [numbers(live, frame, person(1, frame)) for frame in range(10, 40)]
    assert got == [[]] * 12 + [[1]] * 18
    # The first one comes back, after too long to be known, to a stream that is full.
    assert numbers(live, 41, person(1, 41), person(0, 41)) == [1]


def test_several_people_keep_their_numbers():
    live = LivePeople(2)
    seen = [
        live.take(frame / 25, [person(0, frame), person(1, frame)][:: 1 if frame % 3 else -1]) for frame in range(20)
    ]
    assert [len(found) for found in seen] == [0, 0] + [2] * 18
    first = {number: one.keypoints[0, 0] > 160 for number, one in seen[2]}
    assert sorted(first) == [0, 1]
    assert all({number: one.keypoints[0, 0] > 160 for number, one in found} == first for found in seen[2:])


def test_a_short_absence_changes_nothing_and_a_ghost_is_not_followed():
    live = LivePeople(2)
    ghost = Person(np.random.default_rng(0).uniform(0, 200, (17, 2)), np.full(17, 0.9))
    got = []
    for frame in range(25):
        people = [] if 10 <= frame < 15 else [person(0, frame)]
        got.append(numbers(live, frame, *people, *([ghost] if frame == 5 else [])))
    assert got == [[], []] + [[0]] * 8 + [[]] * 5 + [[0]] * 10


def test_nothing_is_remembered_for_a_day():
    live = LivePeople()
    for turn in range(300):
        for frame in range(4):
            live.take(turn * 2.0 + frame / 25, [person(0, frame)])
    assert len(live._sights) == len(live._numbers) == len(live._tracker.keys) == 1


def test_nobody_at_all_can_be_followed():
    with pytest.raises(UsageError, match="1 person or more"):
        LivePeople(0)
