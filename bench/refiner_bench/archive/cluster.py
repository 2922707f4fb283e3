"""The same job by actors of a local Ray: frames/s with one actor and with two, and what a chunk costs the driver."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refiner import __version__
from refiner.archive.job import Job
from refiner.archive.ray_job import LOCAL, RayOptions, connected, refine_archive_on_ray, replies_of, require_ray
from refiner.archive.ray_worker import REPLY, TASK, Reply, Setup
from refiner.archive.sequences import Chunk
from refiner.errors import InputError, UsageError
from refiner_bench.timing import ratio_interval

Log = Callable[[str], None]
ACTORS = (1, 2)
EMPTY_CHUNKS = 1000


@dataclass(frozen=True)
class RayTimes:
    """One run on Ray.

    Attributes:
        frames: of the archive.
        start_s: seconds until the first chunk was done, less those of a chunk.
        steady_frames_per_s: frames/s while all actors have work.
        whole_s: seconds from the start of Ray to its end.
    """

    frames: int
    start_s: float
    steady_frames_per_s: float
    whole_s: float


class IdleWorker:
    """An actor that does nothing with its chunks."""

    def __init__(self, setup: bytes) -> None:
        pass

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Reply at once."""
        replies = [Reply(pickle.loads(task).identity, (), 1, 0.0) for task in batch[TASK]]
        return {REPLY: np.array([pickle.dumps(reply) for reply in replies], dtype=object)}


def ray_times(job: Job, rounds: int, log: Log) -> dict[str, Any]:
    """Refine an archive on a local Ray with one actor and with two, in turns.

    Args:
        job: its output folder gets a folder for each run, which is removed.
        rounds: how often each number of actors runs.
        log: takes lines about the progress.

    Returns:
        By the number of actors the medians of `RayTimes`; ``scaling``, frames/s with two over frames/s with one, with a
        95 % interval over rounds; and ``chunk_overhead_s``, the seconds of a chunk that needs no work.
    """
    runs: dict[int, list[RayTimes]] = {actors: [] for actors in ACTORS}
    for number in range(rounds):
        for actors in ACTORS:
            runs[actors].append(_run(job, actors, number))
            log(f"Ray, {actors} actor(s): {runs[actors][-1].steady_frames_per_s:.0f} frames/s")
    ratios = [two.steady_frames_per_s / one.steady_frames_per_s for one, two in zip(*runs.values(), strict=True)]
    return {
        "actors": {
            str(actors): {name: float(np.median([asdict(run)[name] for run in many])) for name in asdict(many[0])}
            for actors, many in runs.items()
        },
        "scaling": asdict(ratio_interval(np.array(ratios))),
        "chunk_overhead_s": _chunk_overhead(job),
    }


def _run(job: Job, actors: int, number: int) -> RayTimes:
    output = Path(job.output) / f"ray-{actors}-{number}"
    began = time.perf_counter()
    done: list[tuple[float, int]] = []
    summary = refine_archive_on_ray(
        replace(job, output=str(output)),
        RayOptions(LOCAL, actors),
        lambda weight: done.append((time.perf_counter() - began, weight)),
    )
    whole = time.perf_counter() - began
    shutil.rmtree(output)
    if summary.failed:
        raise InputError(f"{len(summary.failed)} sequences failed: {summary.failed[0][0]}: {summary.failed[0][1]}")
    return _times_of(done, summary.frames, actors, whole)


def _times_of(done: list[tuple[float, int]], frames: int, actors: int, whole_s: float) -> RayTimes:
    """The steady rate: from the moment when every actor has had chunks to the one when the first finds no more."""
    first, last = 2 * actors - 1, len(done) - actors
    if last - first < 2 * actors:
        raise UsageError(f"{len(done)} chunks are too few for {actors} actors; take more sequences or smaller chunks")
    # The listing may only estimate the frames of a chunk.
    share = sum(weight for _, weight in done[first + 1 : last + 1]) / sum(weight for _, weight in done)
    rate = frames * share / (done[last][0] - done[first][0])
    return RayTimes(frames, done[0][0] - actors * frames / len(done) / rate, rate, whole_s)


def _chunk_overhead(job: Job) -> float:
    require_ray()
    chunks = [Chunk(f"empty-{number}", (), ()) for number in range(EMPTY_CHUNKS)]
    setup = Setup(job, job.recipe_id, __version__, "")
    with connected(LOCAL, len(ACTORS), job):
        times = [time.perf_counter() for _ in replies_of(chunks, setup, len(ACTORS), IdleWorker)]
    return (times[-1] - times[0]) / (len(times) - 1)
