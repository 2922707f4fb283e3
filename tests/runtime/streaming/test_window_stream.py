"""A window model as a stream: equal to the offline refinement where every window has run, sane where not."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import WINDOW, OffsetLifter, SmoothingEngine, motion, stream

from refiner import StreamingRefiner
from refiner.errors import UsageError
from refiner.runtime import Refiner
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1000.0, 1002.0)


@pytest.mark.parametrize("hop", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("frames", [1, 5, 8, 9, 10, 23, 64])
def test_with_every_window_the_stream_is_the_offline_refinement(hop, frames):
    engine = SmoothingEngine()
    pixels, poses = motion(frames, seed=frames)
    offline = Refiner(engine, hop=hop).refine(pixels, poses, SIZE)
    live = StreamingRefiner(WindowBackend(engine, hop, WINDOW - hop), SIZE)
    found = stream(live, pixels, poses, begin=1.7e9)
    assert [frame.timestamp for frame in found] == [1.7e9 + index / 50.0 for index in range(frames)]
    # Where the end of a sequence adds a window that the hop has not, the stream had to answer before it knew.
    known = frames if frames <= WINDOW or (frames - WINDOW) % hop == 0 else frames - WINDOW
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in found])[:known], offline[:known], atol=1e-5)
    assert not any(frame.infilled.any() for frame in found)


def strided(stride, engine=None):
    """A refiner that takes every so many frames."""
    engine = engine or SmoothingEngine()
    engine.stride = stride
    return engine


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("hop", "look_ahead"), [(1, 0), (1, 3), (2, 0), (3, 2), (4, 5), (9, 0)])
def test_a_frame_waits_no_longer_than_is_said(hop, look_ahead, stride):
    live = StreamingRefiner(WindowBackend(strided(stride), hop, look_ahead), SIZE)
    assert live.delay_frames == stride * (hop - 1 + look_ahead) + (stride - 1 if look_ahead else 0)
    assert live.delay_ms == pytest.approx(20.0 * live.delay_frames)
    pixels, poses = motion(60 * stride)
    waited, order = [], []
    for index in range(60 * stride):
        ready = live.push(pixels[index], poses[index], index / 50)
        order += [round(frame.timestamp * 50) for frame in ready]
        waited += [index - round(frame.timestamp * 50) for frame in ready]
    assert max(waited[2 * stride * WINDOW :]) == live.delay_frames and min(waited) >= stride * look_ahead
    order += [round(frame.timestamp * 50) for frame in live.flush()]
    assert order == list(range(60 * stride))


@pytest.mark.parametrize("hop", [1, 2, 4])
@pytest.mark.parametrize(("stride", "frames"), [(3, 27), (3, 54), (3, 90), (5, 90), (7, 126)])
def test_a_strided_model_s_stream_is_the_offline_refinement(hop, stride, frames):
    """Where the phases end with a window of the hop."""
    engine = strided(stride)
    pixels, poses = motion(frames, seed=frames)
    offline = Refiner(engine, hop=hop).refine(pixels, poses, SIZE)
    live = StreamingRefiner(WindowBackend(engine, hop, WINDOW - hop), SIZE)
    found = np.stack([frame.pose_3d for frame in stream(live, pixels, poses)])
    known = frames if (frames // stride - WINDOW) % hop == 0 else frames - stride * (WINDOW + 1) + 1
    np.testing.assert_allclose(found[:known], offline[:known], atol=1e-5)
    # A person who left and came back starts anew.
    again = np.stack([frame.pose_3d for frame in stream(live, pixels, poses, begin=100.0)])
    np.testing.assert_array_equal(again, found)


def test_the_newest_frame_of_a_strided_stream_ends_a_window_of_every_third():
    engine = strided(3)
    pixels, poses = motion(60)
    found = stream(StreamingRefiner(WindowBackend(engine), SIZE), pixels, poses)
    for last in (0, 1, 7, 26, 40, 59):
        rows = np.arange(last - 3 * (WINDOW - 1), last + 1, 3)
        rows = np.where(rows < 0, last % 3, rows)
        window = engine(pixels[rows][None], (poses[rows] - poses[rows, :1])[None], np.float32([SIZE]))[0]
        np.testing.assert_allclose(found[last].pose_3d, window[-1] + poses[last, 0], atol=1e-5)
    assert [frame.status for frame in found].index("ok") == 3 * (WINDOW - 1)


@pytest.mark.filterwarnings("ignore:pose_3d")  # the lifter stands in for one that knows people
def test_lifter_and_refiner_take_the_same_frames():
    lifter = OffsetLifter()
    lifter.stride = 3
    with pytest.raises(UsageError, match=r"one takes every 3\. frame, the other every 1\."):
        WindowBackend(SmoothingEngine(), lifter=lifter)
    pixels, _ = motion(60)
    engine = strided(3)
    live = StreamingRefiner(WindowBackend(engine, 1, WINDOW - 1, lifter=lifter), SIZE)
    found = [frame for index in range(60) for frame in live.push(pixels[index], None, index / 50)] + live.flush()
    body = lifter(pixels[None], np.float32([SIZE]))[0]
    expected = Refiner(engine, hop=1).refine(pixels, body, SIZE)
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in found]), expected, atol=1e-5)


def test_without_look_ahead_the_newest_frame_is_the_last_of_its_window():
    engine = SmoothingEngine()
    pixels, poses = motion(30)
    found = stream(StreamingRefiner(WindowBackend(engine), SIZE), pixels, poses)
    for last in (0, 4, 8, 9, 29):
        rows = np.maximum(np.arange(last - WINDOW + 1, last + 1), 0)
        root = poses[rows, :1]
        size = np.float32([SIZE])
        window = engine(pixels[rows][None], (poses[rows] - root)[None], size)[0]
        np.testing.assert_allclose(found[last].pose_3d, window[-1] + poses[last, 0], atol=1e-5)
    assert [frame.status for frame in found] == ["warm-up"] * (WINDOW - 1) + ["ok"] * 22


def test_a_hop_runs_the_model_once_for_so_many_frames():
    engine = SmoothingEngine()
    stream(StreamingRefiner(WindowBackend(engine, hop=3, look_ahead=6), SIZE), *motion(90))
    assert engine.calls == (90 - WINDOW) // 3 + 1


@pytest.mark.filterwarnings("ignore:pose_3d")  # the lifter stands in for one that knows people
def test_a_lifter_in_the_loop():
    engine, lifter = SmoothingEngine(), OffsetLifter()
    pixels, _ = motion(40)
    live = StreamingRefiner(WindowBackend(engine, 1, WINDOW - 1, lifter=lifter), SIZE)
    found = [frame for index in range(40) for frame in live.push(pixels[index], None, index / 50)] + live.flush()
    body = lifter(pixels[None], np.float32([SIZE]))[0]
    np.testing.assert_allclose(
        np.stack([frame.pose_3d for frame in found]), Refiner(engine, hop=1).refine(pixels, body, SIZE), atol=1e-5
    )
    with pytest.raises(UsageError, match="came with pose_3d to a stream with a lifter"):
        live.push(pixels[0], body[0], 0.0)
    with pytest.raises(UsageError, match="no lifter was loaded"):
        StreamingRefiner(WindowBackend(engine), SIZE).push(pixels[0], None, 0.0)


@pytest.mark.parametrize("arguments", [(0, 0), (10, 0), (1, 9), (3, 7), (1, -1)])
def test_wrong_settings(arguments):
    with pytest.raises(UsageError):
        WindowBackend(SmoothingEngine(), *arguments)


def test_a_lifter_of_another_window_is_refused():
    with pytest.raises(UsageError, match="windows of 5 frames"):
        WindowBackend(SmoothingEngine(), lifter=OffsetLifter(5))
