"""What machine this is, in words for reports and manifests."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The CPU's model, as the system names it."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def this_machine() -> dict[str, Any]:
    """What stands beside a wall time: ``processor`` and ``logical_processors``."""
    return {"processor": processor_name(), "logical_processors": os.cpu_count()}
