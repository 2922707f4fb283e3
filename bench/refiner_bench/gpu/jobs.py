"""Runs jobs in separate processes with time limits, so that a job that fails or hangs does not stop the others."""

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

# Seconds between the request to stop a process and its forced end.
GRACE_S = 3.0
# The exit code of a job that cannot run here because a component is missing.
SKIPPED = 3
# With these variables a log ends with the last action of a job, and after a crash with its Python stack.
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
# The beginning of the first line that Python's faulthandler writes.
CRASH = "Fatal Python error"

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Job:
    """A command with a time limit.

    Attributes:
        name: The name of the job and of its log.
        command: The command.
        seconds: The time limit.
        begun: A file that the job writes after its first steps, or None.
        seconds_to_begin: The time limit for this file.
    """

    name: str
    command: Sequence[str]
    seconds: float
    begun: Path | None = None
    seconds_to_begin: float = math.inf

    def overdue(self, elapsed: float) -> str:
        """The reason to stop the job after ``elapsed`` seconds; an empty string if it may go on."""
        if elapsed > self.seconds:
            return f"stopped by its time box of {self.seconds:g} s"
        if self.begun is not None and elapsed > self.seconds_to_begin and not self.begun.exists():
            return f"stopped: it had not begun after {self.seconds_to_begin:g} s"
        return ""


@dataclass(frozen=True)
class Result:
    """The result of a job.

    Attributes:
        name: The name of the job.
        status: Its status.
        seconds: Its duration.
        exit_code: Its exit code; None if no process ran.
        why: The reason for another status than "ok": the last line that the job wrote, or after a crash the last line
            before the crash.
    """

    name: str
    status: Status
    seconds: float
    exit_code: int | None
    why: str = ""


def run_jobs(jobs: Sequence[Job], logs: Path, environment: Mapping[str, str] | None = None) -> list[Result]:
    """Run jobs at the same time, and wait for all of them.

    Processes that a job started are stopped together with the job.

    Args:
        jobs: The jobs.
        logs: The folder for the output of each job, ``NAME.log``.
        environment: Further environment variables.

    Returns:
        The results in the order of ``jobs``.
    """
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
                elapsed = time.monotonic() - began
                code = process.poll()
                if code is not None:
                    results[job.name] = _ended(job, code, elapsed, logs)
                elif why := job.overdue(elapsed):
                    _stop(process)
                    results[job.name] = Result(job.name, "failed", round(elapsed, 1), process.returncode, why)
            time.sleep(0.05)
    finally:
        for _, process in running:
            _stop(process)
    return [results[job.name] for job in jobs]


def _ended(job: Job, code: int, elapsed: float, logs: Path) -> Result:
    """The result of a job that ended by itself."""
    if code == 0:
        return Result(job.name, "ok", round(elapsed, 1), 0)
    lines = (logs / f"{job.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    crash = next((number for number, line in enumerate(lines) if line.startswith(CRASH)), len(lines))
    output = [line for line in lines[:crash] if line.strip()]
    why = output[-1] if output else f"it ended with exit code {code} and wrote nothing"
    if code < 0 and output:
        why = f"ended by {_signal(code)} after: {why}"
    return Result(job.name, "skipped" if code == SKIPPED else "failed", round(elapsed, 1), code, why)


def _signal(code: int) -> str:
    """The name of the signal that ended a process with this exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children, which are in the same process group."""
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
