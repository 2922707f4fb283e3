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


def physical_processors() -> int:
    """Return the number of processors that this process may use, where the two threads of a core count as one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = set()
    package = "0"
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "physical id":
                package = value.strip()
            elif name.strip() == "core id":  # it follows the package
                cores.add((package, value.strip()))
    return min(allowed, len(cores)) if cores else allowed


def this_machine() -> dict[str, str | int | None]:
    """Return ``processor`` and ``logical_processors``, which a report states beside a wall time."""
    return {"processor": processor_name(), "logical_processors": os.cpu_count()}
