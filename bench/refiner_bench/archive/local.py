"""The local job beside its own engine, in turns within one run; and the largest memory of a process that runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.archive.job import Job
from refiner.archive.models import Models, load_models
from refiner.archive.run import open_run
from refiner.archive.work import refine_chunk
from refiner.errors import InputError, MissingComponentError
from refiner.runtime.engine import RefinerEngine
from refiner_bench.timing import ratio_interval

Array = NDArray[np.float32]
Log = Callable[[str], None]
STATUS, KIB = "/proc/self/status", 1024
# Runs the command, and writes its largest resident set in KiB.
PROGRAM = """
import re, sys
from pathlib import Path
from refiner.cli.refine import main
code = main(sys.argv[2:])
Path(sys.argv[1]).write_text(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(code)
"""


class CountedEngine:
    """An engine that counts its windows, and keeps one full batch to run again.

    Args:
        engine: the engine.
        batch: windows of a full batch.
    """

    def __init__(self, engine: RefinerEngine, batch: int) -> None:
        self._engine, self._batch = engine, batch
        self._kept: tuple[Array, ...] = ()
        self.windows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, *inputs: Array) -> Array:
        self.windows += len(inputs[0])
        if not self._kept or len(self._kept[0]) < min(self._batch, len(inputs[0])):
            self._kept = tuple(np.array(part[: self._batch]) for part in inputs)
        return self._engine(*inputs)

    def again(self, windows: int) -> float:
        """Run the engine alone on that many windows, in full batches; returns the seconds."""
        began = time.perf_counter()
        for first in range(0, windows, self._batch):
            size = min(self._batch, windows - first)
            self._engine(*(np.resize(part, (size, *part.shape[1:])) for part in self._kept))
        return time.perf_counter() - began


@dataclass(frozen=True)
class LocalTimes:
    """The local job and its engine on the same windows.

    Attributes:
        sequences: how many were refined.
        frames: of all of them.
        windows: that the engine ran.
        chunks: how many there were.
        list_s: seconds until the first chunk began: the archive is listed and compared with the ledger.
        load_s: seconds in which the models are loaded.
        job_s: seconds of all chunks: read, refine, write, enter into the ledger.
        finish_s: seconds after the last chunk.
        engine_s: seconds of the engine alone, on as many windows in full batches.
    """

    sequences: int
    frames: int
    windows: int
    chunks: int
    list_s: float
    load_s: float
    job_s: float
    finish_s: float
    engine_s: float


def local_times(job: Job, log: Log) -> dict[str, Any]:
    """Refine an archive, and after each chunk run the engine alone on as many windows.

    Returns:
        The fields of `LocalTimes`; frames/s of the job as a whole and of the engine; and ``share``, what part of the
        engine's rate the job has, with a 95 % interval over the chunks.

    Raises:
        InputError: a sequence failed.
    """
    began = time.perf_counter()
    job_s, engine_s = [], []
    with open_run(job) as run:
        listed = time.perf_counter() - began
        models, engine = _counted(job)
        loaded = time.perf_counter() - began - listed
        for number, chunk in enumerate(run.todo, start=1):
            before, start = engine.windows, time.perf_counter()
            run.record(chunk, refine_chunk(job, models, chunk))
            job_s.append(time.perf_counter() - start)
            engine_s.append(engine.again(engine.windows - before))
            log(f"chunk {number} of {len(run.todo)}: the engine's rate to {100 * engine_s[-1] / job_s[-1]:.0f} %")
        start = time.perf_counter()
        summary = run.finish()
        finish_s = time.perf_counter() - start
    if summary.failed:
        raise InputError(f"{len(summary.failed)} sequences failed: {summary.failed[0][0]}: {summary.failed[0][1]}")
    times = LocalTimes(
        sequences=summary.done,
        frames=summary.frames,
        windows=engine.windows,
        chunks=len(job_s),
        list_s=listed,
        load_s=loaded,
        job_s=sum(job_s),
        finish_s=finish_s,
        engine_s=sum(engine_s),
    )
    whole = times.list_s + times.load_s + times.job_s + times.finish_s
    return {
        **asdict(times),
        "job_frames_per_s": times.frames / whole,
        "engine_frames_per_s": times.frames / times.engine_s,
        "engine_windows_per_s": times.windows / times.engine_s,
        "share": asdict(ratio_interval(np.array(engine_s) / np.array(job_s))),
        "share_of_all": times.engine_s / whole,
    }


def _counted(job: Job) -> tuple[Models, CountedEngine]:
    models = load_models(job)
    engine = CountedEngine(models.refiner._engine, models.refiner.batch)
    models.refiner._engine = engine  # type: ignore[assignment]
    return models, engine


def peak_bytes(words: Sequence[str], folder: Path) -> int:
    """Run ``refiner-refine`` in a process of its own; returns the most memory that it ever had, in bytes.

    The kernel's count for a child that ended also holds what its parent had when it began: the process reads its own.

    Args:
        words: the arguments.
        folder: for the number.

    Raises:
        MissingComponentError: this is no Linux.
        InputError: the command failed.
    """
    if not Path(STATUS).exists():
        raise MissingComponentError(f"the memory of a process is read from {STATUS}, which Linux has; use --no-memory")
    file = folder / "peak.txt"
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(file), *words], capture_output=True, text=True)
    if ended.returncode != 0:
        raise InputError(f"refiner-refine failed: {ended.stderr[-500:]}")
    return int(file.read_text()) * KIB
