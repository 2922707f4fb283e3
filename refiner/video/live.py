"""Live frames: the newest one, frames at their own pace, and the people who are followed through them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from refiner.errors import UsageError
from refiner.formats.detections import Person
from refiner.formats.tracking import LEAST_FRAMES, USUAL_FPS, Tracker, size_of
from refiner.video.reader import VideoFrame

# Somebody who was away for this long makes room for somebody else, seconds.
AWAY_S = 0.5
# An interrupt comes through between two waits, seconds.
WAIT_S = 0.2
# A camera that hangs does not keep the program from its end, seconds.
CLOSE_S = 2.0


def paced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Frames of a file at their own pace, as a camera would give them."""
    began = time.monotonic()
    for frame in frames:
        time.sleep(max(began + frame.seconds - time.monotonic(), 0.0))
        yield frame


class LatestFrames(Iterator[VideoFrame]):
    """The newest frame of a source, which a thread of its own reads. Older frames that nobody took are left out.

    Args:
        frames: the frames of a camera, or those of `paced`.

    Attributes:
        left_out: how many frames nobody took.
    """

    def __init__(self, frames: Iterator[VideoFrame]) -> None:
        self._source = frames
        self._newest: VideoFrame | None = None
        self._error: BaseException | None = None
        self._ended = self._closing = False
        self._changed = threading.Condition()
        self.left_out = 0
        self._thread = threading.Thread(target=self._read, name="refiner-camera", daemon=True)
        self._thread.start()

    def __next__(self) -> VideoFrame:
        with self._changed:
            while self._newest is None and not self._ended:
                self._changed.wait(WAIT_S)
            frame, self._newest = self._newest, None
            if frame is not None:
                return frame
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """End the thread, after the frame that it reads now; a camera that hangs is left alone after two seconds."""
        with self._changed:
            self._closing = True
        self._thread.join(CLOSE_S)

    def _read(self) -> None:
        try:
            for frame in self._source:
                with self._changed:
                    if self._closing:
                        break
                    self.left_out += self._newest is not None
                    self._newest = frame
                    self._changed.notify()
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = True
                self._changed.notify()


class LivePeople:
    """Follows the people of live frames, and chooses whom a stream takes.

    Somebody is followed from the third frame on that shows them, and keeps the number. Where there are more people than
    ``most``, those who were chosen first stay, and the largest in the image fills a free place. A place becomes free
    half a second after its person was last seen.

    Args:
        most: how many people at a time.

    Raises:
        UsageError: ``most`` is below 1.
    """

    def __init__(self, most: int = 1) -> None:
        if most < 1:
            raise UsageError(f"most is {most}; expected 1 person or more")
        self._most = most
        self._tracker = Tracker()
        self._sights: dict[int, int] = {}
        # The time at which each chosen person was last seen, and the number that results give to the person.
        self._chosen: dict[int, float] = {}
        self._numbers: dict[int, int] = {}
        self._given = 0

    def take(self, seconds: float, people: Sequence[Person]) -> list[tuple[int, Person]]:
        """The chosen people of a frame with their numbers, which count from 0 in the order in which they were chosen.

        Args:
            seconds: the time of the frame, which increases.
            people: those whom the detector found.
        """
        keys = self._tracker.step(seconds * USUAL_FPS, people)
        seen = {key: person for key, person in zip(keys, people, strict=True) if key is not None}
        # Who is not seen begins to count anew only when the tracker has forgotten them.
        known = self._tracker.keys
        self._sights = {key: count for key, count in self._sights.items() if key in known}
        for key in seen:
            self._sights[key] = self._sights.get(key, 0) + 1
        self._chosen = {key: last for key, last in self._chosen.items() if key in seen or seconds - last <= AWAY_S}
        waiting = [key for key in seen if key not in self._chosen and self._sights[key] >= LEAST_FRAMES]
        waiting.sort(key=lambda key: -size_of(seen[key].keypoints))
        for key in waiting[: self._most - len(self._chosen)]:
            if key not in self._numbers:
                self._numbers[key], self._given = self._given, self._given + 1
            self._chosen[key] = seconds
        self._numbers = {key: number for key, number in self._numbers.items() if key in known}
        for key in seen:
            if key in self._chosen:
                self._chosen[key] = seconds
        return [(self._numbers[key], person) for key, person in seen.items() if key in self._chosen]
