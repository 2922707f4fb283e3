"""Runs the rows of a study, several at a time, each after the rows that it needs."""

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
    """Train and score ``rows`` (none: all) and the rows that they need, ``jobs`` at a time.

    ``on_done(row, seed, seconds)`` and ``on_failure(row, seed, error)`` are called as it happens. A row that fails
    stops nothing but the rows that need it; its traceback goes into its log. Returns the rows and seeds that failed or
    lack a row that they need.
    """
    table, folder = spec.load()
    pool: Executor
    work: Callable[[str, int], float]
    needs = {(row.name, seed): [(name, seed) for name in row.needs()] for seed in seeds for row in table.select(rows)}
    if jobs == 1:
        # One runner keeps the clips that it has read.
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
    """A process of its own for a row: one that dies takes no other with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed_alone, spec, name, seed).result()


def _timed_alone(spec: Spec, name: str, seed: int) -> float:
    return _timed(Runner(spec, *spec.load()), name, seed)


def _timed(runner: Runner, name: str, seed: int) -> float:
    began, row = time.perf_counter(), runner.table.row(name)
    try:
        runner.run(row, seed)
    except Exception:
        with (runner.place(row, seed) / LOG_FILE).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise
    return time.perf_counter() - began


def default_jobs() -> int:
    """One run a processor: two runs of one thread train more windows a second than one of two."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def check_request(jobs: int, seeds: Collection[int]) -> None:
    """Raises UsageError for no seed or no job."""
    if jobs < 1 or not seeds or min(seeds) < 0:
        raise UsageError(f"expected at least one job and seeds of 0 or more, got {jobs} and {list(seeds)}")
