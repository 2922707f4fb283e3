"""Hand frames over from the thread of a camera to a thread that refines them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from refiner.errors import RefinerError, UsageError
from refiner.runtime.streaming.frames import RefinedFrame
from refiner.runtime.streaming.refiner import Frame, StreamingRefiner

Policy = Literal["latest", "queue"]


class StreamWorker:
    """Refines the frames that other threads `put`, in a thread of its own. Use it as a context manager.

    Args:
        refiner: the stream. Only this worker may use it from now on.
        deliver: called in the worker's thread with each refined frame. An exception that it raises ends the worker, and
            `close` raises it again.
        policy: "latest" drops a person's frame that still waits when the next one comes, which bounds the delay.
            "queue" refines all frames in order. When ``capacity`` frames wait, `put` drops the new one, which bounds
            the memory.
        capacity: the number of frames that may wait; with "latest", the number of people.

    Attributes:
        dropped: how many frames were dropped.
        refused: how many frames the stream refused as invalid.
        errors: the last error messages of refused frames.

    Raises:
        UsageError: the policy is unknown, or the capacity is below 1.
    """

    def __init__(
        self,
        refiner: StreamingRefiner,
        deliver: Callable[[RefinedFrame], None],
        policy: Policy = "latest",
        capacity: int = 64,
    ) -> None:
        if policy not in ("latest", "queue"):
            raise UsageError(f"there is no policy {policy!r}; choose 'latest' or 'queue'")
        if capacity < 1:
            raise UsageError(f"capacity must be at least 1, got {capacity}")
        self._refiner, self._deliver, self._policy, self._capacity = refiner, deliver, policy, capacity
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self.dropped = self.refused = 0
        self.errors: deque[str] = deque(maxlen=16)
        self._thread = threading.Thread(target=self._work, name="refiner-stream", daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> bool:
        """Hand over a frame from any thread, without waiting.

        Returns:
            False where this frame, or a waiting one of the same person, was dropped.

        Raises:
            UsageError: the worker is closed.
        """
        with self._changed:
            if self._closing or self._failure is not None:
                raise UsageError("the worker is closed")
            if self._policy == "latest":
                for index, waiting in enumerate(self._waiting):
                    if waiting.person_id == frame.person_id:
                        self._waiting[index] = frame
                        self.dropped += 1
                        return False
            if len(self._waiting) >= self._capacity:
                self.dropped += 1
                return False
            self._waiting.append(frame)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Refine the waiting frames, flush the stream and end the thread. Raises any exception of ``deliver``."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> StreamWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closing)
                    if not self._waiting:
                        break
                    frame = self._waiting.popleft()
                try:
                    ready = self._refiner.push_many([frame])
                except RefinerError as error:
                    self.refused += 1
                    self.errors.append(str(error))
                    continue
                for refined in ready:
                    self._deliver(refined)
            for refined in self._refiner.flush():
                self._deliver(refined)
        except BaseException as error:  # `close` raises it in the caller's thread
            self._failure = error
