"""Single values of callers: the right plain value comes out, or a UsageError with the value and the expected ones."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.arguments import (
    check_choice,
    check_flag,
    check_number,
    check_path,
    check_threads,
    check_whole,
    most_threads,
    shown,
)
from refiner.engines import EngineOptions
from refiner.errors import UsageError

# Things that callers pass by mistake, or that a JSON or TOML file or a form holds.
ODD = [
    None,
    "2",
    b"2",
    "",
    [],
    [1, 2],
    {},
    (),
    1j,
    SimpleNamespace(),
    float,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
    10**5000,
    np.array([1, 2]),
    np.array(["1"]),
    np.ma.masked,
    np.datetime64("2020-01-01"),
]
anything = st.one_of(
    st.sampled_from(ODD),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.lists(st.integers()),
)


@given(anything)
def test_every_check_gives_a_plain_value_or_a_usage_error(value):
    checks = {
        int: lambda: check_whole(value, "steps", 1, 50),
        float: lambda: check_number(value, "fps", 1.0, 1000.0),
        bool: lambda: check_flag(value, "flip_test"),
        str: lambda: check_choice(value, "mode", ("causal", "window")),
    }
    for kind, check in checks.items():
        try:
            assert type(check()) is kind
        except UsageError:
            assert type(value) is not kind or kind is not bool
    try:
        assert isinstance(check_path(value), Path)
    except UsageError:
        assert not isinstance(value, str) or "\0" in value


@pytest.mark.parametrize("value", [*ODD, 1.9, 2.0, True, False, np.True_, 0, -1, 51, np.float64(2)], ids=shown)
def test_what_is_no_number_of_steps(value):
    with pytest.raises(UsageError, match=r"steps is .*; expected a whole number from 1 to 50"):
        check_whole(value, "steps", 1, 50)


def test_what_is():
    torch = pytest.importorskip("torch")
    for value in (2, np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)):
        assert check_whole(value, "steps", 1, 50) == 2 and type(check_whole(value, "steps", 1, 50)) is int
    for value in (25, 25.0, np.float32(25), np.int16(25), Fraction(25), np.array(25.0), torch.tensor(25.0)):
        assert check_number(value, "fps", 1, 1000) == 25.0
    assert check_flag(np.True_, "smoothing") is True and check_flag(False, "smoothing") is False


@pytest.mark.parametrize("value", [*ODD, "fast", True, 0.9, 1001], ids=shown)
def test_what_is_no_frame_rate(value):
    with pytest.raises(UsageError, match=r"fps is .*; expected frames per second, a number from 1 to 1000"):
        check_number(value, "fps", 1, 1000, "frames per second")


@pytest.mark.parametrize("value", [*ODD, 0, 1, "no", "False", np.int64(1)], ids=shown)
def test_what_is_no_switch(value):
    with pytest.raises(UsageError, match="expected True or False"):
        check_flag(value, "flip_test")


def test_long_values_are_shortened():
    assert shown(10**5000) == "a huge int" and len(shown("x" * 1000)) == 80 and shown(1.5) == "1.5"


@pytest.mark.parametrize("threads", [*ODD[1:], 0, -1, 1.5, True, 10**6, most_threads() + 1], ids=shown)
def test_numbers_of_threads_that_no_engine_takes(threads):
    expected = f"threads is .*; expected a whole number from 1 to {most_threads()}"
    with pytest.raises(UsageError, match=expected):
        EngineOptions(threads=threads).checked()
    with pytest.raises(UsageError, match=expected):
        check_threads(threads)
    assert EngineOptions(threads=np.int32(1)).checked().threads == 1 and most_threads() >= 64


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"steps": 1.9}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 10**400}, "steps"),
        ({"streams": 0}, "streams"),
        ({"streams": "2"}, "streams"),
        ({"pipelined": 1}, "pipelined"),
        ({"pipelined": "no"}, "pipelined"),
        ({"engine": ["onnx"]}, "engine"),
        ({"device": b"cpu"}, "device"),
        ({"goal": None}, "goal"),
    ],
)
def test_options_of_another_type(options, name):
    with pytest.raises(UsageError, match=name):
        EngineOptions(**options).checked()
