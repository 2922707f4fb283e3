"""MediaPipe Pose as a detector: one person, on the CPU, offline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mediapipe
import numpy as np
from numpy.typing import NDArray

from refiner.errors import MissingComponentError
from refiner.formats.detections import Person
from refiner.skeleton import MEDIAPIPE33
from refiner.video.detector import Image

# The last versions of MediaPipe whose wheels have the weights of this model.
VERSION = "0.10.14"
# MediaPipe calls a function that its own protobuf has marked as old.
warnings.filterwarnings("ignore", message=r"SymbolDatabase\.GetPrototype\(\) is deprecated")


@dataclass(frozen=True, eq=False)
class Landmarks:
    """MediaPipe's landmarks of one person.

    Attributes:
        keypoints: ``(33, 2)`` pixels.
        confidence: ``(33,)``, the visibility from 0 to 1.
        own_3d: ``(33, 3)`` metres, MediaPipe's own 3D pose relative to the middle of the hips, in camera axes.
    """

    keypoints: NDArray[np.float64]
    confidence: NDArray[np.float64]
    own_3d: NDArray[np.float64]


class MediaPipeDetector:
    """MediaPipe Pose with its defaults for videos (tracking, smoothed landmarks) and complexity 1.

    The frames of a video must come in order, because it searches near the last pose. It sees one person.

    Raises:
        MissingComponentError: this version of MediaPipe has no weights of the model.
    """

    name = "MediaPipe"
    joints = MEDIAPIPE33

    def __init__(self) -> None:
        solutions = getattr(mediapipe, "solutions", None)
        if solutions is None:
            raise MissingComponentError(
                f"this version of MediaPipe has no Pose solution with weights: pip install mediapipe=={VERSION}"
            )
        self._pose: Any = solutions.pose.Pose(model_complexity=1)

    def landmarks(self, image: Image) -> Landmarks | None:
        """The landmarks of the person in an image ``(height, width, 3)``; None where there is nobody."""
        result = self._pose.process(image)
        if result.pose_landmarks is None:
            return None
        seen, size = result.pose_landmarks.landmark, (image.shape[1], image.shape[0])
        return Landmarks(
            np.array([(mark.x * size[0], mark.y * size[1]) for mark in seen]),
            np.array([mark.visibility for mark in seen]),
            np.array([(mark.x, mark.y, mark.z) for mark in result.pose_world_landmarks.landmark]),
        )

    def detect(self, image: Image) -> Sequence[Person]:
        """The person in an image; see `refiner.video.Detector`."""
        found = self.landmarks(image)
        return [] if found is None else [Person(found.keypoints, found.confidence)]
