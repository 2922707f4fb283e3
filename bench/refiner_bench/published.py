"""Formats the report of ``python -m studies.published``: our networks and metrics beside the authors' modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from refiner.evaluation.tables import markdown_table


def format_published(report: Mapping[str, Any]) -> str:
    """Format the report as Markdown: a summary by repository, the findings, and all comparisons."""
    rows = report["rows"]
    agreeing = sum(row["agrees"] for row in rows)
    parts = [
        "# Our networks and metrics beside the authors' modules",
        f"{len(rows)} comparisons on random weights and inputs in float64, {agreeing} agree to rounding (a difference "
        f"of at most {report['settings']['tolerance']:g} of the largest value). `python -m studies.published` makes "
        "this report.",
        "\n".join(f"- {name}: commit {commit}" for name, commit in report["commits"].items()),
        summary_table(report),
        "## Where ours differs on purpose",
        "\n".join(f"- {finding}: {names}." for finding, names in findings(report).items()),
        "## All comparisons",
        markdown_table(
            ["whose", "what", "largest value", "largest difference", "agrees"],
            [
                [row["group"], row["name"], _told(row["largest"], "3g"), _told(row["difference"], "1e"), _word(row)]
                for row in rows
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def summary_table(report: Mapping[str, Any]) -> str:
    """One line for each repository and kind of result."""
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        lines.setdefault((row["group"], kind_of(row["name"])), []).append(row)
    table = []
    for (group, kind), entries in lines.items():
        shares = [_share(entry) for entry in entries if entry["agrees"]]
        agreeing = f"{len(shares)} of {len(entries)}"
        table.append([group, kind, agreeing, f"{max(shares):.1e}" if shares else ""])
    return markdown_table(["whose", "what", "agree", "largest difference of those, as a share"], table)


def findings(report: Mapping[str, Any]) -> dict[str, str]:
    """The reasons for differences on purpose, each with the repositories where it shows."""
    found: dict[str, list[str]] = {}
    for row in report["rows"]:
        if row["finding"] and row["group"] not in found.setdefault(row["finding"], []):
            found[row["finding"]].append(row["group"])
    return {finding: ", ".join(groups) for finding, groups in found.items()}


def kind_of(name: str) -> str:
    """The kind of a result, which is the last part of its name without the sizes."""
    kind = name.rsplit(": ", 1)[-1].split(", errors")[0].split(" by camera")[0]
    if name.startswith("window of"):
        return "windows with a stride"
    if kind.startswith("image coordinates"):
        return "image coordinates"
    if kind.startswith("sampling"):
        return "sampling, mirrored" if kind.endswith("mirrored") else "sampling"
    if kind.startswith("one prediction"):
        return "one prediction, mended" if kind.endswith("mended") else "one prediction"
    return kind


def _share(row: Mapping[str, Any]) -> float:
    return float(row["difference"]) / float(row["largest"]) if row["largest"] else float(row["difference"])


def _told(value: float | None, digits: str) -> str:
    return "none" if value is None else f"{value:.{digits}}"


def _word(row: Mapping[str, Any]) -> str:
    return "yes" if row["agrees"] else "no, on purpose" if row["finding"] else "no"
