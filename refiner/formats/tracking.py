"""A simple tracker: who is who from frame to frame.

People of neighbouring frames are assigned to each other so that the sum of their distances is least (the Hungarian
method). The distance of two poses is the mean distance of the joints that both show, divided by the size of the person.
A person who is not seen for a while is gone; who comes then is somebody new. Nothing is known of looks or of depth: two
people who cross close to the camera may be exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from refiner.errors import EmptySequenceError
from refiner.formats.detections import Detections, Person

Array = NDArray[np.float64]

# Mean distance of the joints from one frame to the next, in sizes of the person: more is somebody else.
FARTHEST = 0.7
# Time that a person may be away, seconds; and the frame rate where the file has none.
LONGEST_AWAY_S, USUAL_FPS = 1.0, 50.0
# Joints that were seen longer ago say nothing about the place of the body, seconds.
LONGEST_MEMORY_S = 0.3
# Joints of a frame with which a person may begin, and frames of a person who is no false detection.
LEAST_BEGIN, LEAST_FRAMES = 6, 3
# Joints that two poses must have in common.
LEAST_COMMON = 3


@dataclass(frozen=True, eq=False)
class Track:
    """One person over the whole video of F frames.

    Attributes:
        number: counted from 0 by the time spent in the video, longest first.
        keypoints: ``(F, J, 2)`` pixels, NaN where a joint or the person is not seen.
        confidence: ``(F, J)``, 0 where a joint or the person is not seen.
    """

    number: int
    keypoints: Array = field(repr=False)
    confidence: Array = field(repr=False)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """``(F,)``: the frames that show the person."""
        return np.asarray((self.confidence > 0).any(axis=1))


@dataclass(eq=False)
class _Open:
    """A person whose track still grows."""

    key: int
    last: Array
    seen_at: Array
    size: float
    frame: float
    number: int | None


class Tracker:
    """Follows people from frame to frame, for streams as for files.

    Args:
        rate: units of ``frame`` in `step` per second.
    """

    def __init__(self, rate: float = USUAL_FPS) -> None:
        self._away, self._memory = LONGEST_AWAY_S * rate, LONGEST_MEMORY_S * rate
        self._tracks: list[_Open] = []
        self._keys = count()

    @property
    def keys(self) -> frozenset[int]:
        """The keys of those who were seen within the last second."""
        return frozenset(track.key for track in self._tracks)

    def step(self, frame: float, people: Sequence[Person]) -> list[int | None]:
        """The keys of the people of a frame, in their order; None for somebody new with too few joints to begin.

        Args:
            frame: the number of the frame, or its time in units of the rate; it increases from call to call.
            people: those whom the frame shows.
        """
        self._tracks = [track for track in self._tracks if frame - track.frame <= self._away]
        keys: list[int | None] = []
        for track, person in _assigned(self._tracks, people, frame, self._memory):
            seen = np.asarray(np.isfinite(person.keypoints).all(axis=1))
            if track is None:
                if seen.sum() < LEAST_BEGIN:
                    keys.append(None)
                    continue
                joints = len(person.keypoints)
                track = _Open(
                    next(self._keys), person.keypoints, np.full(joints, float(frame)), 0.0, frame, person.track
                )
                self._tracks.append(track)
            track.last = np.where(seen[:, None], person.keypoints, track.last)
            track.seen_at = np.where(seen, frame, track.seen_at)
            track.size = size_of(person.keypoints)
            track.frame, track.number = frame, person.track
            keys.append(track.key)
        return keys


def follow(detections: Detections) -> list[Track]:
    """The people of a video, each as one track, those that are seen in most frames first.

    Numbers of the detector's own tracker help, where they lie near: a number that jumps to another body is not
    believed, and a person whose number changes stays the same person. Who is seen in fewer than 3 frames is left out,
    unless nobody is seen in more.

    Raises:
        EmptySequenceError: no frame shows anybody.
    """
    tracker = Tracker(detections.fps or USUAL_FPS)
    rows: dict[int, dict[int, Person]] = {}
    for frame, people in enumerate(detections.frames):
        for key, person in zip(tracker.step(frame, people), people, strict=True):
            if key is not None:
                rows.setdefault(key, {})[frame] = person
    if not rows:
        raise EmptySequenceError(f"the {len(detections.frames)} frames show nobody")
    most = max(map(len, rows.values()))
    tracks = [track for track in rows.values() if len(track) >= min(LEAST_FRAMES, most)]
    tracks.sort(key=lambda track: (-len(track), min(track)))
    return [_whole(number, track, detections) for number, track in enumerate(tracks)]


def _assigned(
    tracks: list[_Open], people: Sequence[Person], frame: float, memory: float
) -> list[tuple[_Open | None, Person]]:
    """Each person with the track that the person continues, None for somebody new."""
    from scipy.optimize import linear_sum_assignment

    if not people:
        return []
    if not tracks:
        return [(None, person) for person in people]
    cost = np.array([[_distance(track, person, frame, memory) for person in people] for track in tracks])
    rows, columns = linear_sum_assignment(np.minimum(cost, FARTHEST))
    owner = {column: tracks[row] for row, column in zip(rows, columns, strict=True) if cost[row, column] <= FARTHEST}
    return [(owner.get(index), person) for index, person in enumerate(people)]


def _distance(track: _Open, person: Person, frame: float, memory: float) -> float:
    """In sizes of the person; a little less where the detector's number is the same, less the longer the person was
    away."""
    recent = np.isfinite(track.last).all(axis=1) & (track.frame - track.seen_at <= memory)
    common = recent & np.isfinite(person.keypoints).all(axis=1)
    if common.sum() < LEAST_COMMON:
        return float("inf")
    moved = float(np.linalg.norm(track.last[common] - person.keypoints[common], axis=1).mean())
    size = max(track.size, size_of(person.keypoints), 1e-6)
    same = person.track is not None and person.track == track.number
    allowed = 1.0 + 0.03 * (frame - track.frame - 1)
    return moved / size / allowed - (0.1 if same else 0.0)


def size_of(keypoints: Array) -> float:
    """The diagonal of the box around the joints ``(J, 2)`` that are seen, in pixels."""
    seen = keypoints[np.isfinite(keypoints).all(axis=1)]
    return float(np.linalg.norm(np.ptp(seen, axis=0))) if len(seen) else 0.0


def _whole(number: int, rows: Mapping[int, Person], detections: Detections) -> Track:
    frames, joints = len(detections.frames), detections.joints.joints
    keypoints, confidence = np.full((frames, joints, 2), np.nan), np.zeros((frames, joints))
    for frame, person in rows.items():
        keypoints[frame], confidence[frame] = person.keypoints, person.confidence
    return Track(number, keypoints, confidence)
