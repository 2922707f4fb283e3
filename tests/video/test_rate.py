"""A variable frame rate becomes a constant one, by interpolation and not by repeating frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from refiner.errors import VideoError
from refiner.formats import Detections, Person
from refiner.skeleton import H36M17
from refiner.video.rate import at_constant_rate, constant_rate

START = np.random.default_rng(0).uniform(100, 300, (17, 2))
SPEED = np.array([40.0, -15.0])


def person(second, confidence=0.8):
    """Somebody who moves evenly, so that linear interpolation is exact."""
    return Person(START + SPEED * second, np.full(17, confidence))


def seen(seconds, people=None):
    frames = tuple((person(second),) for second in seconds) if people is None else people
    return Detections(frames, H36M17, "test", (640.0, 480.0))


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [
        (np.arange(60) / 25, 25.0),
        (np.round(np.arange(60) / 29.97, 3), 29.97),  # a container that counts milliseconds
        (7.5 + np.arange(60) / 240, 240.0),
        (np.delete(np.arange(60) / 25, 30), None),  # a dropped frame
        (np.cumsum(np.tile([0.01, 0.05], 30)), None),
        (np.array([0.0]), None),
    ],
)
def test_what_is_regular(seconds, fps):
    found = constant_rate(seconds)
    # Time-stamps that are rounded to milliseconds leave this much open.
    assert found is None if fps is None else found == pytest.approx(fps, rel=1e-3 / (seconds[-1] - seconds[0]))


@settings(deadline=None, max_examples=60)
@given(some.lists(some.floats(0.008, 0.2), min_size=4, max_size=60))
def test_even_motion_is_met_exactly(steps):
    seconds = np.concatenate([[0.0], np.cumsum(steps)])
    regular, instants = at_constant_rate(seen(seconds), seconds)
    np.testing.assert_allclose(np.diff(instants), 1 / regular.fps)
    assert len(regular.frames) == len(instants)
    inside = instants <= seconds[-1]
    assert inside[:-1].all()
    for instant, people in zip(instants[inside], np.array(regular.frames, dtype=object)[inside], strict=True):
        (only,) = people
        np.testing.assert_allclose(only.keypoints, person(instant).keypoints, atol=1e-6)
        np.testing.assert_allclose(only.confidence, 0.8)


def test_a_dropped_frame_is_filled_and_a_long_gap_is_not():
    seconds = np.concatenate([np.delete(np.arange(50) / 25, 20), 3.0 + np.arange(20) / 25])
    regular, instants = at_constant_rate(seen(seconds), seconds)
    assert regular.fps == pytest.approx(25)
    (filled,) = regular.frames[20]
    np.testing.assert_allclose(filled.keypoints, person(0.8).keypoints, atol=1e-9)
    shown = [bool(people) for people in regular.frames]
    # The film stops from 1.96 s to 3 s, and nobody is invented there.
    assert shown == [instant < 1.961 or instant > 2.999 for instant in instants]


def test_frames_without_a_person_stay_so_and_two_people_are_not_mixed():
    seconds = np.cumsum(np.tile([0.03, 0.05], 20))
    other = [Person(person(second).keypoints + np.array([0, 200]), np.full(17, 0.5)) for second in seconds]
    people = [
        (person(second), two)[:: 1 if index % 2 else -1]
        for index, (second, two) in enumerate(zip(seconds, other, strict=True))
    ]
    people[10:16] = [()] * 6
    regular, instants = at_constant_rate(seen(seconds, tuple(people)), seconds)
    for instant, found in zip(instants, regular.frames, strict=True):
        if seconds[9] + 0.02 < instant < seconds[16] - 0.02:
            assert not found
        elif instant < seconds[9] or seconds[16] < instant < seconds[-1]:
            first, second = sorted(found, key=lambda one: one.keypoints[:, 1].mean())
            np.testing.assert_allclose(first.keypoints, person(instant).keypoints, atol=1e-6)
            np.testing.assert_allclose(second.confidence, 0.5)
            assert {one.track for one in found} == {0, 1}


def test_time_stamps_that_would_need_endless_frames_are_refused():
    seconds = np.concatenate([np.arange(20) / 1000, [5000.0]])
    with pytest.raises(VideoError, match="lie so unevenly"):
        at_constant_rate(seen(seconds), seconds)
