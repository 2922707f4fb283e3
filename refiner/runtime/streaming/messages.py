"""Frames and refined frames as JSON: one object in a line or in a message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from refiner.errors import InputError
from refiner.json_text import JsonError, other_than_number, parse_json
from refiner.runtime.streaming.frames import RefinedFrame
from refiner.runtime.streaming.refiner import Frame

# A frame of 33 joints in full precision takes 4 kB.
LARGEST_MESSAGE = 1 << 20
# The largest number of people in one message {"frames": [...]}.
MOST_FRAMES = 64
FIELDS = ("pose_2d", "pose_3d", "timestamp", "image_size", "person_id", "confidence", "focal_length")
# The fields that hold numbers in nested lists.
NUMBERS = ("pose_2d", "pose_3d", "image_size", "confidence", "focal_length")
LARGEST_ID = 2**63 - 1


def parse_message(text: str | bytes) -> list[Frame]:
    """Read the frames of one message.

    A frame is an object with ``pose_2d`` and ``timestamp``. It may also have ``pose_3d``, ``image_size``,
    ``focal_length``, ``person_id`` and ``confidence``; `StreamingRefiner.push` explains them. null and NaN mark missing
    coordinates.

    Args:
        text: JSON: a frame, ``{"frames": [...]}`` with the frames of several people, or ``{"flush": true}``, which ends
            a stream.

    Returns:
        The frames; an empty list for ``{"flush": true}``.

    Raises:
        InputError: the message is anything else.
    """
    if len(text) > LARGEST_MESSAGE:
        raise InputError(f"the message has {len(text):,} bytes; expected at most {LARGEST_MESSAGE:,}")
    try:
        message = parse_json(text)
    except JsonError as error:
        raise InputError(f"the message is no JSON that can be used: {_short(error)}") from error
    if isinstance(message, dict) and message.get("flush") is True and len(message) == 1:
        return []
    entries = message.get("frames", [message]) if isinstance(message, dict) else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_FRAMES:
        raise InputError(
            'expected an object with pose_2d and timestamp, {"frames": [such objects, at most '
            f'{MOST_FRAMES}]}} or {{"flush": true}}'
        )
    return [_frame(entry) for entry in entries]


def _frame(entry: object) -> Frame:
    if not isinstance(entry, dict):
        raise InputError(f"a frame is {_short(entry)}; expected an object with pose_2d and timestamp")
    unknown = [name for name in entry if name not in FIELDS]
    missing = [name for name in ("pose_2d", "timestamp") if name not in entry]
    if unknown or missing:
        problem = f"unknown {_short(', '.join(map(str, unknown)))}" if unknown else f"no {', '.join(missing)}"
        raise InputError(f"a frame has {problem}; expected {', '.join(FIELDS)}")
    person = entry.get("person_id", 0)
    if isinstance(person, bool) or not isinstance(person, int) or not 0 <= person <= LARGEST_ID:
        raise InputError(f"person_id is {_short(person)}; expected a whole number, 0 or more")
    timestamp = entry["timestamp"]
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        raise InputError(f"timestamp is {_short(timestamp)}; expected seconds, a number")
    for name in NUMBERS:
        wrong = other_than_number(entry.get(name))
        if wrong is not None:
            raise InputError(f"{name} holds {_short(wrong)}; expected numbers, and null for a missing coordinate")
    return Frame(
        _array(entry["pose_2d"]),
        _array(entry.get("pose_3d")),
        timestamp,
        entry.get("image_size"),
        person,
        entry.get("confidence"),
        entry.get("focal_length"),
    )


def _array(values: Any) -> Any:
    """Lists of numbers and null as an array; anything else as it is, for the stream to refuse.

    A stream takes lists, too, but looks at each value of them for arrays of other libraries.
    """
    if not isinstance(values, list):
        return values
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return values


def refined_message(frame: RefinedFrame) -> str:
    """Write a refined frame as one line of JSON, with metres to a hundredth of a millimetre."""
    return json.dumps(
        {
            "timestamp": frame.timestamp,
            "person_id": frame.person_id,
            "status": frame.status,
            "reasons": list(frame.reasons),
            "pose_3d": np.round(frame.pose_3d.astype(np.float64), 5).tolist(),
            "std": np.round(frame.std.astype(np.float64), 5).tolist(),
            "infilled": np.flatnonzero(frame.infilled).tolist(),
        },
        allow_nan=False,
    )


def error_message(error: Exception) -> str:
    """Write the error that a message caused as a message."""
    return json.dumps({"error": str(error)})


def read_lines(source: BinaryIO, largest: int = LARGEST_MESSAGE) -> Iterator[bytes | InputError]:
    """Read the lines of a byte stream; blank lines are left out.

    A line longer than ``largest`` bytes is skipped in pieces, so that it takes no memory, and an InputError is yielded
    (not raised) in its place.
    """
    while line := source.readline(largest + 1):
        if len(line) <= largest or line.endswith(b"\n"):
            if line.strip():
                yield line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(largest + 1)
        yield InputError(f"a line has more than {largest:,} bytes; expected one frame")


def _short(value: object) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
