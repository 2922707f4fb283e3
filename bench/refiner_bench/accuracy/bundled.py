"""The accuracy reports of the bundled models. A table lists their evaluations; README and docs show the results."""

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
# The root of the checkout. The table gives the paths of models relative to it.
ROOT = Path(__file__).parents[3]
# The options of ``refiner-evaluate`` that name a model.
MODEL_OPTIONS = ("--lifter", "--refiner")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the table.

    Attributes:
        file: The path of its report, relative to the folder of reports, without the suffix.
        arguments: The arguments of ``refiner-evaluate``.
    """

    file: str
    arguments: tuple[str, ...]


def load_evaluations(table: Path = TABLE) -> list[Evaluation]:
    """Read a table of evaluations. Raises InputError for a file that is no such table."""
    try:
        rows = tomllib.loads(table.read_text(encoding="utf-8"))["report"]
        return [Evaluation(str(row["file"]), tuple(map(str, row["arguments"]))) for row in rows]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{table} is no table of evaluations: {error!r}") from error


def select(evaluations: Sequence[Evaluation], names: Sequence[str]) -> list[Evaluation]:
    """The evaluations with the given names; all of them if ``names`` is empty.

    Raises:
        InputError: The table lacks a name.
    """
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
    """Run evaluations, and write each report as JSON and Markdown.

    Args:
        evaluations: The evaluations.
        data: The motion archive; None for built-in motion.
        reports: The folder of the reports.
        tell: Receives a line of progress for each evaluation.
        more: Further arguments for every evaluation.

    Returns:
        The JSON files.

    Raises:
        TrainingError: An evaluation failed. ``refiner-evaluate`` has printed the reason.
    """
    files = []
    for number, entry in enumerate(evaluations, 1):
        tell(f"{entry.file} ({number} of {len(evaluations)})")
        file = reports / f"{entry.file}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        source = ["--synthetic", "7"] if data is None else ["--data", str(data)]
        arguments = [*source, *_with_paths(entry.arguments), "--quiet", "--markdown", "--json", str(file), *more]
        markdown = io.StringIO()
        with contextlib.redirect_stdout(markdown):
            code = evaluate(arguments)
        if code:
            raise TrainingError(f"{entry.file}: refiner-evaluate {' '.join(arguments)} ended with {code}")
        file.with_suffix(".md").write_text(markdown.getvalue(), encoding="utf-8")
        files.append(file)
    return files


def _with_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with paths of models made absolute; bundled names stay as they are."""
    absolute = list(arguments)
    for index, option in enumerate(arguments[:-1]):
        if option in MODEL_OPTIONS and "/" in arguments[index + 1]:
            absolute[index + 1] = str(ROOT / arguments[index + 1])
    return absolute
