"""Accuracy reports as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from refiner.evaluation.selection import describe_archive
from refiner.evaluation.tables import markdown_table
from refiner_bench.report import JsonObject, gain_text

GAIN_METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
# Control rows: lifters that got the budget of a refiner in addition (parameters, training time, motion).
CONTROLS = ("single-lifter", "lifter-recombined")


def format_accuracy(report: JsonObject) -> str:
    """The report as Markdown: one table per group of rows, then the errors by action."""
    settings = report["settings"]
    machines = _machines(report)
    # With a single machine the column of machines is left out.
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
    """The Markdown table without columns that are empty in all rows. The first row holds the headings."""
    columns = [column for column in zip(*table, strict=True) if any(column[1:])]
    header, *rows = ([column[row] for column in columns] for row in range(len(table)))
    return markdown_table(header, rows)


def _machines(report: JsonObject) -> dict[str, str]:
    """The letter of each machine of the report, by the machine's description."""
    machines = dict.fromkeys(text for row in report["rows"] if (text := _machine_of(row, report)))
    return dict(zip(machines, ascii_uppercase, strict=False))


def _machine_of(row: JsonObject, report: JsonObject) -> str:
    """The description of a row's machine; empty if it is unknown, as for a checkpoint that does not name it.

    Older reports name one machine for all rows.
    """
    machine = row.get("machine", report["environment"])
    if machine is None:
        return ""
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['processor']}, {machine['logical_processors']} processors{gpu}"


def _cells(row: JsonObject, machine: str) -> list[str]:
    """The cells of a row in the order of `HEADINGS`."""
    training, test = row["training"], row["test"]
    star = "" if training is None or training["plateau"] or row["checkpoint"] else "*"
    metrics = {metric: test["metrics"][metric]["frame_mean"] for metric in GAIN_METRICS}
    input_shift = test["extra"].get("input")
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
        "" if not input_shift else f"{100 * input_shift['unusual_share']:.1f} %",
        "" if not input_shift else f"x {input_shift['jitter_ratio']:.2f}",
    ]


def _by_action(report: JsonObject) -> str:
    rows = [row for row in report["rows"] if row["data"] == "default"]
    actions = list(rows[0]["test"]["per_action"]["mpjpe"]) if rows else []
    body = [[row["name"], *(f"{row['test']['per_action']['mpjpe'][action]:.1f}" for action in actions)] for row in rows]
    return markdown_table(["row", *actions], body)
