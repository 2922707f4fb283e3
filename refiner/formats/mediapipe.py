"""MediaPipe's landmarks as JSON: for each frame 33 landmarks x, y, visibility in shares of the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.formats.detections import Detections, Person, person_of
from refiner.skeleton import MEDIAPIPE33

# Names under which programs keep the landmarks of a frame.
KEYS = ("landmark", "landmarks", "pose_landmarks", "poseLandmarks")


def is_mediapipe(content: Any) -> bool:
    """Whether the content of a JSON file is a list of frames with 33 landmarks; some of them may show nobody."""
    frames = _frames(content)
    if frames is None:
        return False
    people = [person for frame in frames for person in _people(frame) or ()]
    return bool(people) and all(len(landmarks) == MEDIAPIPE33.joints for landmarks in people[:10])


def read_landmarks(content: Any, file: Path) -> Detections:
    """Frames without landmarks have no people.

    Raises:
        ArchiveError: a landmark lacks x or y, or is no number; or a frame is no list of landmarks.
    """
    frames: list[tuple[Person, ...]] = []
    for index, frame in enumerate(_frames(content) or ()):
        where = f"{file}, frame {index}"
        people = _people(frame)
        if people is None:
            raise ArchiveError(f"{where}: expected the landmarks of people")
        frames.append(tuple(_person(landmarks, where) for landmarks in people))
    return Detections(tuple(frames), MEDIAPIPE33, "MediaPipe", shares=True)


def _person(landmarks: list[Any], where: str) -> Person:
    try:
        points = [[landmark["x"], landmark["y"]] for landmark in landmarks]
        sure = [landmark.get("visibility", 1.0) for landmark in landmarks]
    except (TypeError, KeyError, AttributeError) as error:
        raise ArchiveError(f"{where}: a landmark has no x and y ({error!r})") from error
    return person_of(points, sure, MEDIAPIPE33, where)


def _frames(content: Any) -> list[Any] | None:
    if isinstance(content, dict):
        content = content.get("frames")
    return content if isinstance(content, list) and content else None


def _people(frame: Any) -> list[list[Any]] | None:
    """The landmarks of each person of a frame, none for an empty frame; None for something else."""
    for _ in range(3):  # {"pose_landmarks": {"landmark": [...]}}
        if isinstance(frame, dict):
            frame = next((frame[key] for key in KEYS if key in frame), [])
    if frame is None or frame == []:
        return []
    if not isinstance(frame, list):
        return None
    if all(isinstance(part, dict) and "x" in part for part in frame):
        return [frame]
    people = [_people(part) for part in frame if part]
    one = [person[0] for person in people if person is not None and len(person) == 1]
    return one if len(one) == len(people) else None
