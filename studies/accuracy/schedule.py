"""Runs tasks that depend on each other, several at a time. A failed task stops only the tasks that depend on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

Task = TypeVar("Task")


class Inline(Executor):
    """Runs every call immediately in the caller's process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run_tasks(
    needs: Mapping[Task, Collection[Task]],
    submit: Callable[[Task], Future[float]],
    jobs: int,
    on_done: Callable[[Task, float], None],
    on_failure: Callable[[Task, Exception], None],
) -> list[Task]:
    """Submit every task as soon as the tasks that it depends on are done.

    Args:
        needs: By task, the tasks that it depends on. Tasks start in this order where possible.
        submit: Starts a task.
        jobs: The largest number of tasks at a time.
        on_done: Receives each finished task and its result.
        on_failure: Receives each failed task and its error.

    Returns:
        The tasks that failed, and the tasks that did not run because they depend on a failed task.
    """
    waiting = list(needs)
    done: set[Task] = set()
    failed: list[Task] = []
    running: dict[Future[float], Task] = {}
    while True:
        ready = [task for task in waiting if done.issuperset(needs[task])]
        for task in ready[: jobs - len(running)]:
            waiting.remove(task)
            running[submit(task)] = task
        if not running:
            return failed + waiting
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            task = running.pop(future)
            try:
                result = future.result()
            except Exception as error:
                failed.append(task)
                on_failure(task, error)
            else:
                done.add(task)
                on_done(task, result)
