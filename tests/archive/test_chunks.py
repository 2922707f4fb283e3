"""Chunks and the names of output files."""

from __future__ import annotations

import random
import string

import pytest

from refiner.archive.chunks import chunks_of
from refiner.archive.names import LONGEST, printable, stems_of
from refiner.archive.sequences import SequenceRef


def refs(count, seed=0, frames=(1, 900)):
    rng = random.Random(seed)
    return [SequenceRef(f"clip{number:05d}", "arrays", "", weight=rng.randint(*frames)) for number in range(count)]


def test_chunks_hold_all_sequences_in_order_and_are_bounded():
    some = [*refs(500), SequenceRef("clip00250b", "arrays", "", weight=20_000)]
    some.sort(key=lambda ref: ref.name)
    chunks = chunks_of(some, 5000)
    assert [ref for chunk in chunks for ref in chunk.refs] == some
    assert all(chunk.weight <= 5000 or len(chunk.refs) == 1 for chunk in chunks)
    assert sum(chunk.weight for chunk in chunks) / len(chunks) > 1500
    assert len({chunk.identity for chunk in chunks}) == len(chunks)
    assert chunks_of([], 5000) == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_new_sequence_changes_few_chunks(seed):
    some = refs(2000, seed)
    before = {chunk.identity for chunk in chunks_of(some, 5000)}
    new = SequenceRef(f"clip{random.Random(seed).randint(0, 1999):05d}b", "arrays", "", weight=400)
    after = chunks_of(sorted([*some, new], key=lambda ref: ref.name), 5000)
    assert len([chunk for chunk in after if chunk.identity not in before]) <= 6


def test_inputs_of_unknown_size_do_not_pile_up():
    some = [SequenceRef(f"{number:04d}", "arrays", "") for number in range(100)]
    assert max(len(chunk.refs) for chunk in chunks_of(some, 10)) <= 10


def test_names_are_safe_and_different():
    names = [
        *(
            "a/b",
            "a-b",
            "A-B",
            "con",
            "NUL",
            "nul.x",
            "../../etc/passwd",
            "",
            " ",
            "x" * 300,
            "x" * 301,
            "日本",
            "中国",
        ),
        *("a\0b", "a\nb", "a_b", "walk-0123456789ab", "Walk", "walk", "\ud800", "trailing.", "trailing", ".hidden"),
    ]
    stems = stems_of(names)
    assert len({stem.lower() for stem in stems}) == len(names)
    allowed = set(string.ascii_letters + string.digits + "_-")
    for stem in stems:
        assert stem and set(stem) <= allowed and len(stem) <= LONGEST + 13
        assert stem.lower() not in ("con", "nul")
    assert stems_of(["S1/Walking 1/0", "clip-7"]) == ["S1-Walking_1-0", "clip-7"]


def test_names_do_not_depend_on_their_order():
    names = ["a/b", "a-b", "c", "C", "d"]
    forwards = dict(zip(names, stems_of(names), strict=True))
    assert forwards == dict(zip(names[::-1], stems_of(names[::-1]), strict=True))


def test_names_are_printed_without_control_characters():
    assert printable("a\x1b[31mb\nc\ud800") == "a?[31mb?c?"
