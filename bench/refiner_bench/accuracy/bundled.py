"""The reports of the bundled models, which the tables of README and docs are made of: a table of evaluations."""

from __future__ import annotations

import contextlib
import io
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from refiner.cli.evaluate import main as evaluate
from refiner.errors import InputError, TrainingError

TABLE = Path(__file__).with_name("bundled.toml")
# Models that the table names by a path lie in the checkout.
ROOT = Path(__file__).parents[3]
MODELS = ("--lifter", "--refiner")


@dataclass(frozen=True)
class Evaluation:
    """A report's name below the folder of reports, without its ending, and the arguments of ``refiner-evaluate``."""

    file: str
    arguments: tuple[str, ...]


def load_evaluations(table: Path = TABLE) -> list[Evaluation]:
    """The rows of a table of evaluations. Raises InputError for a file that is none."""
    try:
        rows = tomllib.loads(table.read_text(encoding="utf-8"))["report"]
        return [Evaluation(str(row["file"]), tuple(map(str, row["arguments"]))) for row in rows]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{table} is no table of evaluations: {error!r}") from error


def select(evaluations: Sequence[Evaluation], names: Sequence[str]) -> list[Evaluation]:
    """Those of ``names``; all without any. Raises InputError for one that is not there."""
    unknown = sorted(set(names) - {entry.file for entry in evaluations})
    if unknown:
        known = ", ".join(entry.file for entry in evaluations)
        raise InputError(f"no report {', '.join(unknown)}; the table has {known}")
    return [entry for entry in evaluations if not names or entry.file in names]


def run_evaluations(
    evaluations: Sequence[Evaluation],
    data: Path | None,
    reports: Path,
    tell: Callable[[str], None] = lambda text: None,
    more: Sequence[str] = (),
) -> list[Path]:
    """Write each report as JSON and Markdown below ``reports``; returns the JSON files.

    ``data`` None takes built-in motion; ``more`` arguments go to every evaluation. Raises TrainingError where one
    failed, whose message ``refiner-evaluate`` has written.
    """
    written = []
    for number, entry in enumerate(evaluations, 1):
        tell(f"{entry.file} ({number} of {len(evaluations)})")
        file = reports / f"{entry.file}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        source = ["--synthetic", "7"] if data is None else ["--data", str(data)]
        words = [*source, *_with_paths(entry.arguments), "--quiet", "--markdown", "--json", str(file), *more]
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            code = evaluate(words)
        if code:
            raise TrainingError(f"{entry.file}: refiner-evaluate {' '.join(words)} ended with {code}")
        file.with_suffix(".md").write_text(told.getvalue(), encoding="utf-8")
        written.append(file)
    return written


def _with_paths(arguments: Sequence[str]) -> list[str]:
    words = list(arguments)
    for place, word in enumerate(words[:-1]):
        if word in MODELS and "/" in words[place + 1]:
            words[place + 1] = str(ROOT / words[place + 1])
    return words
