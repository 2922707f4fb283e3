"""Runs the rows of a study, several at a time. A row starts after the rows that it needs."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

from refiner.errors import UsageError
from studies.accuracy.runner import LOG_FILE, Runner
from studies.accuracy.schedule import Inline, run_tasks
from studies.accuracy.spec import Spec


def run_study(
    spec: Spec,
    rows: Collection[str],
    seeds: Collection[int],
    jobs: int,
    on_done: Callable[[str, int, float], None],
    on_failure: Callable[[str, int, Exception], None],
) -> list[tuple[str, int]]:
    """Train and score rows, and the rows that they need.

    A failed row stops only the rows that need it. Its traceback is in its log.

    Args:
        spec: The study.
        rows: The names of rows; all rows if it is empty.
        seeds: The seeds.
        jobs: The largest number of runs at a time.
        on_done: Receives the row, the seed and the seconds of each finished run.
        on_failure: Receives the row, the seed and the error of each failed run.

    Returns:
        The rows and seeds that failed, or that lack a row that they need.
    """
    table, folder = spec.load()
    pool: Executor
    work: Callable[[str, int], float]
    needs = {(row.name, seed): [(name, seed) for name in row.needs()] for seed in seeds for row in table.select(rows)}
    if jobs == 1:
        # A single runner reads the clips only once.
        pool, work = Inline(), partial(_timed, Runner(spec, table, folder))
    else:
        pool, work = ThreadPoolExecutor(jobs), partial(_in_own_process, spec)
    with pool:
        return run_tasks(
            needs,
            lambda task: pool.submit(work, *task),
            jobs,
            lambda task, seconds: on_done(*task, seconds),
            lambda task, error: on_failure(*task, error),
        )


def _in_own_process(spec: Spec, name: str, seed: int) -> float:
    """Run a row in its own process, so that a crash does not stop other rows."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed_alone, spec, name, seed).result()


def _timed_alone(spec: Spec, name: str, seed: int) -> float:
    return _timed(Runner(spec, *spec.load()), name, seed)


def _timed(runner: Runner, name: str, seed: int) -> float:
    began, row = time.perf_counter(), runner.table.row(name)
    try:
        runner.run(row, seed)
    except Exception:
        with (runner.run_folder(row, seed) / LOG_FILE).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise
    return time.perf_counter() - began


def default_jobs() -> int:
    """One run per processor: two runs with one thread train more windows per second than one run with two threads."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_request(jobs: int, seeds: Collection[int]) -> None:
    """Raise UsageError without a job, without a seed, and for a negative seed."""
    if jobs < 1 or not seeds or min(seeds) < 0:
        raise UsageError(f"expected at least one job and seeds of 0 or more, got {jobs} and {list(seeds)}")
