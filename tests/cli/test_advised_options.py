"""Messages advise options that exist in the command that prints them."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import refiner_bench.cli
import refiner_bench.gpu.command
import refiner_export.cli
import refiner_export.demo

import refiner.cli.calibrate
import refiner.cli.convert
import refiner.cli.evaluate
import refiner.cli.refine
import refiner.cli.stream
import refiner.cli.train
from studies.accuracy.command import build_parser as study_parser

ROOT = Path(__file__).parent.parent.parent
PARSERS = {
    parser.prog: parser
    for parser in (
        *(
            module.build_parser()
            for module in (
                refiner.cli.calibrate,
                refiner.cli.convert,
                refiner.cli.evaluate,
                refiner.cli.refine,
                refiner.cli.stream,
                refiner.cli.train,
                refiner_export.cli,
                refiner_export.demo,
                refiner_bench.cli,
                refiner_bench.gpu.command,
            )
        ),
        study_parser(),
    )
}
# Whose messages a module holds, by the beginning of its path. What several commands share has to say which command it
# means, by its name or by the word "export".
OWNERS = {
    "refiner/cli/calibrate": "refiner-calibrate",
    "refiner/cli/convert": "refiner-convert",
    "refiner/cli/evaluat": "refiner-evaluate",
    "refiner/evaluation": "refiner-evaluate",
    "refiner/cli/refine": "refiner-refine",
    "refiner/archive": "refiner-refine",
    "refiner/runtime/people": "refiner-refine",
    "refiner/formats": "refiner-refine",
    "refiner/cli/stream": "refiner-stream",
    "refiner/cli/camera": "refiner-stream",
    "refiner/cli/trajectory": "refiner-refine",
    "refiner/video": "refiner-refine",
    "refiner/cli/train": "refiner-train",
    "refiner/training/published": "refiner-convert",
    "refiner/training/trust": "refiner-calibrate",
    "refiner/training/calibration": "refiner-calibrate",
    "refiner/training": "refiner-train",
    "export/refiner_export/demo": "refiner-demo",
    "export/refiner_export": "refiner-export",
    "bench/refiner_bench": "refiner-bench",
    "bench/refiner_bench/gpu": "quarter-hour",
    "studies": "python -m studies.accuracy",
}
# The options of other programs.
FOREIGN = {"--write_json", "--version", "--format", "--nproc-per-node"}
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMMAND = re.compile("|".join(map(re.escape, sorted(PARSERS, key=len, reverse=True))))


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a command and of its subcommands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= options_of(inner)
    return found


OPTIONS = {name: options_of(parser) for name, parser in PARSERS.items()}


def texts_of(file: Path) -> Iterator[tuple[int, str]]:
    """The texts of the errors and warnings that a module raises, with ... for what it fills in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        called = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(called, ast.Call):
            continue
        name = called.func.attr if isinstance(called.func, ast.Attribute) else getattr(called.func, "id", "")
        if not (isinstance(node, ast.Raise) or name in ("warn", "error")):
            continue
        for part in ast.walk(called):
            if isinstance(part, ast.JoinedStr):
                pieces = [piece.value if isinstance(piece, ast.Constant) else "..." for piece in part.values]
                yield node.lineno, "".join(map(str, pieces))
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield node.lineno, part.value


def owner_of(path: str) -> str | None:
    fitting = [beginning for beginning in OWNERS if path.startswith(beginning)]
    return OWNERS[max(fitting, key=len)] if fitting else None


def advice() -> list[tuple[str, str, str | None]]:
    """Where an option is advised, the option, and the command whose option it should be; None where nobody says."""
    found = []
    for folder in ("refiner", "export/refiner_export", "bench/refiner_bench", "studies"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            for line, text in texts_of(file):
                for match in OPTION.finditer(text):
                    before = text[: match.start()]
                    named = COMMAND.findall(before)
                    exports = "refiner-export" if re.search(r"\bexport", before) else None
                    found.append((f"{path}:{line}", match.group(), named[-1] if named else exports or owner_of(path)))
    return found


def test_every_command_of_the_table_exists():
    assert set(OWNERS.values()) <= set(OPTIONS)


def test_options_that_messages_advise_exist():
    found = [entry for entry in advice() if entry[1] not in FOREIGN]
    assert len(found) > 60
    missing = [
        f"{where}: {option} is no option of {command}, or does not say whose option it is"
        for where, option, command in found
        if option not in OPTIONS.get(command or "", set())
    ]
    assert missing == []
