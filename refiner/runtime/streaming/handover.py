"""From the thread of a camera to the thread that refines."""

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
    """Refines in a thread of its own what other threads `put`; use it as a context manager.

    Args:
        refiner: the stream, from now on this worker's alone.
        deliver: called in the worker's thread with each refined frame.
        policy: "latest": a person's frame that still waits when the next one comes is dropped, which bounds the delay.
            "queue": all frames are refined in order; `put` drops the newest when ``capacity`` wait, which bounds the
            memory.
        capacity: frames that may wait; with "latest", people.

    ``dropped`` counts frames that were never refined, ``refused`` those that were no frames, of which ``errors`` keeps
    the last messages. An exception of ``deliver`` ends the worker and is raised by `close`.
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
        """Hand over a frame from any thread, without waiting; False where one was dropped for it or instead of it."""
        with self._changed:
            if self._closing or self._failure is not None:
                raise UsageError("the worker is closed")
            if self._policy == "latest":
                for place, waiting in enumerate(self._waiting):
                    if waiting.person_id == frame.person_id:
                        self._waiting[place] = frame
                        self.dropped += 1
                        return False
            if len(self._waiting) >= self._capacity:
                self.dropped += 1
                return False
            self._waiting.append(frame)
            self._changed.notify()
            return True

    def close(self) -> None:
        """Refine what waits, flush the stream, end the thread. Raises what ``deliver`` raised."""
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
        except BaseException as error:  # handed to whoever closes
            self._failure = error
