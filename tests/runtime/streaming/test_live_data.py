"""What cameras do to a stream: missing joints, dropped and repeated frames, jumping clocks, people who come and go."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from stand_ins import WINDOW, SmoothingEngine, motion, stream

from refiner import StreamingRefiner
from refiner.errors import (
    InputError,
    InputWarning,
    JointCountError,
    RefinerError,
    ShapeError,
    SwappedInputError,
    UnitError,
    UsageError,
)
from refiner.runtime.streaming import Frame, StreamWorker
from refiner.runtime.streaming.window_backend import WindowBackend
from refiner.skeleton import from_h36m17, to_h36m17

SIZE = (1000.0, 1002.0)


def make(people=1, hop=1, look_ahead=0, **options):
    return StreamingRefiner(WindowBackend(SmoothingEngine(), hop, look_ahead, people), SIZE, **options)


def test_a_missing_joint_is_guessed_and_marked():
    pixels, poses = motion(30)
    live = make()
    stream_of = [live.push(pixels[index], poses[index], index / 50)[0] for index in range(20)]
    assert stream_of[-1].status == "ok"
    holed_2d, holed_3d = pixels[20].copy(), poses[20].copy()
    holed_2d[3] = np.nan
    holed_3d[[3, 13]] = np.inf
    (frame,) = live.push(holed_2d, holed_3d, 20 / 50)
    assert np.flatnonzero(frame.infilled).tolist() == [3, 13] and frame.status == "degraded"
    assert np.isfinite(frame.pose_3d).all() and live.counters.infilled_joints == 2
    # The bone is that of the frame before.
    undisturbed = make()
    for index in range(20):
        undisturbed.push(pixels[index], poses[index], index / 50)
    guessed = poses[20].copy()
    guessed[3] = guessed[2] + poses[19][3] - poses[19][2]
    guessed[13] = guessed[12] + poses[19][13] - poses[19][12]
    moved = pixels[20].copy()
    moved[3] = pixels[19][3] + np.delete(pixels[20] - pixels[19], 3, axis=0).mean(axis=0)
    (other,) = undisturbed.push(moved, guessed, 20 / 50)
    np.testing.assert_allclose(frame.pose_3d, other.pose_3d, atol=2e-5)


def test_the_stream_recovers_from_a_guess_within_its_memory():
    pixels, poses = motion(60, seed=4)
    whole = stream(make(), pixels, poses)
    holed = pixels.copy()
    holed[25, [2, 3, 15]] = np.nan
    disturbed = stream(make(), holed, poses)
    difference = [np.abs(a.pose_3d - b.pose_3d).max() for a, b in zip(whole, disturbed, strict=True)]
    assert max(difference[:25]) == 0.0 and difference[25] > 0 and max(difference[25 + WINDOW :]) < 1e-6
    statuses = [frame.status for frame in disturbed]
    assert statuses[25 : 25 + WINDOW] == ["degraded"] * WINDOW and statuses[25 + WINDOW] == "ok"


def test_a_confidence_of_zero_is_a_missing_joint():
    pixels, poses = motion(3)
    sure = np.ones(17)
    sure[[5, 9]] = 0.0, np.nan
    live = make()
    live.push(pixels[0], poses[0], 0.0)
    (frame,) = live.push(pixels[1], poses[1], 0.02, confidence=sure)
    assert np.flatnonzero(frame.infilled).tolist() == [5, 9]
    strict = make(least_confidence=0.5)
    (frame,) = strict.push(pixels[0], poses[0], 0.0, confidence=np.linspace(0, 1, 17))
    assert np.flatnonzero(frame.infilled).tolist() == list(range(9))


def test_the_first_frame_may_lack_joints_and_the_root():
    pixels, poses = motion(2)
    for missing in ([0], [0, 1], [0, 1, 4], [2, 3, 5, 6, 9, 10, 13, 16]):
        holed_2d, holed_3d = pixels[0].copy(), poses[0].copy()
        holed_2d[missing] = np.nan
        holed_3d[missing] = np.nan
        (frame,) = make().push(holed_2d, holed_3d, 0.0)
        assert np.isfinite(frame.pose_3d).all() and np.flatnonzero(frame.infilled).tolist() == missing
        assert frame.status == "degraded"


def test_too_little_is_invalid_and_changes_nothing():
    pixels, poses = motion(40)
    live, whole = make(), make()
    for index in range(20):
        last = live.push(pixels[index], poses[index], index / 50)[0]
        whole.push(pixels[index], poses[index], index / 50)
    (frame,) = live.push(np.full((17, 2), np.nan), poses[20], 20 / 50 - 0.005)
    assert frame.status == "invalid" and frame.infilled.all() and np.isfinite(frame.std).all()
    np.testing.assert_array_equal(frame.pose_3d, last.pose_3d)
    after, other = live.push(pixels[20], poses[20], 20 / 50), whole.push(pixels[20], poses[20], 20 / 50)
    np.testing.assert_array_equal(after[0].pose_3d, other[0].pose_3d)
    (first,) = make().push(pixels[0], np.full((17, 3), np.nan), 0.0)
    assert first.status == "invalid" and (first.pose_3d == 0).all()
    assert live.counters.invalid == 1 and live.counters.frames == 22


def test_repeated_late_and_missing_frames():
    pixels, poses = motion(40)
    live = make()
    for index in range(20):
        live.push(pixels[index], poses[index], index / 50)
    assert live.push(pixels[19], poses[19], 19 / 50) == [] and live.push(pixels[18], poses[18], 18 / 50) == []
    (frame,) = live.push(pixels[23], poses[23], 23 / 50)  # three frames never came
    assert frame.status == "degraded" and frame.reasons == ("spread assumed", "resampled", "gap")
    counted = live.counters.as_dict()
    assert (counted["repeated"], counted["late"], counted["missed"], counted["steps"]) == (1, 1, 3, 24)
    # As if the missing ones had come, half-way between.
    other = make()
    shares = np.linspace(0, 1, 5)[:, None, None]
    filled_2d = np.concatenate([pixels[:19], pixels[19] + shares * (pixels[23] - pixels[19])])
    filled_3d = np.concatenate([poses[:19], poses[19] + shares * (poses[23] - poses[19])])
    expected = stream(other, filled_2d, filled_3d)[-1]
    np.testing.assert_allclose(frame.pose_3d, expected.pose_3d, atol=1e-5)


@pytest.mark.parametrize("jump", [0.6, 3600.0, -0.6, -3600.0])
def test_after_a_jump_of_the_clock_the_stream_begins_anew(jump):
    pixels, poses = motion(50)
    live = make(look_ahead=3)
    before = [frame for i in range(25) for frame in live.push(pixels[i], poses[i], i / 50)]
    after = [frame for i in range(25, 50) for frame in live.push(pixels[i], poses[i], jump + i / 50)] + live.flush()
    found = before + after
    assert len(found) == 50 and live.counters.restarts == 1  # what waited comes out before the jump
    fresh = stream(make(look_ahead=3), pixels[25:], poses[25:])
    for frame, expected in zip(found[25:], fresh, strict=True):
        np.testing.assert_array_equal(frame.pose_3d, expected.pose_3d)
    assert found[25].status == "warm-up"


@pytest.mark.parametrize("fps", [10, 25, 30, 60, 100, 120])
def test_other_frame_rates(fps):
    """A constant correction arrives whole; the poses themselves pass without delay."""

    class Shift(SmoothingEngine):
        def __call__(self, pose_2d, pose_3d, image_size):
            return (pose_3d + np.float32([0.01, -0.02, 0.03])) * np.float32([0.0] + [1.0] * 16)[:, None]

    pixels, poses = motion(120, seed=2)
    live = StreamingRefiner(WindowBackend(Shift()), SIZE)
    found = stream(live, pixels, poses, fps)
    assert len(found) == 120 and live.counters.missed == 0
    assert live.counters.steps == pytest.approx(119 * 50 / fps + 1, abs=1)
    assert {frame.status for frame in found} == {"warm-up", "ok"}
    moved = np.stack([frame.pose_3d for frame in found]) - poses
    np.testing.assert_allclose(moved[:, 1:], np.broadcast_to([0.01, -0.02, 0.03], (120, 16, 3)), atol=1e-5)
    assert np.abs(moved[:, 0]).max() < 1e-6


def test_people_come_and_go():
    pixels, poses = zip(*(motion(80, seed) for seed in range(4)), strict=True)
    live = make(people=2, look_ahead=2)
    found = {person: [] for person in range(4)}

    def show(people, begin, end):
        for index in range(begin, end):
            frames = [Frame(pixels[p][index], poses[p][index], index / 50, person_id=p) for p in people]
            for frame in live.push_many(frames):
                found[frame.person_id].append(frame)

    show([0, 1], 0, 20)
    with pytest.raises(UsageError, match="one more than the 2"):
        live.push(pixels[2][20], poses[2][20], 20 / 50, person_id=2)
    found[1] += live.flush(1)
    show([0, 2], 20, 40)  # 2 takes the place of 1
    show([2], 40, 80)  # 0 is away
    found[2] += live.push(pixels[2][79], poses[2][79], 79 / 50 + 2.0, person_id=2)
    # 0 was away for long enough, and gets the frames that still waited.
    parting = live.push(pixels[3][0], poses[3][0], 5.0, person_id=3)
    assert [(frame.person_id, round(50 * frame.timestamp)) for frame in parting] == [(0, 38), (0, 39)]
    assert live.people == (2, 3) and live.counters.forgotten == 1
    for person, begin, end in ((0, 0, 38), (1, 0, 20), (2, 20, 78)):
        alone = stream(make(look_ahead=2), pixels[person][begin:80], poses[person][begin:80], begin=begin / 50)
        for frame, expected in zip(found[person][: end - begin], alone, strict=False):
            if person == 1 and expected.timestamp >= 18 / 50:
                break
            np.testing.assert_array_equal(frame.pose_3d, expected.pose_3d)
    with pytest.raises(UsageError, match="person 9 is not in this stream"):
        live.flush(9)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"pose_2d": np.zeros((16, 2))}, JointCountError),
        ({"pose_3d": np.zeros((18, 3))}, JointCountError),
        ({"pose_2d": np.zeros((17, 3))}, SwappedInputError),
        ({"pose_2d": np.zeros((1, 17, 2))}, ShapeError),
        ({"pose_2d": "salad"}, InputError),
        ({"pose_2d": [[1, 2], [3]]}, InputError),
        ({"pose_3d": None}, UsageError),
        ({"timestamp": float("nan")}, InputError),
        ({"timestamp": "soon"}, InputError),
        ({"image_size": (0, 100)}, InputError),
        ({"confidence": np.ones(5)}, InputError),
    ],
)
def test_what_is_no_frame_is_refused_and_the_stream_goes_on(change, error):
    pixels, poses = motion(12)
    live, other = make(), make()
    for index in range(10):
        live.push(pixels[index], poses[index], index / 50)
        other.push(pixels[index], poses[index], index / 50)
    with pytest.raises(error):
        live.push(**({"pose_2d": pixels[10], "pose_3d": poses[10], "timestamp": 10 / 50} | change))
    (frame,), (expected,) = (stream.push(pixels[10], poses[10], 10 / 50) for stream in (live, other))
    np.testing.assert_array_equal(frame.pose_3d, expected.pose_3d)


def test_the_image_size_may_come_with_the_frame():
    pixels, poses = motion(2)
    live = StreamingRefiner(WindowBackend(SmoothingEngine()))
    with pytest.raises(UsageError, match="image's size is not known"):
        live.push(pixels[0], poses[0], 0.0)
    assert len(live.push(pixels[0], poses[0], 0.0, image_size=SIZE)) == 1


def test_other_joint_sets():
    pixels, poses = motion(30)
    coco_2d, coco_3d = (from_h36m17(pose, "coco17") for pose in (pixels, poses))
    found = stream(make(joints="coco17"), coco_2d, coco_3d)
    expected = stream(make(), to_h36m17(coco_2d, "coco17"), to_h36m17(coco_3d, "coco17"))
    for frame, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(frame.pose_3d, other.pose_3d, atol=1e-6)


def test_ten_thousand_frames_of_everything():
    """20 % of the joints, 5 % of the frames, bursts of NaN, jumping clocks: no exception, nothing but finite numbers,
    errors that stay bounded."""
    rng = np.random.default_rng(11)
    pixels, poses = motion(500, seed=7)
    live = make(hop=3, look_ahead=2)
    clock, found, pushed = 0.0, [], 0
    for index in range(10_000):
        clock += 0.02 * rng.uniform(0.8, 1.2)
        if rng.random() < 0.002:
            clock += rng.choice([-5.0, -0.1, 0.3, 40.0])
        if rng.random() < 0.05:
            continue
        place = index % 1000
        place = place if place < 500 else 999 - place
        pose_2d, pose_3d = pixels[place].copy(), poses[place].copy()
        pose_2d[rng.random(17) < 0.2] = np.nan
        pose_3d[rng.random(17) < 0.2] = np.nan
        if index % 700 < 5:
            pose_3d[:] = rng.choice([np.nan, np.inf, 1e30])
        found += [(frame, place) for frame in live.push(pose_2d, pose_3d, clock)]
        pushed += 1
    found += [(frame, 0) for frame in live.flush()]
    frames = [frame for frame, _ in found]
    counted = live.counters.as_dict()
    assert counted["frames"] == pushed
    assert len(frames) == pushed - counted["repeated"] - counted["late"]
    assert all(np.isfinite(frame.pose_3d).all() and np.isfinite(frame.std).all() for frame in frames)
    assert counted["restarts"] > 5 and counted["invalid"] > 20 and counted["infilled_joints"] > 30_000
    error = [
        np.linalg.norm(frame.pose_3d - poses[place], axis=-1).mean()
        for frame, place in found[:-10]
        if frame.status != "invalid"
    ]
    assert np.median(error) < 0.3 and np.max(error) < 3.0


def test_a_worker_refines_what_other_threads_hand_over():
    pixels, poses = motion(200)
    frames = [Frame(pixels[index], poses[index], index / 50) for index in range(200)]
    found = []
    with StreamWorker(make(look_ahead=2), found.append, "queue", 200) as worker:
        for frame in frames:
            assert worker.put(frame)
    expected = stream(make(look_ahead=2), pixels, poses)
    assert [frame.timestamp for frame in found] == [frame.timestamp for frame in expected]
    np.testing.assert_array_equal(found[-1].pose_3d, expected[-1].pose_3d)
    with pytest.raises(UsageError, match="closed"):
        worker.put(frames[0])


def test_a_slow_worker_keeps_the_latest_frame_or_the_oldest():
    pixels, poses = motion(12)
    for policy, kept in (("latest", [0, 11]), ("queue", [0, 1, 2, 3])):
        begun, go = threading.Event(), threading.Event()
        found = []

        def slowly(frame, found=found, begun=begun, go=go):
            found.append(frame)
            begun.set()
            assert go.wait(30)

        worker = StreamWorker(make(), slowly, policy, capacity=3)
        worker.put(Frame(pixels[0], poses[0], 0.0))
        assert begun.wait(30)
        results = [worker.put(Frame(pixels[index], poses[index], index / 50)) for index in range(1, 12)]
        go.set()
        worker.close()
        assert [round(frame.timestamp * 50) for frame in found] == kept
        assert worker.dropped == results.count(False) == 12 - len(kept)


def test_a_worker_counts_what_is_no_frame_and_raises_what_its_receiver_raised():
    pixels, poses = motion(3)
    found = []
    with StreamWorker(make(), found.append) as worker:
        worker.put(Frame(np.zeros((3, 2)), poses[0], 0.0))
        worker.put(Frame(pixels[1], poses[1], 0.02, person_id=0)) or None
    assert worker.refused + worker.dropped == 1 and len(found) == 1

    def broken(frame):
        raise RefinerError("the screen is off")

    worker = StreamWorker(make(), broken)
    worker.put(Frame(pixels[0], poses[0], 0.0))
    with pytest.raises(RefinerError, match="the screen is off"):
        worker.close()


@pytest.mark.parametrize(
    ("pixels_by", "body_by", "message"),
    [(1 / 1000, 1, "shares of the image"), (1, 1000, "millimetres: divide by 1000"), (1, 100, "centimetres")],
)
def test_other_units_are_refused_by_name(pixels_by, body_by, message):
    """And the stream goes on as if the frame had not come."""
    pixels, poses = motion(30)
    live, plain = make(), make()
    for index in range(30):
        with pytest.raises(UnitError, match=message):
            live.push(pixels[index] * pixels_by, poses[index] * body_by, index / 50)
        (frame,), (expected,) = (stream.push(pixels[index], poses[index], index / 50) for stream in (live, plain))
        np.testing.assert_array_equal(frame.pose_3d, expected.pose_3d)
    assert live.counters == plain.counters


@pytest.mark.parametrize("written", [0.0, -1.0])
def test_joints_as_detectors_write_missing_ones(written):
    """(0, 0) and (-1, -1) are missing joints, as NaN is."""
    pixels, poses = motion(30)
    by_value, by_nan = pixels.copy(), pixels.copy()
    by_value[20, [3, 7]], by_nan[20, [3, 7]] = written, np.nan
    first, second = make(), make()
    for index in range(30):
        (found,), (expected,) = (
            live.push(seen[index], poses[index], index / 50) for live, seen in ((first, by_value), (second, by_nan))
        )
        np.testing.assert_array_equal(found.pose_3d, expected.pose_3d)
        assert found.infilled.tolist() == expected.infilled.tolist() and found.status == expected.status


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e3, "milliseconds"), (50.0, "numbers of frames"), (1e6, "microseconds")]
)
def test_time_stamps_that_are_no_seconds_are_told_once(factor, unit):
    pixels, poses = motion(30)
    live = make()

    def push_all():
        for index in range(30):
            live.push(pixels[index], poses[index], index / 50 * factor)

    with pytest.warns(InputWarning, match=unit) as record:
        push_all()
    assert len(record) == 1
