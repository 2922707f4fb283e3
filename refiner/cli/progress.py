"""Progress bars on a terminal, where tqdm is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def progress_of(items: Iterable[Item], what: str, unit: str) -> Iterator[Item]:
    """The same items, with a bar that counts them."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield from items
        return
    yield from tqdm(items, desc=what, unit=unit, disable=None, leave=False)


@contextmanager
def progress_bar(what: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with the rate and the time left. Yields a function that takes the number of units that are done.

    Args:
        what: what is done.
        unit: what is counted.
        total: how many there are; None where nobody knows.
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda done: None
        return
    with tqdm(total=total, desc=what, unit=unit, disable=None) as bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)

        yield done
