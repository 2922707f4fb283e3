"""A simple tracker: who is who from frame to frame.

People of neighbouring frames are assigned to each other so that the sum of their distances is least (the Hungarian
method). The distance of two poses is the mean distance of the joints that both show, divided by the size of the person.
A person who is not seen for a while is gone; who comes then is somebody new. Nothing is known of looks or of depth: two
people who cross close to the camera may be exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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

    last: Array
    seen_at: NDArray[np.int_]
    size: float
    frame: int
    number: int | None
    rows: dict[int, Person] = field(default_factory=dict)


def follow(detections: Detections) -> list[Track]:
    """The people of a video, each as one track, those that are seen in most frames first.

    Numbers of the detector's own tracker help, where they lie near: a number that jumps to another body is not
    believed, and a person whose number changes stays the same person. Who is seen in fewer than 3 frames is left out,
    unless nobody is seen in more.

    Raises:
        EmptySequenceError: no frame shows anybody.
    """
    tracks: list[_Open] = []
    rate = detections.fps or USUAL_FPS
    away, memory = LONGEST_AWAY_S * rate, LONGEST_MEMORY_S * rate
    for frame, people in enumerate(detections.frames):
        near = [track for track in tracks if frame - track.frame <= away]
        for track, person in _assigned(near, people, frame, memory):
            seen = np.asarray(np.isfinite(person.keypoints).all(axis=1))
            if track is None:
                if seen.sum() < LEAST_BEGIN:
                    continue
                joints = len(person.keypoints)
                track = _Open(person.keypoints, np.full(joints, frame), 0.0, frame, person.track)
                tracks.append(track)
            track.last = np.where(seen[:, None], person.keypoints, track.last)
            track.seen_at = np.where(seen, frame, track.seen_at)
            track.size = _size(person.keypoints)
            track.frame, track.number = frame, person.track
            track.rows[frame] = person
    if not tracks:
        raise EmptySequenceError(f"the {len(detections.frames)} frames show nobody")
    most = max(len(track.rows) for track in tracks)
    tracks = [track for track in tracks if len(track.rows) >= min(LEAST_FRAMES, most)]
    tracks.sort(key=lambda track: (-len(track.rows), min(track.rows)))
    return [_whole(number, track, detections) for number, track in enumerate(tracks)]


def _assigned(
    tracks: list[_Open], people: tuple[Person, ...], frame: int, memory: float
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


def _distance(track: _Open, person: Person, frame: int, memory: float) -> float:
    """In sizes of the person; a little less where the detector's number is the same, less the longer the person was
    away."""
    recent = np.isfinite(track.last).all(axis=1) & (track.frame - track.seen_at <= memory)
    common = recent & np.isfinite(person.keypoints).all(axis=1)
    if common.sum() < LEAST_COMMON:
        return float("inf")
    moved = float(np.linalg.norm(track.last[common] - person.keypoints[common], axis=1).mean())
    size = max(track.size, _size(person.keypoints), 1e-6)
    same = person.track is not None and person.track == track.number
    allowed = 1.0 + 0.03 * (frame - track.frame - 1)
    return moved / size / allowed - (0.1 if same else 0.0)


def _size(keypoints: Array) -> float:
    """The diagonal of the box around the joints that are seen."""
    seen = keypoints[np.isfinite(keypoints).all(axis=1)]
    return float(np.linalg.norm(np.ptp(seen, axis=0))) if len(seen) else 0.0


def _whole(number: int, track: _Open, detections: Detections) -> Track:
    frames, joints = len(detections.frames), detections.joints.joints
    keypoints, confidence = np.full((frames, joints, 2), np.nan), np.zeros((frames, joints))
    for frame, person in track.rows.items():
        keypoints[frame], confidence[frame] = person.keypoints, person.confidence
    return Track(number, keypoints, confidence)
