"""Refused frames change nothing, and people keep their place whatever their numbers do."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import SmoothingEngine

from refiner import StreamingRefiner
from refiner.errors import RefinerError, UsageError
from refiner.runtime.streaming import Frame
from refiner.runtime.streaming.intake import STANDING
from refiner.runtime.streaming.window_backend import WindowBackend
from refiner.skeleton import from_h36m17

SIZE = (1920.0, 1080.0)
FRAMES = 40


def make(people=2, **options):
    return StreamingRefiner(WindowBackend(SmoothingEngine(), slots=people), SIZE, **options)


def walk(person, frames=FRAMES):
    """A body 300 pixels high that walks to the right, 600 pixels from the next one; and its 3D pose."""
    rng = np.random.default_rng(person)
    shape = 180 * STANDING[:, :2] + rng.uniform(-8, 8, (17, 2))
    steps = np.arange(frames)[:, None, None] * np.array([2.0, 0.3]) + rng.normal(0, 1, (frames, 17, 2))
    pixels = shape + np.array([300 + 600 * person, 500]) + steps
    body = np.concatenate([shape / 180, STANDING[:, 2:]], axis=1) + np.array([person, 0, 4])
    return pixels, body + rng.normal(0, 0.005, (frames, 17, 3))


def frame(person, index, number=None, **changes):
    pixels, poses = walk(person)
    fields = {"pose_2d": pixels[index], "pose_3d": poses[index], "timestamp": index / 50}
    return Frame(**{**fields, "person_id": person if number is None else number, **changes})


def answers(live, calls):
    return [(out.person_id, out.timestamp, out.status, out.pose_3d) for call in calls for out in live.push_many(call)]


REFUSALS = {
    "a third person": lambda i: [frame(0, i), frame(1, i), frame(2, i)],
    "a third person alone": lambda i: [frame(2, i)],
    "two frames of one person": lambda i: [frame(0, i), frame(0, i)],
    "a bad shape": lambda i: [frame(0, i), frame(1, i, pose_2d=np.zeros((16, 2)))],
    "no time": lambda i: [frame(0, i), frame(1, i, timestamp=float("nan"))],
    "an endless time": lambda i: [frame(0, i), frame(1, i, timestamp=float("inf"))],
    "no 3D": lambda i: [frame(0, i), frame(1, i, pose_3d=None)],
    "a bad lens": lambda i: [frame(0, i), frame(1, i, focal_length=-5.0)],
    "a bad size": lambda i: [frame(0, i), frame(1, i, image_size=(0, 5))],
    "shares of the image": lambda i: [frame(0, i), frame(1, i, pose_2d=walk(1)[0][i] / 2000)],
    "millimetres": lambda i: [frame(0, i), frame(1, i, pose_3d=1000 * walk(1)[1][i])],
    "another joint order": lambda i: [frame(0, i), frame(1, i, pose_3d=from_h36m17(walk(1)[1][i], "coco17"))],
    "a focal length of 35 mm": lambda i: [frame(0, i), frame(1, i, focal_length=35.0)],
    "words": lambda i: [frame(0, i), frame(1, i, confidence=["sure"] * 17)],
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_call_leaves_no_trace(refusal):
    """At every frame: the others' answers, their times and the counters are those of a stream without it."""
    plain, tried = make(), make()
    for index in range(FRAMES):
        if index:
            with pytest.raises(RefinerError):
                tried.push_many(REFUSALS[refusal](index))
        call = [frame(0, index), frame(1, index)]
        for expected, actual in zip(answers(plain, [call]), answers(tried, [call]), strict=True):
            assert expected[:3] == actual[:3]
            np.testing.assert_array_equal(expected[3], actual[3])
    assert plain.counters == tried.counters and plain.people == tried.people


