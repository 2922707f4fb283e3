"""Signals that end a command: temporary files are removed, and a stream finishes what it has begun."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

# How a service manager and a closed connection end a program. Windows has no SIGHUP. Ctrl-C (SIGINT) is a
# KeyboardInterrupt in Python.
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
ENDING = (signal.SIGINT, *TERMINATING)


class Terminated(KeyboardInterrupt):
    """A signal ends the command. Only `refiner.cli.common.run` catches it.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as shells report it."""
        return 128 + self.number


@contextlib.contextmanager
def raising_terminated() -> Iterator[None]:
    """Raise `Terminated` in the main thread for a signal of `TERMINATING`, so that ``finally`` blocks run."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    with _handled(end, TERMINATING):
        yield


class UntilEnded:
    """Iterates over an input until it ends, or until a signal of `ENDING` ends it. Use it as a context manager.

    While an item is awaited, a signal ends the iteration at once. While an item is worked on, the iteration ends after
    this item. A second signal raises `Terminated`.

    Attributes:
        received: the number of the signal; None before one came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> UntilEnded:
        self._handlers.enter_context(_handled(self._end, ENDING))
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()

    def items(self, source: Iterable[Item]) -> Iterator[Item]:
        """The items of ``source``."""
        iterator = iter(source)
        while True:
            try:
                self._waiting = True
                if self.received is not None:
                    return
                item = next(iterator)
            except (StopIteration, _InputEnded):
                return
            finally:
                self._waiting = False
            yield item

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise Terminated(number)
        self.received = number
        if self._waiting:
            raise _InputEnded


class _InputEnded(BaseException):
    """Leaves the call that waits for input."""


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], signals: Sequence[int]) -> Iterator[None]:
    """Handle signals by ``handler`` within the block.

    Only the main thread can do so. Signals that the caller ignores (``nohup``, a job in the background) stay ignored.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
