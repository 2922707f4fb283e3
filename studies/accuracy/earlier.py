"""Rows from the report of another machine, so that a study need not run on one machine.

A row of an earlier report is used unchanged, with the machine that it was measured on. The conditions: the report has
the same data, people and seeds; the table has the same row with the same training, and the same rows that it needs;
the checkpoints in this folder are the ones that the row was scored with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from refiner_bench.report import JsonObject

from refiner.errors import ArchiveError, UsageError
from refiner.evaluation.protocol import EvaluationResult, SequenceScore
from refiner.reports import STUDY, Report, read_report
from studies.accuracy.rows import RECORD, WORDS, record_of
from studies.accuracy.runner import Runner

MACHINE = ("processor", "logical_processors")
PARTS_OF_A_REPORT = {"settings": dict, "environment": dict, "rows": list}


def load_earlier(path: Path, settings: JsonObject) -> Report:
    """Read an earlier report.

    Args:
        path: The JSON file.
        settings: The settings of the present study.

    Raises:
        UsageError: The file is no complete report of a study, or its data, people or options differ.
    """
    try:
        report = read_report(path, (STUDY,))
    except ArchiveError as error:
        raise UsageError(f"cannot take the earlier report: {error}") from error
    if not all(isinstance(report.get(name), kind) for name, kind in PARTS_OF_A_REPORT.items()):
        raise UsageError(f"{path} is not whole: it lacks one of {', '.join(PARTS_OF_A_REPORT)}")
    for name in ("archive", "quick", "validation", "test", "resamples"):
        if report["settings"].get(name) != settings[name]:
            raise UsageError(
                f"{path} cannot be joined: its {name} is {report['settings'].get(name)}, here it is {settings[name]}"
            )
    return report


def earlier_row(report: JsonObject, runner: Runner, entry: JsonObject, seeds: Sequence[int]) -> Report | str:
    """Check a row of an earlier report.

    Args:
        report: The earlier report.
        runner: The present study.
        entry: The row of the report.
        seeds: The seeds of the present study.

    Returns:
        The row with the title and the group of the present table, or the reason why it cannot be used.
    """
    row = next((row for row in runner.table.rows if row.name == entry["name"]), None)
    if row is None:
        return "not in the table any more"
    present: Report = json.loads(json.dumps(record_of(row)))
    # A field that is newer than the report had its default value.
    defaults: Report = json.loads(json.dumps(RECORD))
    changed = [
        name for name, value in present.items() if name not in WORDS and entry.get(name, defaults[name]) != value
    ]
    if changed:
        return f"changed in the table: {', '.join(changed)}"
    if entry.get("recipe") != runner.recipe(row):
        return "what it was trained with, what it needs or what it is scored on has changed"
    if not set(entry["seeds"]) <= set(seeds):
        return f"of the seeds {', '.join(map(str, entry['seeds']))}"
    recorded = entry["checkpoints"]
    here = runner.digests(row, min(entry["seeds"]))
    other = [name for name, digest in here.items() if recorded.get(name, digest) != digest]
    if other:
        return f"scored with another checkpoint of {', '.join(other)} than the one that is here"
    unknown = [name for name in here if name not in recorded]
    if unknown:
        return f"it does not say with which checkpoint of {', '.join(unknown)} it was scored, and one is here"
    # Older reports name one machine for all rows.
    machine = entry.get("machine", {name: report["environment"][name] for name in MACHINE})
    return {**entry, **{name: present[name] for name in WORDS}, "machine": machine}


def clip_means(result: EvaluationResult, metrics: Sequence[str]) -> list[Report]:
    """The mean of each clip over all its cameras, which is enough for a paired bootstrap.

    Args:
        result: The scores.
        metrics: The names of metrics.

    Returns:
        For each clip ``{subject, name, METRIC: [mean, count]}``.
    """
    clips = []
    for subject, name in result.clips:
        scores = [score for score in result.sequences if (score.subject, score.name) == (subject, name)]
        entry: Report = {"subject": subject, "name": name}
        for metric in metrics:
            count = sum(score.counts[metric] for score in scores)
            total = sum(score.sums[metric] for score in scores)
            entry[metric] = [round(total / count, 5) if count else 0.0, count]
        clips.append(entry)
    return clips


def result_of(clips: Sequence[JsonObject], metrics: Sequence[str]) -> EvaluationResult:
    """Turn the result of `clip_means` into an evaluation with one sequence per clip, to compare it with another."""
    return EvaluationResult(
        tuple(
            SequenceScore(
                clip["name"],
                clip["subject"],
                "",
                "",
                clip[metrics[0]][1],
                {metric: clip[metric][0] * clip[metric][1] for metric in metrics},
                {metric: clip[metric][1] for metric in metrics},
            )
            for clip in clips
        )
    )
