"""Runs tasks that need each other, several at a time; one that fails stops nothing but those that need it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, TypeVar

Task = TypeVar("Task")


class Inline(Executor):
    """Runs every call at once, in the caller's process."""

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
    """Submit every task of ``needs`` when the tasks that it needs are done, ``jobs`` at a time, in order.

    Each result is told when it is there. Returns the tasks that failed, and those that lack a task that they need.
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
