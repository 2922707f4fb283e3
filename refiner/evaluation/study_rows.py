"""Reports for the papers' tables: the reports of `refiner-evaluate`, and the rows of the accuracy study's report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.evaluation.selection import describe_archive
from refiner.reports import EVALUATION, STUDY, Report, read_report, report_kind


def load_reports(path: str | os.PathLike[str]) -> list[tuple[str, Report]]:
    """Read a file and return the reports in it, each with its name.

    A report of `refiner-evaluate` is one report. An accuracy report gives one report for each trained row. Raises
    ArchiveError for another file.
    """
    name, report = Path(path).stem, read_report(path, (EVALUATION, STUDY))
    return list(rows_as_reports(name, report)) if report_kind(report) == STUDY else [(name, report)]


def rows_as_reports(name: str, study: Mapping[str, Any]) -> Iterator[tuple[str, Report]]:
    """Convert every lifter and every refiner of an accuracy report to a report of `refiner-evaluate`.

    The results have the parts that `refiner.evaluation.paper_tables` reads. A row that scores the model of another row
    in another way is left out. Raises ArchiveError if the report lacks the data of its rows.
    """
    if "variants" not in study:
        raise ArchiveError(
            f"{name} does not name the data of its rows; write it again: python -m studies.accuracy --report-only"
        )
    rows = {row["name"]: row for row in study["rows"]}
    for row in study["rows"]:
        if row["kind"] == "score" or (row["kind"] == "refiner" and row["lifter"] not in rows):
            continue
        refines = row["kind"] == "refiner"
        column = "refined" if refines else "lifter"
        models = {"lifter": rows[row["lifter"]] if refines else row} | ({"refiner": row} if refines else {})
        report = {
            "data": _data(study, row),
            "models": {role: owner["training"]["model"] for role, owner in models.items()},
            "columns": [column],
            "metrics": {
                metric: {
                    "action_mean": {column: row["test"]["metrics"][metric]["action_mean"]},
                    "per_action": {column: row["test"]["per_action"][metric]},
                }
                for metric in ("mpjpe", "p_mpjpe")
            },
        }
        yield f"{name}, {row['name']}", report


def _data(study: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    archive, people = study["settings"]["archive"], ", ".join(study["settings"]["test"])
    detections, training = study["variants"][row["data"]]["detections"], row["training"]
    input_2d = "simulated detections" if detections == "simulated" else "ground-truth 2D"
    steps = f"{training['steps']:,} steps of training"
    if not (row["checkpoint"] or training["plateau"]):
        steps += ", at whose end it was still getting better"
    return {
        "archive": archive,
        "description": f"{describe_archive(archive)}, test people {people}; {input_2d}; {row['title']}, {steps}",
        "detections": detections,
    }
