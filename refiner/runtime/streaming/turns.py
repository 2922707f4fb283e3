"""Whose message is next: every client gets the frame rate that it was promised, and the rest of the time is shared."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# A client may send this much earlier than its frame rate says, after it sent less: cameras and networks are uneven.
SLACK_S = 0.1
# However much a client sent ahead of its rate, it waits behind the others for this long at most.
MOST_AHEAD_S = 1.0
# A message of more bytes counts as several frames: reading it takes as long. A frame of 33 joints takes 4 kB.
USUAL_BYTES = 16_384
ENDED = "nobody runs the calls any more"


class Pace:
    """The clock of one client: when each of its messages is due, by the frame rate that was agreed.

    This is the virtual clock of Zhang (SIGCOMM 1990): a client that keeps to its rate has its turn when its message
    comes. The messages of a client that sends faster get later turns, which it has only when no other message waits.

    Args:
        rate: messages per second.
    """

    def __init__(self, rate: float) -> None:
        self._period = 1.0 / rate
        self._due = -math.inf

    def turn(self, now: float, size: int = 0) -> float:
        """The time of a message's turn: ``now`` for a client that keeps to its rate, otherwise later.

        Args:
            now: seconds, by any clock that runs forward.
            size: of the message, in bytes.
        """
        turn = max(now, self._due - SLACK_S)
        messages = 1 + size // USUAL_BYTES
        self._due = min(max(now, self._due), now + MOST_AHEAD_S) + messages * self._period
        return turn


@dataclass(order=True)
class _Waiting:
    turn: float
    number: int
    call: Callable[[], Any] = field(compare=False)
    answer: asyncio.Future[Any] = field(compare=False)


class Turns:
    """Calls that wait for their turn, and run one at a time in a thread of their own: the earliest turn first.

    Calls of the same turn run in the order in which they came. `run` must run as a task of the event loop.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._came = asyncio.Event()
        self._number = 0
        self._now: _Waiting | None = None
        self._ended = False
        self._thread = ThreadPoolExecutor(1, "refiner-stream")

    async def call(self, turn: float, call: Callable[[], T]) -> T:
        """Wait for the turn, and return what the call returns or raise what it raises.

        Raises:
            RuntimeError: `run` has ended.
        """
        if self._ended:
            raise RuntimeError(ENDED)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, _Waiting(turn, self._number, call, answer))
        self._came.set()
        return await answer

    async def run(self) -> None:
        """Run the calls, until cancelled. Whoever then waits for an answer gets a RuntimeError."""
        try:
            while True:
                while self._waiting:
                    self._now = heapq.heappop(self._waiting)
                    await self._run(self._now)
                self._came.clear()
                await self._came.wait()
        finally:
            self._ended = True
            for waiting in [*self._waiting, *([] if self._now is None else [self._now])]:
                if not waiting.answer.done():
                    waiting.answer.set_exception(RuntimeError(ENDED))
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, waiting: _Waiting) -> None:
        if waiting.answer.done():  # whoever waited for it was cancelled
            return
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, waiting.call)
        except Exception as error:
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(result)
