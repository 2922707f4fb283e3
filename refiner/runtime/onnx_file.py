"""The bytes of an ONNX file, read without the onnx package: their hash, and weights that lie in other files.

An ONNX file is a protobuf message: a sequence of fields, each with a number, a type and a content. The last field that
refiner-export writes is an entry of the metadata, `HASH_KEY`, with the SHA-256 of all bytes before and after it. Graphs
of earlier versions have no such entry.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from refiner.errors import ArtefactError

HASH_KEY = "refiner_sha256"
# Numbers of fields in onnx.proto: of ModelProto, GraphProto, TensorProto and StringStringEntryProto.
GRAPH, METADATA = 7, 14
INITIALIZER = 5
EXTERNAL_DATA = 13
KEY, VALUE = 1, 2
# Types of fields (protobuf's wire types): a number, 8 bytes, a length and as many bytes, 4 bytes.
NUMBER, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5


def add_hash(file: Path) -> None:
    """Append the hash of its bytes to an ONNX file, as an entry of its metadata."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = _field(KEY, HASH_KEY.encode()) + _field(VALUE, digest.encode())
    with open(file, "ab") as opened:
        opened.write(_field(METADATA, entry))


def check_graph_file(file: Path) -> None:
    """Compare an ONNX file with the hash in it.

    Raises:
        ArtefactError: the file changed since refiner-export wrote it, is no ONNX file, or keeps weights in other files,
            which its hash does not cover.
    """
    try:
        with (
            open(file, "rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as content,
        ):
            stored, found, outside = _facts_of(content)
    except ValueError as error:
        raise ArtefactError(
            f"cannot load {file}: it is truncated or no ONNX graph ({error}); export it again"
        ) from error
    if outside:
        raise ArtefactError(
            f"{file} keeps its weights in other files, which may be those of another model; export it again: "
            "refiner-export writes one file"
        )
    if stored is not None and stored != found:
        raise ArtefactError(
            f"{file} has sha256 {found} where its metadata says {stored}: its weights, its graph or its manifest was "
            "changed or damaged; export it again"
        )


def _facts_of(content: memoryview) -> tuple[str | None, str, bool]:
    """The stored hash, the hash of the bytes, and whether weights lie in other files."""
    digest, stored, outside = hashlib.sha256(), None, False
    for number, begin, value, end in _fields(content, 0, len(content)):
        if number == METADATA:
            entry = {name: bytes(content[first:last]) for name, _, first, last in _fields(content, value, end)}
            if entry.get(KEY) == HASH_KEY.encode():
                stored = entry.get(VALUE, b"").decode("ascii", "replace")
                continue
        elif number == GRAPH:
            outside |= _has_outside_weights(content, value, end)
        digest.update(content[begin:end])
    return stored, digest.hexdigest(), outside


def _has_outside_weights(content: memoryview, begin: int, end: int) -> bool:
    return any(
        part == EXTERNAL_DATA
        for number, _, first, last in _fields(content, begin, end)
        if number == INITIALIZER
        for part, _, _, _ in _fields(content, first, last)
    )


def _fields(content: memoryview, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: the number, where the field begins, where its content begins and ends.

    Raises:
        ValueError: the bytes are no message.
    """
    while place < end:
        begin = place
        tag, place = _number(content, place, end)
        kind = tag & 7
        if kind == BYTES:
            length, value = _number(content, place, end)
            place = value + length
        elif kind == NUMBER:
            value = place
            _, place = _number(content, place, end)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            value = place
            place += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"byte {begin} begins no field")
        if place > end or not tag >> 3:
            raise ValueError(f"the field at byte {begin} is cut off")
        yield tag >> 3, begin, value, place


def _number(content: memoryview, place: int, end: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it: seven bits in a byte, the lowest first."""
    value = 0
    for index in range(10):
        if place >= end:
            break
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number at byte {place} is cut off")


def _field(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _variable(number << 3 | BYTES) + _variable(len(content)) + content


def _variable(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
