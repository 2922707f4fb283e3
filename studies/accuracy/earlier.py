"""Rows that another machine ran, as its report has them: a study need not run in one place.

The entry of a row stands as it is in the report, with the machine that it was measured on. A row is taken over where
the report is of the same data, people and seeds, the table has the same row, with the same training and the same rows
that it needs, and the checkpoints that are here are the ones that it was scored with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError, UsageError
from refiner.evaluation.protocol import EvaluationResult, SequenceScore
from refiner.reports import STUDY, Report, read_report
from studies.accuracy.rows import RECORD, WORDS, record_of
from studies.accuracy.runner import Runner

MACHINE = ("processor", "logical_processors")
PARTS_OF_A_REPORT = {"settings": dict, "environment": dict, "rows": list}


def load_earlier(path: Path, settings: Mapping[str, Any]) -> Report:
    """The report of ``path``. Raises UsageError for another file, and for a report of other data or other people."""
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


def earlier_row(
    report: Mapping[str, Any], runner: Runner, entry: Mapping[str, Any], seeds: Sequence[int]
) -> dict[str, Any] | str:
    """An entry of an earlier report, in the words of today's table; or why it does not count."""
    row = next((row for row in runner.table.rows if row.name == entry["name"]), None)
    if row is None:
        return "not in the table any more"
    now: dict[str, Any] = json.loads(json.dumps(record_of(row)))
    # A field that has come since was at its default.
    usual: dict[str, Any] = json.loads(json.dumps(RECORD))
    changed = [name for name, value in now.items() if name not in WORDS and entry.get(name, usual[name]) != value]
    if changed:
        return f"changed in the table: {', '.join(changed)}"
    if entry.get("recipe") != runner.recipe(row):
        return "what it was trained with, what it needs or what it is scored on has changed"
    if not set(entry["seeds"]) <= set(seeds):
        return f"of the seeds {', '.join(map(str, entry['seeds']))}"
    told = entry["checkpoints"]
    here = runner.digests(row, min(entry["seeds"]))
    other = [name for name, digest in here.items() if told.get(name, digest) != digest]
    if other:
        return f"scored with another checkpoint of {', '.join(other)} than the one that is here"
    unknown = [name for name in here if name not in told]
    if unknown:
        return f"it does not say with which checkpoint of {', '.join(unknown)} it was scored, and one is here"
    # Reports once named one machine for all rows.
    machine = entry.get("machine", {name: report["environment"][name] for name in MACHINE})
    return {**entry, **{name: now[name] for name in WORDS}, "machine": machine}


def clip_means(result: EvaluationResult, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """``{subject, name, METRIC: [mean, count]}`` of every clip, its cameras together: enough for a paired interval."""
    clips = []
    for subject, name in result.clips:
        scores = [score for score in result.sequences if (score.subject, score.name) == (subject, name)]
        entry: dict[str, Any] = {"subject": subject, "name": name}
        for metric in metrics:
            count = sum(score.counts[metric] for score in scores)
            total = sum(score.sums[metric] for score in scores)
            entry[metric] = [round(total / count, 5) if count else 0.0, count]
        clips.append(entry)
    return clips


def result_of(clips: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> EvaluationResult:
    """`clip_means` as an evaluation of one sequence a clip, to be held against another one."""
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
