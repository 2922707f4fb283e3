"""One report of an evaluation: built once, written as JSON, printed as aligned text or as Markdown.

A report compares columns that score the same sequences; the first is the reference ("before") and the last
the result. It holds plain JSON types only, so that what is printed and what is written cannot differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from refiner.diffusion.familiarity import Familiarity
from refiner.errors import InputError, UsageError
from refiner.evaluation.bootstrap import bootstrap_difference
from refiner.evaluation.protocol import METRICS, EvaluationResult
from refiner.evaluation.selection import told_settings
from refiner.evaluation.tables import markdown_table, text_table
from refiner.reports import EVALUATION, Header, Report, read_report, without_nan

# The metrics with a per-action table; the others stay in the summary and in the JSON.
PER_ACTION_METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
CURVE_POINTS = 8


def build_report(
    columns: Mapping[str, EvaluationResult],
    data: Mapping[str, Any],
    models: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    acknowledgement: str | None = None,
    validation_curve: list[dict[str, float]] | None = None,
    familiarity: Familiarity | None = None,
    example: Mapping[str, Any] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Report:
    """The report of ``columns`` (label -> result, first = before, last = after) as a JSON-ready dict.

    ``data["description"]`` is the line that says what was scored. ``gains`` compares, for every metric, the
    first column with each other one and those between with the last, with 95 % intervals over clips
    (`bootstrap_difference`). ``familiarity``: how the input compares with the refiner's training.
    ``example``: the curves of one sequence (`refiner.evaluation.pipeline.ExampleCurve`).
    ``validation_curve``: the lifter's, a list of ``{"step": .., "mpjpe_mm": ..}``.
    Raises UsageError for no column or no description, InputError when the columns score different sequences.
    """
    if not columns or "description" not in data:
        raise UsageError("a report needs at least one column and data['description']")
    labels = list(columns)
    first = columns[labels[0]]
    identities = [[score.identity for score in result.sequences] for result in columns.values()]
    if any(sorted(other) != sorted(identities[0]) for other in identities[1:]):
        raise InputError("the columns of a report must score the same sequences")
    gains = [
        asdict(bootstrap_difference(columns[before], columns[after], metric, resamples=resamples, seed=seed))
        | {"from": before, "to": after}
        for metric in METRICS
        for before, after in _compared(labels)
    ]
    report = {
        **Header(EVALUATION).entries(),
        "data": dict(data),
        "models": dict(models or {}),
        "settings": dict(settings or {}),
        "columns": labels,
        "counts": {
            "sequences": len(first.sequences),
            "clips": len(first.clips),
            "frames": first.frames,
            "per_action": _action_counts(first),
        },
        "metrics": {
            metric: {
                "label": info.label,
                "unit": info.unit,
                "frame_mean": {label: result.frame_mean(metric) for label, result in columns.items()},
                "action_mean": {label: result.action_mean(metric) for label, result in columns.items()},
                "per_action": {label: result.per_action(metric) for label, result in columns.items()},
            }
            for metric, info in METRICS.items()
        },
        "gains": gains,
        "lifter_validation_curve": validation_curve,
        "input": None if familiarity is None else asdict(familiarity) | {"warnings": familiarity.warnings},
        "example": None if example is None else dict(example),
        "sequences": _sequence_rows(columns),
        "acknowledgement": acknowledgement,
    }
    plain: Report = without_nan(report)
    return plain


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a report of `refiner-evaluate` back. Raises ArchiveError for another file or an unknown version."""
    return read_report(path, (EVALUATION,))


def format_report(report: Mapping[str, Any], markdown: bool = False) -> str:
    """The report for people: data line, summary, gains, per-action table, curve and acknowledgement."""
    table = markdown_table if markdown else text_table
    bold = "**{}**" if markdown else "{}"
    counts = report["counts"]
    scored = (
        f"{counts['clips']} clips, {counts['sequences']} clip-and-camera sequences, {counts['frames']} frames, "
        "each scored once."
    )
    settings = told_settings(report.get("settings", {}))
    how = f"\nHow: {'; '.join(settings)}." if settings else ""
    blocks = [
        f"Data: {report['data']['description']}\n{scored}{how}",
        bold.format("Summary") + "\n\n" + table(*summary_rows(report)),
    ]
    if report["gains"]:
        level = f"{100 * report['gains'][0]['level']:g} %"
        clips = counts["clips"]
        title = f"Reduction of the frame-wise mean; {level} interval of a bootstrap over {clips} clips"
        blocks.append(bold.format(title) + "\n\n" + table(*gain_rows(report)))
    for metric in PER_ACTION_METRICS:
        entry = report["metrics"][metric]
        title = f"{entry['label']} ({entry['unit']}) per action, frame-weighted"
        blocks.append(bold.format(title) + "\n\n" + table(*action_rows(report, metric)))
    blocks += [line for line in (input_line(report), curve_line(report)) if line]
    if report.get("acknowledgement"):
        blocks.append(f"Acknowledgement: {report['acknowledgement']}")
    return "\n\n".join(blocks) + "\n"


