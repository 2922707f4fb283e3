"""The order in which a study's rows run, and what becomes of it when one fails."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Event

import pytest

from studies.accuracy import study
from studies.accuracy.schedule import Inline, run_tasks

NEEDS = {"lifter": [], "other": [], "refiner": ["lifter"], "score": ["refiner", "lifter"], "other-score": ["other"]}


class Diary:
    def __init__(self, fails=()):
        self.fails, self.began, self.done, self.failed = fails, [], [], []

    def work(self, task):
        self.began.append(task)
        if task in self.fails:
            raise ValueError(f"{task} is bad")
        return float(len(task))

    def run(self, pool, jobs=1):
        with pool:
            return run_tasks(
                NEEDS,
                lambda task: pool.submit(self.work, task),
                jobs,
                lambda task, result: self.done.append((task, result)),
                lambda task, error: self.failed.append((task, str(error))),
            )


def test_a_task_runs_after_what_it_needs_in_the_order_given():
    diary = Diary()
    assert diary.run(Inline()) == []
    assert diary.began == list(NEEDS)
    assert diary.done == [(task, float(len(task))) for task in NEEDS] and not diary.failed


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_a_failure_is_told_and_stops_what_needs_it_alone(jobs):
    diary = Diary(fails={"lifter"})
    lost = diary.run(Inline() if jobs == 1 else ThreadPoolExecutor(jobs), jobs)
    assert lost == ["lifter", "refiner", "score"]
    assert diary.failed == [("lifter", "lifter is bad")]
    assert sorted(diary.began) == ["lifter", "other", "other-score"]


def test_no_more_than_the_jobs_run_and_a_failure_is_told_while_the_others_do():
    told, began = Event(), []

    def work(task):
        began.append(task)
        if task == "a":
            raise ValueError
        # Waits for the news of the other's failure: were it told at the end only, this would time out.
        return 1.0 if task == "c" else float(told.wait(timeout=60))

    done = []
    with ThreadPoolExecutor(2) as pool:
        lost = run_tasks(
            {"a": [], "b": [], "c": ["b"]},
            lambda task: pool.submit(work, task),
            2,
            lambda task, result: done.append((task, result)),
            lambda task, error: told.set(),
        )
    assert lost == ["a"] and done == [("b", 1.0), ("c", 1.0)] and began[2:] == ["c"]


def die(spec, name, seed):
    """A worker that is killed, as for memory."""
    os._exit(9)


def test_a_worker_that_dies_is_a_row_that_failed(monkeypatch):
    monkeypatch.setattr(study, "_timed_alone", die)
    with pytest.raises(BrokenProcessPool):
        study._in_own_process(None, "row", 0)
