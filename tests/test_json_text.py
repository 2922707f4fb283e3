"""JSON of unknown origin is parsed, or refused with one error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner.json_text import JsonError, other_than_number, parse_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(value=PLAIN)
def test_plain_values_are_read_as_the_standard_library_reads_them(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode("utf-8-sig")) == value


@settings(max_examples=500, deadline=None)
@given(text=st.binary(max_size=60) | st.text(alphabet='[]{}",:0123456789.eE+-NaIfintrul \\\0', max_size=40))
def test_any_text_is_a_value_or_one_error(text):
    try:
        value = parse_json(text)
    except JsonError:
        return
    assert value is None or isinstance(value, str | int | float | list | dict)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1" * 21, "integer of 21 digits"),
        ("-" + "1" * 5000, "integer of 5000 digits"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "'b' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "codec"),
        ("", "Expecting value"),
    ],
)
def test_what_is_refused(text, told):
    with pytest.raises(JsonError, match=told):
        parse_json(text)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 2.5], [None, float("nan")]], None),
        (3.0, None),
        ([], None),
        ([[1, True], ["7"]], True),
        ([[1, 2], ["7", {}]], "7"),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_what_is_no_number_is_found(values, expected):
    found = other_than_number(values)
    assert found == expected and type(found) is type(expected)