def summary_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every metric twice, frame-wise and action-wise, by name."""
    header = ["metric", "average", *report["columns"]]
    rows = []
    for metric, entry in report["metrics"].items():
        for key, name in (("frame_mean", "frame-wise"), ("action_mean", "action-wise")):
            values = [_number(entry[key][label], metric) for label in report["columns"]]
            rows.append([f"{entry['label']} ({entry['unit']})", name, *values])
    return header, rows


def gain_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paired differences: in the unit and in percent, each with its interval."""
    header = ["metric", "compared", "reduction", "interval", "gain %", "interval %", "excludes 0"]
    rows = []
    for gain in report["gains"]:
        low, high, metric = gain["difference_low"], gain["difference_high"], gain["metric"]
        digits = _digits(metric) + 1
        entry = report["metrics"][metric]
        excluded = "-" if low is None or high is None else ("yes" if low > 0.0 or high < 0.0 else "no")
        rows.append(
            [
                f"{entry['label']} ({entry['unit']})",
                f"{gain['from']} -> {gain['to']}",
                _fixed(gain["difference"], digits),
                _interval(low, high, digits),
                _fixed(gain["gain_percent"], 2),
                _interval(gain["gain_percent_low"], gain["gain_percent_high"], 2),
                excluded,
            ]
        )
    return header, rows


def action_rows(report: Mapping[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one metric per action, closed by the two averages by name."""
    counts, entry = report["counts"], report["metrics"][metric]
    labels = report["columns"]
    rows = [
        [action, str(count["clips"]), str(count["frames"])]
        + [_number(entry["per_action"][label][action], metric) for label in labels]
        for action, count in counts["per_action"].items()
    ]
    rows += [
        [name, str(counts["clips"]), str(counts["frames"]), *(_number(entry[key][label], metric) for label in labels)]
        for key, name in (("action_mean", "action-wise mean"), ("frame_mean", "frame-wise mean"))
    ]
    return ["action", "clips", "frames", *labels], rows


def input_line(report: Mapping[str, Any]) -> str:
    """How the input compares with what the refiner was trained on; empty where that is not known."""
    found = report.get("input")
    if not found:
        return ""
    told = (
        f"Input beside the refiner's training: {100 * found['unusual_share']:.1f} % of the frames are further out than "
        "99 % of the training frames"
    )
    shaking = found["jitter_ratio"]
    told += "." if shaking is None else f"; the lifter's poses shake {_fixed(shaking, 2)} times as much."
    return "\n".join([told, *(f"Warning: {warning}." for warning in found["warnings"])])


def curve_line(report: Mapping[str, Any]) -> str:
    """The lifter's validation curve in one line of at most eight points; empty when there is none."""
    curve = report.get("lifter_validation_curve")
    if not curve:
        return ""
    last = len(curve) - 1
    wanted = min(CURVE_POINTS, len(curve))
    chosen = sorted({round(index * last / max(wanted - 1, 1)) for index in range(wanted)})
    points = ", ".join(f"{curve[i]['mpjpe_mm']:.1f} ({curve[i]['step']:g})" for i in chosen)
    best = min(point["mpjpe_mm"] for point in curve)
    people = report.get("models", {}).get("lifter", {}).get("data_description", {}).get("validation", [])
    whom = f" on {', '.join(people)}" if people else ""
    return f"Lifter's validation MPJPE{whom} in mm (at training step), {len(curve)} points, best {best:.1f}: {points}"


def _compared(labels: Sequence[str]) -> list[tuple[str, str]]:
    """The first column with every other, then those between with the last."""
    first_with = [(labels[0], label) for label in labels[1:]]
    return first_with + [(label, labels[-1]) for label in labels[1:-1]]


def _sequence_rows(columns: Mapping[str, EvaluationResult]) -> list[dict[str, Any]]:
    found = {label: {score.identity: score for score in result.sequences} for label, result in columns.items()}
    first = next(iter(columns.values()))
    return [
        {
            "subject": score.subject,
            "clip": score.name,
            "action": score.action,
            "camera": score.camera,
            "frames": score.frames,
        }
        | {metric: {label: found[label][score.identity].mean(metric) for label in columns} for metric in METRICS}
        for score in first.sequences
    ]


def _action_counts(result: EvaluationResult) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for action in result.actions:
        scores = [score for score in result.sequences if score.action == action]
        clips = {(score.subject, score.name) for score in scores}
        counts[action] = {
            "clips": len(clips),
            "sequences": len(scores),
            "frames": sum(score.frames for score in scores),
        }
    return counts


def _digits(metric: str) -> int:
    # A motion error is a tenth of a position error, and gets one decimal more.
    return 2 if metric in ("mpjve", "acceleration_error") else 1


def _number(value: float | None, metric: str) -> str:
    return _fixed(value, _digits(metric))


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "-" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