@pytest.mark.parametrize("people", [1, 2, 8])
@pytest.mark.parametrize("number", [lambda i: i, lambda i: i // 15, lambda i: 0 if i < 20 else 7])
def test_a_person_whose_number_changes_goes_on(people, number):
    live, steady = make(people), make(people)
    for index in range(FRAMES):
        (expected,) = answers(steady, [[frame(0, index)]])
        (actual,) = answers(live, [[frame(0, index, number(index))]])
        assert actual[0] == number(index) and actual[1:3] == expected[1:3]
        np.testing.assert_array_equal(actual[3], expected[3])
    assert live.counters.renumbered == len({number(index) for index in range(FRAMES)}) - 1


@pytest.mark.parametrize("together", [True, False])
def test_numbers_that_are_swapped_follow_the_bodies(together):
    live, steady = make(), make()
    for index in range(FRAMES):
        swapped = index >= 20
        call = [frame(0, index, int(swapped)), frame(1, index, int(not swapped))]
        expected = answers(steady, [[frame(0, index), frame(1, index)]])
        actual = answers(live, [call] if together else [[part] for part in call])
        for person in (0, 1):
            (one,) = (entry for entry in expected if entry[0] == person)
            (other,) = (entry for entry in actual if entry[0] == (person ^ swapped))
            assert one[1:3] == other[1:3]
            np.testing.assert_allclose(one[3], other[3], atol=1e-6)


def test_somebody_new_takes_the_place_of_somebody_absent():
    live = make(people=2)
    for index in range(10):
        live.push_many([frame(0, index), frame(1, index)])
    for index in range(10, 22):
        live.push_many([frame(0, index)])
    with pytest.raises(UsageError, match="one more than the 2"):
        live.push_many(
            [frame(0, 19, timestamp=21 / 50), frame(1, 19, timestamp=21 / 50), frame(2, 19, timestamp=21 / 50)]
        )
    live.push_many([frame(0, 23), frame(2, 23)])
    assert live.people == (0, 2) and live.counters.forgotten == 1


def test_one_wrong_time_stamp_sends_nobody_away():
    live = make(people=2)
    for index in range(10):
        live.push_many([frame(0, index), frame(1, index)])
    with pytest.raises(UsageError, match="one more than the 2"):
        live.push_many([frame(2, 10, timestamp=1e9)])
    assert live.people == (0, 1)


def test_somebody_far_away_is_somebody_new():
    live = make(people=3)
    for index in range(10):
        live.push_many([frame(0, index)])
    live.push_many([frame(2, 10, 5)])
    assert set(live.people) == {0, 5} and live.counters.renumbered == 0


def test_two_people_who_overlap_stay_two():
    """Pushed one by one, at one moment and a little later, a fifth of a body apart."""
    pixels, poses = walk(0)
    for later in (0.0, 0.004):
        live = make()
        for index in range(FRAMES):
            live.push(pixels[index], poses[index], index / 50, person_id=1)
            live.push(pixels[index] + 60.0, poses[index], index / 50 + later, person_id=2)
        assert live.people == (1, 2) and live.counters.renumbered == 0 and live.counters.repeated == 0


def test_no_place_is_ever_lost():
    """Numbers at random, people who come and go: every place is somebody's or free, and numbers are their owners'."""
    rng = np.random.default_rng(3)
    live = make(people=4)
    for index in range(300):
        chosen = rng.permutation(4)[: rng.integers(1, 5)]
        numbers = rng.permutation(6)[: len(chosen)]
        call = [
            frame(int(person), index % FRAMES, int(number), timestamp=index / 50)
            for person, number in zip(chosen, numbers, strict=True)
        ]
        before = dict(live._tracks)
        try:
            live.push_many(call)
            assert {int(number) for number in numbers} <= set(live.people)
        except UsageError:  # more people than places, and nobody is absent
            assert live._tracks == before
        assert len(live._tracks) + len(live._free) == 4
        assert {track.slot for track in live._tracks.values()} | set(live._free) == {0, 1, 2, 3}
        assert all(track.person_id == number for number, track in live._tracks.items())
