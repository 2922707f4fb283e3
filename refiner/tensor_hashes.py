"""Hashes in a checkpoint: every tensor and the metadata are found unchanged when the file is read.

A ``.safetensors`` file begins with the length of its header and the header, which is JSON. The entry ``hashes`` in the
header's metadata holds the SHA-256 of each tensor (its name, type, shape and bytes) and of the other metadata. Files of
earlier versions have no such entry.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.errors import CheckpointError
from refiner.json_text import JsonError, parse_json

ENTRY = "hashes"
METADATA = "__metadata__"
# Headers are padded with spaces, so that tensors begin at a multiple of this.
ALIGNMENT = 8
# A header has some kilobytes. A longer one is something else.
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file are: the text of its header, the header parsed, and the begin of the tensors' bytes."""

    text: bytes
    header: Mapping[str, Any]
    begin: int

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts that the file holds beside its tensors."""
        return self.header.get(METADATA) or {}


def add_hashes(file: Path) -> None:
    """Add the hashes to a ``.safetensors`` file that has metadata and no hashes, in place.

    Raises:
        CheckpointError: The file has another format, no metadata, or hashes already.
    """
    layout = _layout_of(file)
    opening = _opening(layout.text)
    if opening is None or ENTRY in layout.metadata:
        raise CheckpointError(f"{file} has no metadata that hashes could be added to, or has hashes already")
    entry = json.dumps(json.dumps(_hashes_of(file, layout), separators=(",", ":")))
    added = f"{json.dumps(ENTRY)}:{entry}{',' if layout.metadata else ''}".encode()
    tensors = file.read_bytes()[layout.begin :]
    file.write_bytes(_framed(layout.text[:opening] + added + layout.text[opening:]) + tensors)


def check_hashes(file: Path) -> Layout:
    """Compare a ``.safetensors`` file with its hashes. A file without hashes is not checked.

    Returns:
        Where the parts of the file are.

    Raises:
        CheckpointError: A tensor or the metadata differs, which the message names; or the file has another format.
    """
    layout = _layout_of(file)
    stored = layout.metadata.get(ENTRY)
    if stored is None:
        return layout
    try:
        expected = parse_json(stored)
    except JsonError as error:
        raise CheckpointError(f"{file} holds no usable hashes ({error}); copy it again") from error
    found = _hashes_of(file, layout)
    if expected == found:
        return layout
    names = expected.keys() | found.keys() if isinstance(expected, dict) else set(found)
    changed = sorted(name for name in names if not isinstance(expected, dict) or expected.get(name) != found.get(name))
    what = ", ".join("its configuration" if name == METADATA else f"the tensor {name}" for name in changed[:3])
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise CheckpointError(
        f"{file} is damaged: {what}{more} differ from the hashes that were stored with it; copy or train it again"
    )


def sha256_without_hashes(file: Path) -> str:
    """The SHA-256 of a checkpoint as it was before `add_hashes`; of any other file, that of its bytes."""
    content = file.read_bytes()
    try:
        layout = _layout_of(file)
    except CheckpointError:
        return hashlib.sha256(content).hexdigest()
    opening = _opening(layout.text)
    if opening is None or ENTRY not in layout.metadata:
        return hashlib.sha256(content).hexdigest()
    entry = json.dumps(ENTRY) + ":" + json.dumps(layout.metadata[ENTRY])
    added = (entry + ("," if len(layout.metadata) > 1 else "")).encode()
    rest = layout.text[opening:].removeprefix(added)
    return hashlib.sha256(_framed(layout.text[:opening] + rest) + content[layout.begin :]).hexdigest()


def _layout_of(file: Path) -> Layout:
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(ALIGNMENT), "little")
        if not 2 <= length <= min(LONGEST_HEADER, os.fstat(opened.fileno()).st_size - ALIGNMENT):
            raise CheckpointError(f"{file} is no readable safetensors file: it is truncated, or has another format")
        text = opened.read(length)
    try:
        header = parse_json(text)
    except JsonError as error:
        raise CheckpointError(f"{file} is no readable safetensors file ({error}); copy it again") from error
    metadata = header.get(METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{file} is no readable safetensors file: its header describes no tensors")
    return Layout(text.rstrip(b" "), header, ALIGNMENT + length)


def _opening(text: bytes) -> int | None:
    """Where the entries of the metadata begin in the text of a header; None where it does not begin with them."""
    beginning = f'{{"{METADATA}":{{'.encode()
    return len(beginning) if text.startswith(beginning) else None


def _framed(header: bytes) -> bytes:
    """A header with its length in front, padded."""
    padded = header + b" " * (-len(header) % ALIGNMENT)
    return len(padded).to_bytes(ALIGNMENT, "little") + padded


def _hashes_of(file: Path, layout: Layout) -> dict[str, str]:
    """The hash of each tensor by name, and of the metadata without the hashes."""
    metadata = {name: value for name, value in layout.metadata.items() if name != ENTRY}
    hashes = {METADATA: hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()}
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for name, entry in layout.header.items():
            if name == METADATA:
                continue
            try:
                described = json.dumps([name, entry["dtype"], entry["shape"]])
                first, last = (layout.begin + int(offset) for offset in entry["data_offsets"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(
                    f"{file} is no readable safetensors file: it does not say where {name} is"
                ) from error
            digest = hashlib.sha256(described.encode())
            with memoryview(mapped) as content, content[first:last] as part:
                digest.update(part)
            hashes[name] = digest.hexdigest()
    return hashes
