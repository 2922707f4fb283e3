"""Jobs in processes of their own, each with a time box: one that fails or hangs costs its own minutes alone."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Seconds between being asked to stop and being stopped.
GRACE_S = 3.0
# Exit code of a job that has nothing to do here: a component is missing.
SKIPPED = 3
# A log ends with what a job did last, and with the Python stack where it crashed.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
# The first line of what faulthandler writes.
CRASH = "Fatal Python error"


@dataclass(frozen=True)
class Job:
    """``seconds``: its time box. ``begun``: a file that it writes within ``seconds_to_begin``, or is stopped."""

    name: str
    command: Sequence[str]
    seconds: float
    begun: Path | None = None
    seconds_to_begin: float = math.inf

    def overdue(self, taken: float) -> str:
        """Why it is to be stopped after so many seconds; nothing where it is not."""
        if taken > self.seconds:
            return f"stopped by its time box of {self.seconds:g} s"
        if self.begun is not None and taken > self.seconds_to_begin and not self.begun.exists():
            return f"stopped: it had not begun after {self.seconds_to_begin:g} s"
        return ""


@dataclass(frozen=True)
class Result:
    """``why``: the last line that it wrote, where it is not "ok"; of a crash the last before the crash."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float
    exit_code: int | None
    why: str = ""


def run_jobs(jobs: Sequence[Job], logs: Path, environment: Mapping[str, str] | None = None) -> list[Result]:
    """Run jobs side by side; what they write goes to ``logs/NAME.log``. Whatever they started ends with them."""
    logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    running: list[tuple[Job, subprocess.Popen[bytes]]] = []
    results: dict[str, Result] = {}
    try:
        for job in jobs:
            with open(logs / f"{job.name}.log", "wb") as log:
                process = subprocess.Popen(
                    job.command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **ENVIRONMENT, **(environment or {})},
                    start_new_session=True,
                )
            running.append((job, process))
        while len(results) < len(jobs):
            for job, process in running:
                if job.name in results:
                    continue
                taken = time.monotonic() - began
                code = process.poll()
                if code is not None:
                    results[job.name] = _ended(job, code, taken, logs)
                elif why := job.overdue(taken):
                    _stop(process)
                    results[job.name] = Result(job.name, "failed", round(taken, 1), process.returncode, why)
            time.sleep(0.05)
    finally:
        for _, process in running:
            _stop(process)
    return [results[job.name] for job in jobs]


def _ended(job: Job, code: int, taken: float, logs: Path) -> Result:
    if code == 0:
        return Result(job.name, "ok", round(taken, 1), 0)
    lines = (logs / f"{job.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    crash = next((place for place, line in enumerate(lines) if line.startswith(CRASH)), len(lines))
    said = [line for line in lines[:crash] if line.strip()]
    why = said[-1] if said else f"it ended with exit code {code} and wrote nothing"
    if code < 0 and said:
        why = f"ended by {_signal(code)} after: {why}"
    return Result(job.name, "skipped" if code == SKIPPED else "failed", round(taken, 1), code, why)


def _signal(code: int) -> str:
    """The name of the signal that an exit code stands for."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, which share its process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
