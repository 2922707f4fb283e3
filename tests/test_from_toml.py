"""Dataclasses from TOML: what is taken, and errors that name the field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    words: tuple[str, ...] = ()
    side: Literal["left", "right"] = "left"


def test_it_is_the_inverse_of_asdict():
    found = dataclass_from(Outer, {"name": "a", "inner": {"rate": 2}, "words": ["b"]}, "file")
    assert found == Outer("a", Inner(2.0), ("b",)) and dataclass_from(Outer, asdict(found), "file") == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "file must be a table"),
        ({}, "file: missing name"),
        ({"name": "a", "age": 3}, "file: unknown age"),
        ({"name": 3}, "file: name: expected str, got 3"),
        ({"name": "a", "words": "b"}, "file: words: expected a list"),
        ({"name": "a", "side": "up"}, "file: side: expected one of left, right"),
        ({"name": "a", "inner": {"rate": "fast"}}, "file: inner: rate: expected float"),
    ],
)
def test_errors_name_the_field(content, words):
    with pytest.raises(ConfigError, match=words):
        dataclass_from(Outer, content, "file")
