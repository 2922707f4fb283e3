"""The report of an evaluation, which is written as JSON and printed as aligned text or Markdown.

A report compares columns that score the same sequences. The first column is the reference ("before"), the last column
is the result. A report holds JSON types only, so that the printed report cannot differ from the written report.
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
from refiner.evaluation.selection import describe_settings
from refiner.evaluation.tables import markdown_table, text_table
from refiner.reports import EVALUATION, Header, Report, read_report, without_nan

# The metrics with a printed table per action. The summary and the JSON file hold all metrics.
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
    """Build the report of an evaluation.

    The entry ``gains`` of the report compares, for every metric, the first column with each other column, and the
    columns between with the last column, with 95 % intervals over clips (`bootstrap_difference`).

    Args:
        columns: The results by label. The first is the reference, the last is the result.
        data: The scored data; ``data["description"]`` describes them in one line.
        models: The configurations of the models by role.
        settings: The settings of the evaluation.
        acknowledgement: The acknowledgement that the data require.
        validation_curve: The validation curve of the lifter, a list of ``{"step": .., "mpjpe_mm": ..}``.
        familiarity: The comparison of the input with the training data of the refiner.
        example: The error curves of one sequence (`refiner.evaluation.pipeline.ExampleCurve`).
        resamples: The number of bootstrap samples.
        seed: The seed of the bootstrap.

    Returns:
        The report, which consists of JSON types.

    Raises:
        UsageError: There is no column or no description.
        InputError: The columns score different sequences.
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
    """Read a report of `refiner-evaluate`. Raises ArchiveError for another file or an unknown version."""
    return read_report(path, (EVALUATION,))


def format_report(report: Mapping[str, Any], markdown: bool = False) -> str:
    """Format a report as text: data, summary, gains, tables per action, validation curve and acknowledgement."""
    table = markdown_table if markdown else text_table
    bold = "**{}**" if markdown else "{}"
    counts = report["counts"]
    scored = (
        f"{counts['clips']} clips, {counts['sequences']} clip-and-camera sequences, {counts['frames']} frames, "
        "each scored once."
    )
    settings = describe_settings(report.get("settings", {}))
    settings_line = f"\nHow: {'; '.join(settings)}." if settings else ""
    blocks = [
        f"Data: {report['data']['description']}\n{scored}{settings_line}",
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
    """Return the header and the rows of the summary, with the frame-wise and the action-wise mean of every metric."""
    header = ["metric", "average", *report["columns"]]
    rows = []
    for metric, entry in report["metrics"].items():
        for key, name in (("frame_mean", "frame-wise"), ("action_mean", "action-wise")):
            values = [_number(entry[key][label], metric) for label in report["columns"]]
            rows.append([f"{entry['label']} ({entry['unit']})", name, *values])
    return header, rows


def gain_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the paired differences, in the unit and in percent, with intervals."""
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
    """Return the header and the rows of one metric per action. The last two rows are the two averages."""
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
    """Describe the input compared with the refiner's training data; empty if the comparison is not known."""
    familiarity = report.get("input")
    if not familiarity:
        return ""
    text = (
        f"Input compared with the refiner's training: {100 * familiarity['unusual_share']:.1f} % of the frames are "
        "further out than 99 % of the training frames"
    )
    ratio = familiarity["jitter_ratio"]
    text += "." if ratio is None else f"; the lifter's poses shake {_fixed(ratio, 2)} times as much."
    return "\n".join([text, *(f"Warning: {warning}." for warning in familiarity["warnings"])])


def curve_line(report: Mapping[str, Any]) -> str:
    """Describe the lifter's validation curve in one line with at most eight points; empty if there is no curve."""
    curve = report.get("lifter_validation_curve")
    if not curve:
        return ""
    last = len(curve) - 1
    number = min(CURVE_POINTS, len(curve))
    chosen = sorted({round(index * last / max(number - 1, 1)) for index in range(number)})
    points = ", ".join(f"{curve[i]['mpjpe_mm']:.1f} ({curve[i]['step']:g})" for i in chosen)
    best = min(point["mpjpe_mm"] for point in curve)
    people = report.get("models", {}).get("lifter", {}).get("data_description", {}).get("validation", [])
    on_people = f" on {', '.join(people)}" if people else ""
    return (
        f"Lifter's validation MPJPE{on_people} in mm (at training step), {len(curve)} points, best {best:.1f}: {points}"
    )


def _compared(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the compared columns: the first with every other, then the columns between with the last."""
    first_with = [(labels[0], label) for label in labels[1:]]
    return first_with + [(label, labels[-1]) for label in labels[1:-1]]


def _sequence_rows(columns: Mapping[str, EvaluationResult]) -> list[dict[str, Any]]:
    scores = {label: {score.identity: score for score in result.sequences} for label, result in columns.items()}
    first = next(iter(columns.values()))
    return [
        {
            "subject": score.subject,
            "clip": score.name,
            "action": score.action,
            "camera": score.camera,
            "frames": score.frames,
        }
        | {metric: {label: scores[label][score.identity].mean(metric) for label in columns} for metric in METRICS}
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
    # A motion error is about a tenth of a position error, so it gets one more decimal.
    return 2 if metric in ("mpjve", "acceleration_error") else 1


def _number(value: float | None, metric: str) -> str:
    return _fixed(value, _digits(metric))


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "-" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"
