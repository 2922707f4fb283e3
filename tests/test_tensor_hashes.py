"""A checkpoint that changed since it was written is refused, and the message names what changed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from refiner import bundled
from refiner.errors import CheckpointError
from refiner.model_files.arrays import load_arrays
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.tensor_hashes import ENTRY, add_hashes, check_hashes, sha256_without_hashes

EARLIER = Path(__file__).parent / "earlier"
REPORTS = Path(__file__).parent.parent / "bench" / "reports"
TENSORS = {
    "model.a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "model.b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "model.empty": torch.zeros(0),
    "noise.c": torch.tensor(3, dtype=torch.int64),
}
CONFIG = {"kind": "lifter", "name": "é"}


def offsets(file):
    """The places in the file where each tensor's bytes begin and end."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {
        name: tuple(8 + length + offset for offset in entry["data_offsets"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def flip(file, place, bit=0):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def test_what_is_saved_is_what_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    save_checkpoint(file, CONFIG, TENSORS)
    read = load_checkpoint(file)
    assert read.config == CONFIG and read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("name", [name for name, tensor in TENSORS.items() if tensor.numel()])
@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("load", [load_checkpoint, load_arrays])
def test_a_flipped_bit_is_found_and_its_tensor_named(tmp_path, name, bit, load):
    file = tmp_path / "a.safetensors"
    save_checkpoint(file, CONFIG, TENSORS)
    begin, end = offsets(file)[name]
    for place in range(begin, end):
        flip(file, place, bit)
        with pytest.raises(CheckpointError, match=rf"{re.escape(str(file))} is damaged: the tensor {name} differ"):
            load(file)
        flip(file, place, bit)
    check_hashes(file)


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused_or_changes_nothing(tmp_path_factory, place, bit):
    file = tmp_path_factory.mktemp("flipped") / "a.safetensors"
    save_checkpoint(file, CONFIG, TENSORS)
    flip(file, int(place * file.stat().st_size), bit)
    try:
        read = load_checkpoint(file)
    except CheckpointError:
        return
    assert read.config == CONFIG
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_an_exchanged_configuration_is_found(tmp_path):
    file = tmp_path / "a.safetensors"
    save_checkpoint(file, CONFIG, TENSORS)
    content = file.read_bytes().replace(b"lifter", b"refine", 1)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its configuration differ"):
        load_checkpoint(file)


def test_a_file_that_another_program_wrote_again_is_the_same(tmp_path):
    """The order of tensors and metadata in the file is not part of its content."""
    file, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(file, CONFIG, TENSORS)
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in reversed(list(opened.keys()))}
        save_file(tensors, again, dict(reversed(opened.metadata().items())))
    check_hashes(again)


def test_hashes_are_added_once_and_taken_away_without_a_trace(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(TENSORS, file, {"a": "b"})
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert sha256_without_hashes(file) == before
    add_hashes(file)
    assert hashlib.sha256(file.read_bytes()).hexdigest() != before == sha256_without_hashes(file)
    with pytest.raises(CheckpointError, match="hashes already"):
        add_hashes(file)
    other = tmp_path / "text"
    other.write_text("x")
    assert sha256_without_hashes(other) == hashlib.sha256(b"x").hexdigest()


def test_files_of_earlier_versions_have_no_hashes_and_load():
    for file in sorted(EARLIER.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            assert ENTRY not in opened.metadata()
        check_hashes(file)


@pytest.mark.parametrize("file", sorted(bundled.FOLDER.glob("*.safetensors")), ids=lambda file: file.stem)
def test_bundled_checkpoints_have_hashes(file):
    with safe_open(file, "pt") as opened:
        hashes = json.loads(opened.metadata()[ENTRY])
        assert hashes.keys() == {*opened.keys(), "__metadata__"}
    check_hashes(file)


def test_reports_still_name_the_bundled_checkpoints_that_they_measured():
    """The hashes came after the reports: without them, the files are those that were measured."""
    text = "".join(path.read_text(encoding="utf-8") for path in REPORTS.glob("*.json"))
    measured = ("lifter", "lifter-nano-rays", "lifter-small-rays", "refiner", "refiner-nano-rays-long")
    for name in measured:
        assert sha256_without_hashes(bundled.checkpoint(name)) in text, name
