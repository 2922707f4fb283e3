"""The accuracy report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from refiner.evaluation.selection import describe_archive
from refiner.evaluation.tables import markdown_table
from refiner_bench.report import gain_text

GAIN_METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
# Lifters that took what a refiner costs: as many parameters, as much training, the same motion.
CONTROLS = ("single-lifter", "lifter-recombined")


def format_accuracy(report: Mapping[str, Any]) -> str:
    """The report as Markdown: one table per group of rows, then the tables by action."""
    settings = report["settings"]
    machines = _machines(report)
    # A column of letters for a single machine would say nothing.
    several = len(machines) > 1 or not all(_machine_of(row, report) for row in report["rows"])
    letters = machines if several else {}
    named = [f"{letter}: {name}" for name, letter in letters.items()] or list(machines) or ["not recorded"]
    head = [
        f"# {report.get('title', 'Accuracy study')}",
        "",
        f"Data: {describe_archive(settings['archive'])}; validation person {', '.join(settings['validation'])}, test "
        f"people {', '.join(settings['test'])}; seeds {', '.join(map(str, settings['seeds']))}; "
        f"machine{'s' * (len(named) > 1)}: {'; '.join(named)}.",
        "",
        "Frame-wise means in mm (acceleration: mm/frame^2). Gains are of the test people against the row's own lifter "
        "on the same input, as it is, in percent, with the 95 % interval of a bootstrap over clips; gains over other "
        "rows are over those with the same mirrored pass and body shape. Unusual frames are further out than 99 % of "
        "the frames that the refiner was trained on; jitter is that of its input over that of its training. A row "
        "marked * was still getting better when its training ended.",
    ]
    if settings["quick"]:
        head += ["", "**Toy models, trained for 4 steps on built-in motion: this shows that every row runs, no more.**"]
    groups = dict.fromkeys(row["group"] for row in report["rows"])
    for group in groups:
        rows = [row for row in report["rows"] if row["group"] == group]
        head += [
            "",
            f"## {group}",
            "",
            _filled_columns([HEADINGS, *(_cells(row, letters.get(_machine_of(row, report), "")) for row in rows)]),
        ]
    head += ["", "## MPJPE by action, test people", "", _by_action(report)]
    if report["missing"]:
        head += ["", f"Not run: {', '.join(report['missing'])}."]
    if report.get("acknowledgement"):
        head += ["", f"Acknowledgement: {report['acknowledgement']}"]
    return "\n".join(head)


HEADINGS = [
    "row",
    "what",
    "parameters",
    "windows",
    "minutes",
    "machine",
    "validation MPJPE",
    "test MPJPE",
    "P-MPJPE",
    "acceleration",
    "MPJPE gain",
    "P-MPJPE gain",
    "acceleration gain",
    "MPJPE gain over linear",
    "MPJPE gain over single-lifter",
    "MPJPE gain over lifter-recombined",
    "unusual frames",
    "jitter",
]


def _filled_columns(table: Sequence[Sequence[str]]) -> str:
    """Without the columns that have nothing to say about any row."""
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    header, *rows = ([column[place] for column in columns] for place in range(len(table)))
    return markdown_table(header, rows)


def _machines(report: Mapping[str, Any]) -> dict[str, str]:
    """Each machine that rows were run on, in words, and its letter."""
    told = dict.fromkeys(text for row in report["rows"] if (text := _machine_of(row, report)))
    return dict(zip(told, ascii_uppercase, strict=False))


def _machine_of(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Reports once named one machine for all rows; a checkpoint may not say where it was trained."""
    machine = row.get("machine", report["environment"])
    if machine is None:
        return ""
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['processor']}, {machine['logical_processors']} processors{gpu}"


def _cells(row: Mapping[str, Any], machine: str) -> list[str]:
    training, test = row["training"], row["test"]
    star = "" if training is None or training["plateau"] or row["checkpoint"] else "*"
    metrics = {metric: test["metrics"][metric]["frame_mean"] for metric in GAIN_METRICS}
    told = test["extra"].get("input")
    gains = [gain_text(test["gains"].get("lifter", {}).get(metric)) for metric in GAIN_METRICS]
    return [
        row["name"] + star,
        row["title"],
        "" if training is None else f"{training['parameters'] / 1e6:.2f} M",
        "" if training is None else f"{training['windows']:,}",
        "" if training is None else f"{training['wall_s'] / 60:.0f}",
        machine,
        f"{row['validation']['metrics']['mpjpe']['frame_mean']:.1f}",
        f"{metrics['mpjpe']:.1f}",
        f"{metrics['p_mpjpe']:.1f}",
        f"{metrics['acceleration_error']:.2f}",
        *gains,
        *(gain_text(test["gains"].get(rival, {}).get("mpjpe")) for rival in ("linear", *CONTROLS)),
        "" if not told else f"{100 * told['unusual_share']:.1f} %",
        "" if not told else f"x {told['jitter_ratio']:.2f}",
    ]


def _by_action(report: Mapping[str, Any]) -> str:
    rows = [row for row in report["rows"] if row["data"] == "default"]
    actions = list(rows[0]["test"]["per_action"]["mpjpe"]) if rows else []
    body = [[row["name"], *(f"{row['test']['per_action']['mpjpe'][action]:.1f}" for action in actions)] for row in rows]
    return markdown_table(["row", *actions], body)
