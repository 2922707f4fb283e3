"""Parts that all reports of refiner-bench share besides their schema: writing the files, and gains in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.files import atomic_write_text
from refiner.reports import write_report

# A JSON object of a report file. Its values have no narrower type than the file gives them.
JsonObject = Mapping[str, Any]


def publish(report: JsonObject, text: str, json_path: Path | None, markdown_path: Path | None) -> None:
    """Write a report to the files that the user asked for. Each file is written completely or not at all.

    Args:
        report: The report.
        text: The same report as Markdown.
        json_path: The file for the report, or None.
        markdown_path: The file for the Markdown, or None.
    """
    if json_path is not None:
        write_report(json_path, report)
    if markdown_path is not None:
        atomic_write_text(markdown_path, text + "\n")


def gain_text(gain: JsonObject | None, unit: str = "") -> str:
    """Format a gain in percent with its interval, for example "3.1 (2.0 to 4.2)".

    Args:
        gain: The keys ``percent``, ``low`` and ``high``, or None for no gain.
        unit: Text that follows the percentage.

    Returns:
        The text; an empty string for None.
    """
    return "" if gain is None else f"{gain['percent']:.1f}{unit} ({gain['low']:.1f} to {gain['high']:.1f})"
