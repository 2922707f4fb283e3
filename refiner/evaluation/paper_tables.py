"""The tables of the papers, with rows for our models from reports of ``refiner-evaluate``.

The papers evaluate on Human3.6M. A report on other data appears in the same table, and its note says so. Its figures
are not results on Human3.6M, and its actions are different, so its row contains only the mean.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import UsageError
from refiner.evaluation.selection import describe_settings
from refiner.evaluation.tables import markdown_table, text_table

FOLDER = Path(__file__).parent / "papers"
PER_ACTION_FILE, OTHER_FILE = FOLDER / "d3prefiner_per_action.csv", FOLDER / "ablations_and_peers.csv"

# The abbreviations of the actions in the paper, in its order.
ACTIONS = {
    "Directions": "Dir",
    "Discussion": "Disc",
    "Eating": "Eat",
    "Greeting": "Greet",
    "Phoning": "Phone",
    "Photo": "Photo",
    "Posing": "Pose",
    "Purchases": "Pur",
    "Sitting": "Sit",
    "SittingDown": "SitD",
    "Smoking": "Smoke",
    "Waiting": "Wait",
    "WalkDog": "WalkD",
    "Walking": "Walk",
    "WalkTogether": "WalkT",
}
TITLES = {
    "I": "D3PRefiner, Table I: Human3.6M, S9 and S11, detected 2D (the paper's: CPN), mm",
    "II": "D3PRefiner, Table II: Human3.6M, S9 and S11, ground-truth 2D, mm",
    "III": "D3PRefiner, Table III: ablation on MixSTE, T = 27, detected 2D, mm",
    "IV": "D3PRefiner, Table IV: depth of the denoiser on MixSTE, T = 27, detected 2D, mm",
    "FinePOSE": "FinePOSE's poster: Human3.6M, MPI-INF-3DHP and the prompts, mm and percent",
}
LIFTERS = {
    "default": "STCFormer",
    "stcformer": "STCFormer",
    "mixste": "MixSTE",
    "d3dp": "D3DP",
    "finepose": "FinePOSE",
    "mlp": "Martinez et al.",
    "tcn": "VideoPose3D",
}
REFINERS = {"default": "D3PRefiner", "pose-denoiser": "D3PRefiner", "smoothnet": "SmoothNet"}
# The rows of Table III by the setting of the noise model, and the rows of the poster's ablation by the set of prompts.
# Without the conditional noise model the paper diffuses the lifter's own errors. One Gaussian for all errors is a
# control of ours.
ABLATIONS = {
    "conditional": "base (full method)",
    "observed": "without conditional noise model",
    "marginal": "noise from one Gaussian of all errors (ours)",
}
PROMPTS = {"none": "without prompts", "full": "FinePOSE"} | {name: f"{name}-Prompt" for name in ("M", "S", "C", "AL")}
# The settings with which a refiner with conditional noise is the paper's full method, in our reading of the paper.
PUBLISHED = {
    ("noise", "time"): "white",
    ("diffusion", "train_on"): "all",
    ("diffusion", "start"): "lifter",
    ("diffusion", "normalisation"): "mean_abs",
    ("diffusion", "terminal"): "zero",
    ("diffusion", "loss"): "squared",
    ("model", "mlps"): 1,
}
# The columns of a report that become rows of a table.
SCORED = ("lifter", "refined")


@dataclass(frozen=True)
class Section:
    """One part of a table."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper with rows for our models. The notes name the data of these rows."""

    title: str
    sections: list[Section]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _ReportColumn:
    """One column of a report: the poses of the lifter or of the refiner.

    Attributes:
        report: The report of ``refiner-evaluate``.
        column: The label of the column.
        note: The number of the note that describes the report.
    """

    report: Mapping[str, Any]
    column: str
    note: int

    @property
    def lifter(self) -> Mapping[str, Any]:
        """The configuration of the lifter; empty if there is none."""
        config: Mapping[str, Any] = self.report["models"].get("lifter", {})
        return config

    @property
    def refiner(self) -> Mapping[str, Any]:
        """The configuration of the refiner; empty if there is none."""
        config: Mapping[str, Any] = self.report["models"].get("refiner", {})
        return config

    @property
    def detected(self) -> bool:
        """Whether the 2D poses are detections and not the projected ground truth."""
        # Files of projected ground truth usually have the suffix _gt.
        name = Path(str(self.report["data"].get("detections"))).stem
        return not (name in ("ground-truth", "gt") or name.endswith("_gt"))

    @property
    def denoises(self) -> bool:
        """Whether the refiner has the architecture of D3PRefiner."""
        architecture = self.refiner.get("model", {}).get("architecture", "default")
        return REFINERS.get(architecture) == REFINERS["default"]

    @property
    def method(self) -> str:
        """The name of the method in the table."""
        lifter = LIFTERS.get(self.lifter.get("model", {}).get("architecture", "default"), "another lifter")
        if self.column == "lifter":
            return lifter
        refiner = REFINERS.get(self.refiner.get("model", {}).get("architecture", "default"), "another refiner")
        return f"{lifter} + {refiner}"

    @property
    def frames(self) -> str:
        """The number of frames of a window, or "-"."""
        lifted = self.lifter.get("frames", "-")
        return str(lifted if self.column == "lifter" else self.refiner.get("frames", lifted))

    @property
    def mark(self) -> str:
        return f"ours [{self.note}]"

    def mean(self, metric: str) -> str:
        """The action-wise mean of a metric."""
        return _fixed(self.report["metrics"][metric]["action_mean"][self.column])

    def actions(self, metric: str) -> list[str]:
        """The errors for the paper's fifteen actions; "-" for other data, whose actions are different."""
        errors = self.report["metrics"][metric]["per_action"][self.column] if _on_human36m(self.report) else {}
        return [_fixed(errors.get(action)) for action in ACTIONS]


