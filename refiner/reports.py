"""The project's JSON reports: their header, and functions that write and read them.

The header names the command that wrote the report and the version of the layout. `refiner-evaluate` writes the keys
``format`` and ``version``; all other commands write ``schema`` and ``schema_version``. The repository contains reports
of both forms, so both forms remain supported.
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
from refiner.json_text import JsonError, parse_json
from refiner.machine import processor_name

# The content of a report. It consists of JSON types only.
Report = dict[str, Any]

# The kinds of reports, named after the command that writes them.
EVALUATION = "evaluation"
# `refiner-evaluate --mpi-inf-3dhp`, which scores by another protocol.
EVALUATION_3DHP = "mpi-inf-3dhp"
# The accuracy study.
STUDY = "accuracy"
# The comparison of our networks and metrics with the modules of their authors.
PUBLISHED = "published"
GPU_LATENCY = "gpu-latency"
QUARTER_HOUR = "quarter-hour"
# The JSON file of pytest-benchmark, which has another header.
SUITE = "suite"
KINDS = (
    "flops",
    "lifters",
    "cards",
    "sweep",
    "engines",
    "steps",
    "profile-native",
    "busy",
    "native",
    "train-step",
    "distributed",
    "streaming",
    "serve",
    "real",
    "trajectory",
    "archive",
    STUDY,
    EVALUATION,
    EVALUATION_3DHP,
    PUBLISHED,
    GPU_LATENCY,
    QUARTER_HOUR,
    SUITE,
)
VERSION = 1
# The kinds whose JSON is not indented by two spaces. The committed files have this indent, and a new file should differ
# from them only in the numbers.
INDENTS = {EVALUATION: 1, QUARTER_HOUR: 1}
# The packages whose versions influence the figures of a report.
PACKAGES = ("numpy", "torch", "onnxruntime")


@dataclass(frozen=True)
class Header:
    """The kind of a report (one of `KINDS`) and the version of its layout (None if it is not readable)."""

    kind: str
    version: int | None = VERSION

    def entries(self) -> dict[str, str | int | None]:
        """Return the header as entries of a report."""
        if self.kind == EVALUATION:
            return {"format": f"refiner-{self.kind}", "version": str(self.version)}
        return {"schema": f"refiner-bench/{self.kind}", "schema_version": self.version}


def header_of(content: object) -> Header | None:
    """Return the header of the content of a JSON file; None if the content is not a report."""
    if not isinstance(content, Mapping):
        return None
    if "benchmarks" in content and "machine_info" in content:
        return Header(SUITE)
    if "schema" in content:
        # The oldest quarter-hour reports have no version.
        return _known(str(content["schema"]).removeprefix("refiner-bench/"), content.get("schema_version", VERSION))
    return _known(str(content.get("format")).removeprefix("refiner-"), content.get("version"))


def _known(kind: str, number: object) -> Header | None:
    if kind not in KINDS:
        return None
    return Header(kind, int(number) if isinstance(number, int | str) and str(number).isdigit() else None)


def report_kind(report: Mapping[str, Any]) -> str:
    """Return the kind of a report, one of `KINDS`; "" if the content is not a report."""
    header = header_of(report)
    return "" if header is None else header.kind


def new_report(kind: str, settings: Mapping[str, Any]) -> Report:
    """Start a report of a measurement. The caller adds the results.

    Args:
        kind: One of `KINDS`.
        settings: The options of the measurement. Reports with different settings are not compared.

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
    """Return the machine and the package versions, which influence the figures of a report."""
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
    """Write a report as JSON, atomically. A number that is not finite becomes null."""
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
        ArchiveError: The file cannot be read, is not a report, has another kind, or has an unknown version.
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
    """Return the content of any JSON file. Raises ArchiveError if the file cannot be read."""
    try:
        return parse_json(Path(path).read_bytes())
    except (OSError, JsonError) as error:
        raise ArchiveError(f"{path} is no JSON report: {error}") from error


def without_nan(value: Any) -> Any:
    """Return a copy of the content in which null replaces numbers that are not finite. JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
