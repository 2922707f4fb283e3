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
from refiner.runtime.streaming import Frame
from refiner.runtime.streaming.messages import (
    FIELDS,
    LARGEST_MESSAGE,
    error_message,
    parse_message,
    read_lines,
    refined_message,
)
from refiner.runtime.streaming.window_backend import WindowBackend


def make(people=1):
    return StreamingRefiner(WindowBackend(SmoothingEngine(), slots=people), (1000.0, 1000.0))


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


# What a field of a frame may hold instead of what it should, as JSON.
ODD_VALUES = (
    "1" * 400,
    "-" + "1" * 5000,
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "true",
    "null",
    '"7"',
    '"\\ud800"',
    '"\\u0000"',
    "{}",
    "[]",
    "[[true, false]]",
    '[["1", "2"]]',
    '{"a": 1, "a": 2}',
    "[" * 2000 + "]" * 2000,
    f"[{', '.join(['[' + '1' * 400 + ', 5]'] * 17)}]",
    f"[{', '.join(['[true, 5, 5]'] * 17)}]",
    f"[{', '.join(['[1e308, -1e308, 1e308]'] * 17)}]",
)


def with_value(name, value):
    """The JSON of a good frame in which a field has another value, given as JSON."""
    fields = {key: json.dumps(entry) for key, entry in GOOD.items()} | {name: value}
    return "{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (with_value("timestamp", "1" * 400), "integer of 400 digits"),
        (with_value("person_id", "-" + "1" * 5000), "integer of 5000 digits"),
        ('{"timestamp": 1, "timestamp": 2}', "'timestamp' twice"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (with_value("pose_2d", "[[true, 1.0]]"), "pose_2d holds True"),
        (with_value("pose_3d", '[["7", 1.0, null]]'), "pose_3d holds '7'"),
        (with_value("image_size", '["1000", "1000"]'), "image_size holds '1000'"),
        (with_value("focal_length", "true"), "focal_length holds True"),
        (with_value("confidence", '{"a": 1}'), "confidence holds {'a': 1}"),
        (b"\0\0\0\0\0", "no JSON"),
        (b'{"\xed\xa0\x80": 1}', "unknown"),
    ],
)
def test_numbers_are_numbers_and_of_64_bits(text, told):
    with pytest.raises(InputError) as caught:
        parse_message(text)
    assert told in str(caught.value) and len(str(caught.value)) < 400
    assert json.loads(error_message(caught.value)) == {"error": str(caught.value)}


@settings(max_examples=60, deadline=None)
@given(
    odd=st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from(FIELDS), st.sampled_from(ODD_VALUES)), min_size=1, max_size=6
    )
)
def test_what_is_refused_leaves_no_trace(odd):
    """Odd lines between the frames of two people: an error of our tree, and the people get what they would get."""
    pixels, poses = motion(12)
    disturbed, alone = make(people=2), make(people=2)
    for index in range(12):
        for _, name, value in [entry for entry in odd if entry[0] == index]:
            try:
                disturbed.push_many(parse_message(with_value(name, value)))
            except RefinerError:
                continue
            alone.push_many(parse_message(with_value(name, value)))
        frames = [Frame(pixels[index] + 400 * who, poses[index], index / 50, person_id=who) for who in (0, 1)]
        ready, expected = disturbed.push_many(frames), alone.push_many(frames)
        assert [frame.person_id for frame in ready] == [frame.person_id for frame in expected]
        for found, other in zip(ready, expected, strict=True):
            np.testing.assert_array_equal(found.pose_3d, other.pose_3d)
            assert found.status == other.status


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
