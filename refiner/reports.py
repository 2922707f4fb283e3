"""The schema of the project's JSON reports: their header, how they are written and how they are read.

The header says which command wrote a report, and in which version of its layout. `refiner-evaluate` writes it as
``format`` and ``version``, every other command as ``schema`` and ``schema_version``. Committed reports have one or the
other, so both stay.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.errors import ArchiveError
from refiner.files import atomic_write_text
from refiner.machine import processor_name

# The content of a report: JSON types alone.
Report = dict[str, Any]

# The kinds of reports, by the command that writes them.
EVALUATION = "evaluation"
# The accuracy study.
STUDY = "accuracy"
GPU_LATENCY = "gpu-latency"
QUARTER_HOUR = "quarter-hour"
# The JSON of pytest-benchmark, which has a header of its own.
SUITE = "suite"
KINDS = (
    "flops",
    "lifters",
    "cards",
    "sweep",
    "engines",
    "native",
    "train-step",
    "streaming",
    "real",
    STUDY,
    EVALUATION,
    GPU_LATENCY,
    QUARTER_HOUR,
    SUITE,
)
VERSION = 1
# Where a file is not indented by two: as the committed ones are, so that a new one shows the numbers that changed.
INDENTS = {EVALUATION: 1, QUARTER_HOUR: 1}
# Packages whose versions the figures of a report depend on.
PACKAGES = ("numpy", "torch", "onnxruntime")


@dataclass(frozen=True)
class Header:
    """The kind of a report, one of `KINDS`, and the version of its layout; None where the file has no readable one."""

    kind: str
    version: int | None = VERSION

    def entries(self) -> dict[str, str | int | None]:
        """The header as a report has it."""
        if self.kind == EVALUATION:
            return {"format": f"refiner-{self.kind}", "version": str(self.version)}
        return {"schema": f"refiner-bench/{self.kind}", "schema_version": self.version}


def header_of(content: object) -> Header | None:
    """The header of a file's content; None for the content of another file."""
    if not isinstance(content, Mapping):
        return None
    if "benchmarks" in content and "machine_info" in content:
        return Header(SUITE)
    if "schema" in content:
        # The first reports of a quarter-hour have no version.
        return _known(str(content["schema"]).removeprefix("refiner-bench/"), content.get("schema_version", VERSION))
    return _known(str(content.get("format")).removeprefix("refiner-"), content.get("version"))


def _known(kind: str, number: object) -> Header | None:
    if kind not in KINDS:
        return None
    return Header(kind, int(number) if isinstance(number, int | str) and str(number).isdigit() else None)


def report_kind(report: Mapping[str, Any]) -> str:
    """The kind of a report, one of `KINDS`; "" for the content of another file."""
    header = header_of(report)
    return "" if header is None else header.kind


def new_report(kind: str, settings: Mapping[str, Any]) -> Report:
    """Begin a report of a measurement, to which the caller adds its results.

    Args:
        kind: One of `KINDS`.
        settings: The options of the measurement; reports of different settings are not compared.

    Returns:
        The header, the time, the machine and the settings.
    """
    return {
        **Header(kind).entries(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "settings": dict(settings),
    }


def environment() -> dict[str, str | int | None]:
    """The machine and the versions that a figure depends on."""
    return {
        "refiner": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "logical_processors": os.cpu_count(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write a report as JSON, whole or not at all; a number that is not finite becomes null."""
    indent = INDENTS.get(report_kind(report), 2)
    atomic_write_text(path, json.dumps(without_nan(report), indent=indent, allow_nan=False) + "\n")


def read_report(path: str | os.PathLike[str], kinds: Collection[str] = KINDS) -> Report:
    """Read a report.

    Args:
        path: The JSON file.
        kinds: The kinds that the caller can use.

    Returns:
        The report's content.

    Raises:
        ArchiveError: The file cannot be read, is no report, is one of another kind, or has a version that this code
            does not know.
    """
    content = read_json(path)
    header = header_of(content)
    if header is None:
        raise ArchiveError(f"{path} is no report; expected one of {', '.join(kinds)}")
    if header.kind not in kinds:
        raise ArchiveError(f"{path} is a report of {header.kind}; expected one of {', '.join(kinds)}")
    if header.version != VERSION:
        raise ArchiveError(
            f"{path} is a report of {header.kind} of an unknown version, {header.version}; expected {VERSION}"
        )
    report: Report = content
    return report


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, whether it is a report or not. Raises ArchiveError where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArchiveError(f"{path} is no JSON report: {error}") from error


def without_nan(value: Any) -> Any:
    """The same content with null where a number is not finite, because JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
