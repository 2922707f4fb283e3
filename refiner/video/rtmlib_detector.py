"""RTMPose by rtmlib as a detector: several people."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from refiner.errors import MissingComponentError
from refiner.formats.detections import Person
from refiner.skeleton import HALPE26
from refiner.video.detector import Image


class RTMLibDetector:
    """rtmlib's ``BodyWithFeet``: YOLOX finds the people, RTMPose finds Halpe's 26 joints of each.

    Args:
        mode: "lightweight", "balanced" or "performance".
        device: "cpu", "cuda" or another one of rtmlib.

    Raises:
        MissingComponentError: the weights cannot be downloaded.
    """

    name = "RTMPose"
    joints = HALPE26

    def __init__(self, mode: str = "balanced", device: str = "cpu") -> None:
        import rtmlib

        try:
            # rtmlib prints where it loads its weights from; standard output belongs to results.
            with contextlib.redirect_stdout(sys.stderr):
                body = rtmlib.BodyWithFeet(mode=mode, backend="onnxruntime", device=device)
        except OSError as error:
            raise MissingComponentError(
                f"rtmlib downloads its weights at first use, which failed: {error}; check the network, or take "
                "--detector mediapipe, which needs none"
            ) from error
        self._boxes: Any = body.det_model
        self._poses: Any = body.pose_model

    def detect(self, image: Image) -> Sequence[Person]:
        """The people in an image; see `refiner.video.Detector`."""
        bgr = np.ascontiguousarray(image[..., ::-1])
        boxes = self._boxes(bgr)
        # Without a box, rtmlib's own call takes the whole image for a person.
        if not len(boxes):
            return []
        keypoints, scores = self._poses(bgr, bboxes=boxes)
        return [Person(np.asarray(points), np.asarray(score)) for points, score in zip(keypoints, scores, strict=True)]
