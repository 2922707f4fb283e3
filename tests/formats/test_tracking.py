"""People over time: by place, with and without the numbers of a detector's tracker."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import EmptySequenceError
from refiner.formats import Detections, Person, follow
from refiner.skeleton import COCO17

BODY = np.random.default_rng(0).uniform(-60, 60, (17, 2)) * [0.5, 1.5]


def person(x, y=300.0, track=None, jitter=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return Person(BODY + np.array([x, y]) + rng.normal(0, jitter, (17, 2)), np.full(17, 0.8), track)


def detections(frames):
    return Detections(tuple(map(tuple, frames)), COCO17, "test")


def middle(track):
    return np.nanmean(track.keypoints[..., 0], axis=1)


def test_two_people_keep_their_places_in_any_order():
    rng = np.random.default_rng(1)
    frames = []
    for frame in range(60):
        people = [person(200 + frame, jitter=3, seed=frame), person(600 - frame, jitter=3, seed=100 + frame)]
        frames.append([people[index] for index in rng.permutation(2)])
    first, second = follow(detections(frames))
    for track, begin, speed in (
        ((first, 200, 1), (second, 600, -1))
        if middle(first)[0] < 400
        else (
            (second, 200, 1),
            (first, 600, -1),
        )
    ):
        np.testing.assert_allclose(middle(track), begin + BODY[:, 0].mean() + speed * np.arange(60), atol=4)
        assert track.seen.all()


@pytest.mark.parametrize("number", [lambda frame: frame, lambda frame: frame // 20, lambda frame: None])
def test_a_number_that_changes_is_the_same_person(number):
    (track,) = follow(detections([[person(300 + 2 * frame, track=number(frame))] for frame in range(60)]))
    assert track.seen.all() and track.number == 0


def test_numbers_that_are_swapped_are_not_believed():
    frames = [[person(200, track=frame % 2), person(700, track=1 - frame % 2)] for frame in range(40)]
    for track in follow(detections(frames)):
        assert np.ptp(middle(track)) < 1


def test_the_one_who_is_seen_longest_comes_first():
    frames = [[person(700)] * (frame < 10) + [person(200)] for frame in range(40)]
    longest, other = follow(detections(frames))
    assert (longest.number, int(longest.seen.sum()), int(other.seen.sum())) == (0, 40, 10)
    assert middle(longest)[0] < 400


def test_a_person_may_be_away_for_a_second_and_not_for_longer():
    def seen(away):
        frames = [[person(300)] for _ in range(20)] + [[] for _ in range(away)] + [[person(310)] for _ in range(20)]
        return follow(detections(frames))

    (track,) = seen(49)
    assert track.seen.sum() == 40 and not track.seen[20:69].any()
    assert np.isnan(track.keypoints[30]).all() and (track.confidence[30] == 0).all()
    assert len(seen(80)) == 2


def test_half_a_body_is_still_that_body():
    def hidden(frame):
        whole = person(300 + frame)
        confidence = whole.confidence.copy()
        keypoints = whole.keypoints.copy()
        if frame % 3:
            keypoints[5:], confidence[5:] = np.nan, 0.0
        return Person(keypoints, confidence)

    (track,) = follow(detections([[hidden(frame)] for frame in range(30)]))
    assert track.seen.all()


def test_nobody():
    with pytest.raises(EmptySequenceError, match="3 frames show nobody"):
        follow(detections([[], [], []]))


def test_a_row_of_people_does_not_shift_by_one():
    """The left one is lost and a sixth appears on the right: the others keep their tracks."""
    spacing = 0.5 * np.linalg.norm(np.ptp(BODY, axis=0))
    frames = [
        [person(200 + spacing * place + 2 * frame) for place in range(5)]
        if frame < 10
        else [person(200 + spacing * place + 2 * frame) for place in range(1, 6)]
        for frame in range(20)
    ]
    whole = [track for track in follow(detections(frames)) if track.seen.all()]
    assert len(whole) == 4
    for track in whole:
        assert np.abs(np.diff(middle(track)) - 2).max() < 1


def test_joints_of_long_ago_say_nothing():
    """A person behind a table walks far; somebody else who comes two bodies away is somebody else."""
    hidden = np.arange(17) >= 9

    def half(x):
        whole = person(x)
        keypoints, confidence = whole.keypoints.copy(), whole.confidence.copy()
        keypoints[hidden], confidence[hidden] = np.nan, 0.0
        return Person(keypoints, confidence)

    size = np.linalg.norm(np.ptp(BODY, axis=0))
    frames = [[person(200)]] + [[half(200 + 20 * frame)] for frame in range(1, 60)]
    frames += [[person(200 + 20 * 60 + 2 * size)] for _ in range(20)]
    assert len(follow(detections(frames))) == 2


def test_false_detections_of_a_frame_are_nobody():
    rng = np.random.default_rng(0)
    frames = [[person(300), person(*rng.uniform(800, 9000, 2))] for _ in range(40)]
    tracks = follow(detections(frames))
    assert tracks[0].seen.all() and len(tracks) < 4
