"""What every report of refiner-bench has: a schema version, the machine, atomic files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.files import atomic_write_text
from refiner.machine import processor_name

SCHEMA_VERSION = 1
PACKAGES = ("numpy", "torch", "onnxruntime")


def new_report(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The head of a report; the caller adds its results."""
    return {
        "schema": f"refiner-bench/{kind}",
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "settings": settings,
    }


def environment() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    return {
        "refiner": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "logical_processors": os.cpu_count(),
        **{package: _version(package) for package in PACKAGES},
    }


def write_report(report: dict[str, Any], text: str, json_path: Path | None, markdown_path: Path | None) -> None:
    """Write the report where it is asked for, each file whole or not at all."""
    if json_path is not None:
        atomic_write_text(json_path, json.dumps(report, indent=2, allow_nan=False) + "\n")
    if markdown_path is not None:
        atomic_write_text(markdown_path, text + "\n")


def gain_text(gain: Mapping[str, Any] | None, unit: str = "") -> str:
    """A gain in percent with its interval; nothing for none."""
    return "" if gain is None else f"{gain['percent']:.1f}{unit} ({gain['low']:.1f} to {gain['high']:.1f})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
