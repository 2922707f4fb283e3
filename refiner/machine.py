"""A description of this machine for reports and manifests."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the model name of the CPU, as the operating system reports it."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def this_machine() -> dict[str, str | int | None]:
    """Return ``processor`` and ``logical_processors``, which a report states beside a wall time."""
    return {"processor": processor_name(), "logical_processors": os.cpu_count()}
