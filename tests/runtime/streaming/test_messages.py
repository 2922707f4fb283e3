"""Frames as JSON: what is one, what is not, and nothing in between."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import SmoothingEngine, motion

from refiner import StreamingRefiner
from refiner.errors import InputError, RefinerError
from refiner.runtime.streaming.messages import (
    LARGEST_MESSAGE,
    error_message,
    parse_message,
    read_lines,
    refined_message,
)
from refiner.runtime.streaming.window_backend import WindowBackend


def make():
    return StreamingRefiner(WindowBackend(SmoothingEngine()), (1000.0, 1000.0))


def test_there_and_back():
    pixels, poses = motion(3)
    holed = pixels[1].astype(object)
    holed[4] = None
    message = {"timestamp": 0.5, "pose_2d": holed.tolist(), "pose_3d": poses[1].tolist(), "confidence": [1.0] * 17}
    (frame,) = parse_message(json.dumps(message))
    (refined,) = make().push_many([frame])
    answer = json.loads(refined_message(refined))
    assert answer["infilled"] == [4] and answer["status"] == "degraded" and answer["timestamp"] == 0.5
    np.testing.assert_allclose(answer["pose_3d"], refined.pose_3d, atol=1e-5)
    assert len(answer["std"]) == 17 and answer["person_id"] == 0
    people = parse_message(json.dumps({"frames": [message | {"person_id": person} for person in (3, 8)]}))
    assert [frame.person_id for frame in people] == [3, 8]
    assert parse_message(b'{"flush": true}') == []


GOOD = {"timestamp": 1, "pose_2d": [[1, 2]] * 17, "pose_3d": [[0, 1, 2]] * 17}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("1" * 5000, "no JSON"),
        ("null", "expected an object"),
        ("[]", "expected an object"),
        ('{"frames": []}', "expected an object"),
        ('{"frames": 3}', "expected an object"),
        (json.dumps({"frames": [GOOD] * 65}), "expected an object"),
        ('{"flush": false}', "unknown 'flush'"),
        ("{}", "no pose_2d, timestamp"),
        (json.dumps(GOOD | {"salad": 1}), "unknown 'salad'"),
        (json.dumps(GOOD | {"person_id": "me"}), "person_id is 'me'"),
        (json.dumps(GOOD | {"person_id": True}), "person_id is True"),
        (json.dumps(GOOD | {"person_id": -1}), "person_id is -1"),
        (json.dumps(GOOD | {"timestamp": "now"}), "timestamp is 'now'"),
        (json.dumps(GOOD | {"timestamp": None}), "timestamp is None"),
        (" " * (LARGEST_MESSAGE + 1), "at most 1,048,576"),
    ],
)
def test_what_is_no_frame(text, told):
    with pytest.raises(InputError) as caught:
        parse_message(text)
    assert told in str(caught.value) and len(str(caught.value)) < 400
    assert json.loads(error_message(caught.value)) == {"error": str(caught.value)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(text=st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_frames_or_an_error(text):
    try:
        parse_message(text)
    except InputError:
        return
    assert json.loads(text) == {"flush": True}


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(st.sampled_from(["pose_2d", "pose_3d", "timestamp", "image_size", "confidence"]), JSON))
def test_any_values_in_a_frame_are_refined_or_refused(values):
    """Whatever a client sends for a field: an error from our tree, or finite numbers."""
    try:
        frames = parse_message(json.dumps(GOOD | values))
        ready = make().push_many(frames)
    except RefinerError:
        return
    assert all(np.isfinite(frame.pose_3d).all() for frame in ready)


def test_lines_that_are_too_long_are_passed_over():
    source = io.BytesIO(b"one\n\n  \n" + b"x" * 1000 + b"\ntwo\n" + b"y" * 30)
    found = list(read_lines(source, 20))
    assert found[0] == b"one\n" and found[2] == b"two\n"
    assert all(isinstance(found[place], InputError) and "more than 20 bytes" in str(found[place]) for place in (1, 3))
    assert list(read_lines(io.BytesIO(b"ab\ncd"), 2)) == [b"ab\n", b"cd"]
