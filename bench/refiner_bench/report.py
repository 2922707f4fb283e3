"""The parts that reports of refiner-bench share beside their schema: their files, and gains in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.files import atomic_write_text
from refiner.reports import write_report


def publish(report: Mapping[str, Any], text: str, json_path: Path | None, markdown_path: Path | None) -> None:
    """Write a report where it is asked for, each file whole or not at all.

    Args:
        report: The report.
        text: The same in Markdown.
        json_path: The file of the report, or None.
        markdown_path: The file of the text, or None.
    """
    if json_path is not None:
        write_report(json_path, report)
    if markdown_path is not None:
        atomic_write_text(markdown_path, text + "\n")


def gain_text(gain: Mapping[str, Any] | None, unit: str = "") -> str:
    """A gain in percent with its interval; nothing for none."""
    return "" if gain is None else f"{gain['percent']:.1f}{unit} ({gain['low']:.1f} to {gain['high']:.1f})"
