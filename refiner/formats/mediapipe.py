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
    seen = [landmarks for landmarks in map(_landmarks, frames) if landmarks]
    return bool(seen) and all(len(landmarks) == MEDIAPIPE33.joints for landmarks in seen[:10])


def read_landmarks(content: Any, file: Path) -> Detections:
    """One person; frames without landmarks have no people.

    Raises:
        ArchiveError: a landmark lacks x or y, or is no number.
    """
    frames: list[tuple[Person, ...]] = []
    for index, frame in enumerate(_frames(content) or ()):
        landmarks = _landmarks(frame)
        where = f"{file}, frame {index}"
        if not landmarks:
            frames.append(())
            continue
        try:
            points = [[landmark["x"], landmark["y"]] for landmark in landmarks]
            sure = [landmark.get("visibility", 1.0) for landmark in landmarks]
        except (TypeError, KeyError, AttributeError) as error:
            raise ArchiveError(f"{where}: a landmark has no x and y ({error!r})") from error
        frames.append((person_of(points, sure, MEDIAPIPE33, where, 0),))
    return Detections(tuple(frames), MEDIAPIPE33, "MediaPipe", shares=True)


def _frames(content: Any) -> list[Any] | None:
    if isinstance(content, dict):
        content = content.get("frames")
    return content if isinstance(content, list) and content else None


def _landmarks(frame: Any) -> list[Any] | None:
    for _ in range(3):  # {"pose_landmarks": {"landmark": [...]}}, perhaps in a list for each person
        if isinstance(frame, dict):
            frame = next((frame[key] for key in KEYS if frame.get(key)), None)
        elif isinstance(frame, list) and len(frame) == 1:
            frame = frame[0]
    usable = isinstance(frame, list) and all(isinstance(part, dict) and "x" in part for part in frame)
    return frame if usable else None
