"""Reports that stand in the papers' tables: of `refiner-evaluate`, and the rows of ones of `refiner-bench accuracy`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.evaluation.report import checked_report, read_json
from refiner.evaluation.selection import describe_archive

STUDY_FORMAT = "refiner-bench/accuracy", 1


def load_reports(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents: one of a report of `refiner-evaluate`, one for each trained row of an accuracy report.

    Raises ArchiveError for a file that is neither.
    """
    name, content = Path(path).stem, read_json(path)
    if isinstance(content, dict) and (content.get("schema"), content.get("schema_version")) == STUDY_FORMAT:
        return list(rows_as_reports(name, content))
    return [(name, checked_report(path, content))]


def rows_as_reports(name: str, study: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every lifter and every refiner of an accuracy report as what `refiner.evaluation.paper_tables` reads of a report
    of `refiner-evaluate`. Rows that score another row's model in another way are left out. Raises ArchiveError for a
    report that does not say enough."""
    if "variants" not in study:
        raise ArchiveError(f"{name} does not say what its rows were scored on; write it again (--report-only)")
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
    told = "simulated detections" if detections == "simulated" else "ground-truth 2D"
    steps = f"{training['steps']:,} steps of training"
    if not (row["checkpoint"] or training["plateau"]):
        steps += ", at whose end it was still getting better"
    return {
        "archive": archive,
        "description": f"{describe_archive(archive)}, test people {people}; {told}; {row['title']}, {steps}",
        "detections": detections,
    }
