"""What commands share: warnings about inputs are lines on stderr, not one for every clip."""

from __future__ import annotations

import argparse
import warnings

import pytest

from refiner.cli.common import JOINT_CHOICES, run
from refiner.errors import InputWarning
from refiner.skeleton import JOINT_SETS


def warned(capsys, *messages, category=InputWarning):
    def command(arguments: argparse.Namespace) -> None:
        for message in messages:
            warnings.warn(message, category, stacklevel=1)

    assert run(command, argparse.ArgumentParser(prog="tool"), []) == 0
    return capsys.readouterr().err.splitlines()


def test_a_warning_is_a_line(capsys):
    assert warned(capsys, "the lens is a guess") == ["tool: warning: the lens is a guess"]
    assert warned(capsys, *3 * ["the lens is a guess"]) == ["tool: warning: the lens is a guess"]


def test_warnings_that_differ_in_numbers_are_counted(capsys):
    swaps = [f"swapped in {count} of {count + 0.5} frames" for count in range(10)]
    found = warned(capsys, *swaps, "another thing", *swaps)
    assert found == [
        "tool: warning: swapped in 0 of 0.5 frames",
        "tool: warning: another thing",
        "tool: warning: 9 more like this: swapped in 0 of 0.5 frames",
    ]


def test_other_warnings_are_python_s(capsys):
    with pytest.warns(RuntimeWarning, match="not ours"):
        assert warned(capsys, "not ours", category=RuntimeWarning) == []


def test_every_command_says_its_version(capsys):
    from refiner import __version__

    assert run(lambda arguments: None, argparse.ArgumentParser(prog="tool"), ["--version"]) == 0
    assert capsys.readouterr().out == f"tool {__version__}\n"


def test_commands_take_every_joint_set():
    assert tuple(JOINT_SETS) == JOINT_CHOICES