def paper_table(table: str, reports: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> PaperTable:
    """Make a table of a paper with rows for our models.

    Args:
        table: "I", "II", "III" or "IV" for the tables of D3PRefiner, or "FinePOSE".
        reports: Pairs (name, report of refiner-evaluate).

    Raises:
        UsageError: The table is unknown.
    """
    if table not in TITLES:
        raise UsageError(f"there is no table {table!r}; choose one of {', '.join(TITLES)}")
    ours = [
        _ReportColumn(report, column, number)
        for number, (_, report) in enumerate(reports, start=1)
        for column in report["columns"]
        if column in SCORED
    ]
    if table in ("I", "II"):
        ours = [entry for entry in ours if entry.detected == (table == "I")]
        sections = list(_per_action_sections(table, ours))
    elif table == "FinePOSE":
        ours = [entry for entry in ours if entry.column == "lifter"]
        sections = _finepose_sections(ours)
    else:
        ours = [entry for entry in ours if entry.detected and entry.column == "refined" and entry.denoises]
        sections = [_ablation(table, ours)]
    shown = {entry.note for entry in ours}
    notes = [_note(number, name, report) for number, (name, report) in enumerate(reports, start=1) if number in shown]
    unused = [name for number, (name, _) in enumerate(reports, start=1) if number not in shown]
    if unused:
        notes.append(f"Not of this table: {'; '.join(unused)}.")
    if not shown:
        notes.append(
            "ours: no report was given for it (refiner-evaluate --json FILE writes one; --reports FILE reads it)."
        )
    return PaperTable(TITLES[table], sections, notes)


def format_paper_table(table: PaperTable, markdown: bool = False) -> str:
    """Format the table as text or Markdown."""
    draw = markdown_table if markdown else text_table
    bold = "**{}**" if markdown else "{}"
    blocks = [bold.format(table.title)]
    blocks += [f"{section.title}\n\n{draw(section.header, section.rows)}" for section in table.sections]
    blocks.append("\n".join(f"- {note}" if markdown else note for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def paper_rows(file: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file of published figures; lines that begin with # are comments."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def _per_action_sections(table: str, ours: Sequence[_ReportColumn]) -> Iterator[Section]:
    header = ["method", "frames", "whose", *ACTIONS.values(), "Avg"]
    published = [row for row in paper_rows(PER_ACTION_FILE) if row["table"] == table]
    for label, metric in (("MPJPE", "mpjpe"), ("P-MPJPE", "p_mpjpe")):
        rows = [
            [row["method"], row["frames"], "paper", *(row[short] for short in ACTIONS.values()), row["Avg"]]
            for row in published
            if row["metric"] == label
        ]
        if rows:
            rows += [[e.method, e.frames, e.mark, *e.actions(metric), e.mean(metric)] for e in ours]
            yield Section(label, header, rows)


def _ablation(table: str, ours: Sequence[_ReportColumn]) -> Section:
    """Make the section of Table III or IV. Our row follows the paper's row of the same kind."""
    rows: list[list[str]] = []
    header = ["row", "frames", "whose", "MPJPE", "P-MPJPE", *(["FLOPs (M)"] if table == "IV" else [])]
    named = [(_depth(entry) if table == "IV" else _ablated(entry), entry) for entry in ours]
    for row in paper_rows(OTHER_FILE):
        if row["table"] != f"D3PRefiner {table}":
            continue
        flops = [row["FLOPs (M)"]] if table == "IV" else []
        rows.append([row["row"], row["frames"], "paper", row["MPJPE"], row["P-MPJPE"], *flops])
        rows += [_ablation_row(name, entry, table) for name, entry in named if name == row["row"]]
    known = {row[0] for row in rows}
    rows += [_ablation_row(name, entry, table) for name, entry in named if name not in known]
    return Section("MPJPE and P-MPJPE, action-wise mean", header, rows)


def _ablation_row(name: str, entry: _ReportColumn, table: str) -> list[str]:
    # The command refiner-bench flops counts the FLOPs of our models, for the size in the note.
    flops = ["-"] if table == "IV" else []
    return [name, entry.frames, entry.mark, entry.mean("mpjpe"), entry.mean("p_mpjpe"), *flops]


def _ablated(entry: _ReportColumn) -> str:
    noise, steps = entry.refiner.get("noise", {}).get("errors"), entry.refiner.get("steps")
    if noise == "observed" and steps == 1:
        return "without diffusion"
    if noise in ("conditional", "observed") and any(
        entry.refiner.get(section, {}).get(name, published) != published
        for (section, name), published in PUBLISHED.items()
    ):
        return "another reading, or beyond the paper"
    return ABLATIONS.get(noise, "not said how its errors were drawn")


def _depth(entry: _ReportColumn) -> str:
    blocks = entry.refiner.get("model", {}).get("blocks")
    return "depth not said" if blocks is None else f"depth {2 * blocks}"


def _finepose_sections(ours: Sequence[_ReportColumn]) -> list[Section]:
    columns = ["MPJPE", "P-MPJPE", "MPJPE with ground-truth 2D", "P-MPJPE with ground-truth 2D", "PCK", "AUC"]
    sections = []
    for part in ("Human3.6M", "MPI-INF-3DHP", "ablation"):
        published = [row for row in paper_rows(OTHER_FILE) if row["table"] == f"FinePOSE {part}"]
        used = [name for name in columns if any(row[name] for row in published)]
        rows = [[r["row"], r["frames"] or "-", "paper", *(r[name] or "-" for name in used)] for r in published]
        for entry in ours if part != "MPI-INF-3DHP" else ():
            name = entry.method
            if part == "ablation":
                if name != "FinePOSE" or not entry.detected:
                    continue
                name = PROMPTS.get(entry.lifter.get("text", {}).get("prompts", ""), "prompts not said")
            values = dict.fromkeys(columns, "-")
            kind = "" if entry.detected else " with ground-truth 2D"
            values[f"MPJPE{kind}"], values[f"P-MPJPE{kind}"] = entry.mean("mpjpe"), entry.mean("p_mpjpe")
            rows.append([name, entry.frames, entry.mark, *(values[column] for column in used)])
        sections.append(Section(part, ["row", "frames", "whose", *used], rows))
    return sections


def _note(number: int, name: str, report: Mapping[str, Any]) -> str:
    sizes = []
    for role in ("lifter", "refiner"):
        model = report["models"].get(role, {}).get("model", {})
        if model:
            names = LIFTERS if role == "lifter" else REFINERS
            name_of = names.get(model.get("architecture", "default"), f"another {role}")
            sizes.append(f"{name_of} of width {model.get('dim', '-')}, {model.get('blocks', '-')} blocks")
    settings = report.get("settings", {})
    sizes += describe_settings(settings)
    other = "" if _on_human36m(report) else " Other data than the paper's: the two cannot be compared."
    description = report["data"]["description"]
    return f"ours [{number}] {name}: action-wise mean on {description}; {'; '.join(sizes)}.{other}"


def _on_human36m(report: Mapping[str, Any]) -> bool:
    return str(report["data"].get("archive", "")).startswith("data_3d_h36m")


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
