"""The papers' tables with their own figures, and beside them what reports of ``refiner-evaluate`` say of our models.

The papers measure on Human3.6M. A report on other data stands in the same table and says so in its note: its numbers
are no results on Human3.6M, and its actions are other ones, so that it fills the mean alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import UsageError
from refiner.evaluation.selection import told_settings
from refiner.evaluation.tables import markdown_table, text_table

FOLDER = Path(__file__).parent / "papers"
PER_ACTION_FILE, OTHER_FILE = FOLDER / "d3prefiner_per_action.csv", FOLDER / "ablations_and_peers.csv"

# The paper's abbreviations, in its order.
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
# Table III by what the noise model's draws are, and the poster's ablation by the set of prompts.
ABLATIONS = {
    "conditional": "base (full method)",
    "marginal": "without conditional noise model",
    "observed": "on the lifter's own errors",
}
PROMPTS = {"none": "without prompts", "full": "FinePOSE"} | {name: f"{name}-Prompt" for name in ("M", "S", "C", "AL")}
# What makes a refiner with conditional noise the full method, in our reading.
PUBLISHED = {
    ("noise", "time"): "white",
    ("diffusion", "train_on"): "all",
    ("diffusion", "start"): "lifter",
    ("diffusion", "normalisation"): "mean_abs",
    ("diffusion", "terminal"): "zero",
    ("diffusion", "loss"): "squared",
    ("model", "mlps"): 1,
}
# The columns of a report that have a row of their own.
SCORED = ("lifter", "refined")


@dataclass(frozen=True)
class Section:
    """One part of a table."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper with ours beside it; ``notes`` say what every row of ours was measured on."""

    title: str
    sections: list[Section]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Ours:
    """One column of a report: whose poses, of which models, on which data."""

    report: Mapping[str, Any]
    column: str
    note: int

    @property
    def lifter(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.report["models"].get("lifter", {})
        return found

    @property
    def refiner(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.report["models"].get("refiner", {})
        return found

    @property
    def detected(self) -> bool:
        # The field calls files of projected ground truth so.
        name = Path(str(self.report["data"].get("detections"))).stem
        return not (name in ("ground-truth", "gt") or name.endswith("_gt"))

    @property
    def denoises(self) -> bool:
        """Whether the refiner is D3PRefiner's."""
        architecture = self.refiner.get("model", {}).get("architecture", "default")
        return REFINERS.get(architecture) == REFINERS["default"]

    @property
    def method(self) -> str:
        lifter = LIFTERS.get(self.lifter.get("model", {}).get("architecture", "default"), "another lifter")
        if self.column == "lifter":
            return lifter
        refiner = REFINERS.get(self.refiner.get("model", {}).get("architecture", "default"), "another refiner")
        return f"{lifter} + {refiner}"

    @property
    def frames(self) -> str:
        lifted = self.lifter.get("frames", "-")
        return str(lifted if self.column == "lifter" else self.refiner.get("frames", lifted))

    @property
    def mark(self) -> str:
        return f"ours [{self.note}]"

    def mean(self, metric: str) -> str:
        return _fixed(self.report["metrics"][metric]["action_mean"][self.column])

    def actions(self, metric: str) -> list[str]:
        """Of the paper's fifteen, where the report is on Human3.6M; another archive's actions are others."""
        found = self.report["metrics"][metric]["per_action"][self.column] if _on_human36m(self.report) else {}
        return [_fixed(found.get(action)) for action in ACTIONS]


def paper_table(table: str, reports: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> PaperTable:
    """Table "I", "II", "III" or "IV" of D3PRefiner or "FinePOSE"; ``reports``: (name, report of refiner-evaluate).

    Raises UsageError for another table.
    """
    if table not in TITLES:
        raise UsageError(f"there is no table {table!r}; choose one of {', '.join(TITLES)}")
    ours = [
        _Ours(report, column, number)
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
    left = [name for number, (name, _) in enumerate(reports, start=1) if number not in shown]
    if left:
        notes.append(f"Not of this table: {'; '.join(left)}.")
    if not shown:
        notes.append(
            "ours: no report was given for it (refiner-evaluate --json FILE writes one; --reports FILE reads it)."
        )
    return PaperTable(TITLES[table], sections, notes)


def format_paper_table(table: PaperTable, markdown: bool = False) -> str:
    """The table for people."""
    draw = markdown_table if markdown else text_table
    bold = "**{}**" if markdown else "{}"
    blocks = [bold.format(table.title)]
    blocks += [f"{section.title}\n\n{draw(section.header, section.rows)}" for section in table.sections]
    blocks.append("\n".join(f"- {note}" if markdown else note for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def paper_rows(file: Path) -> list[dict[str, str]]:
    """The figures of a file, without its comment."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def _per_action_sections(table: str, ours: Sequence[_Ours]) -> Iterator[Section]:
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


def _ablation(table: str, ours: Sequence[_Ours]) -> Section:
    """Tables III and IV: a row of ours stands behind the paper's row of the same kind."""
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


def _ablation_row(name: str, entry: _Ours, table: str) -> list[str]:
    # What ours costs is counted by refiner-bench flops, for the size that the note names.
    flops = ["-"] if table == "IV" else []
    return [name, entry.frames, entry.mark, entry.mean("mpjpe"), entry.mean("p_mpjpe"), *flops]


def _ablated(entry: _Ours) -> str:
    noise, steps = entry.refiner.get("noise", {}).get("errors"), entry.refiner.get("steps")
    if noise == "observed" and steps == 1:
        return "without diffusion"
    if noise == "conditional" and any(
        entry.refiner.get(section, {}).get(name, published) != published
        for (section, name), published in PUBLISHED.items()
    ):
        return "another reading, or beyond the paper"
    return ABLATIONS.get(noise, "not said how its errors were drawn")


def _depth(entry: _Ours) -> str:
    blocks = entry.refiner.get("model", {}).get("blocks")
    return "depth not said" if blocks is None else f"depth {2 * blocks}"


def _finepose_sections(ours: Sequence[_Ours]) -> list[Section]:
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
    sizes += told_settings(settings)
    other = "" if _on_human36m(report) else " Other data than the paper's: the two cannot be compared."
    told = report["data"]["description"]
    return f"ours [{number}] {name}: action-wise mean on {told}; {'; '.join(sizes)}.{other}"


def _on_human36m(report: Mapping[str, Any]) -> bool:
    return str(report["data"].get("archive", "")).startswith("data_3d_h36m")


def _fixed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
