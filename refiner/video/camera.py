"""A webcam, by OpenCV, which the bundled detectors bring along."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from refiner.errors import MissingComponentError
from refiner.video.reader import VideoFrame


class Webcam:
    """A camera of this machine. Its frames have the time at which they came.

    Args:
        number: 0 for the first camera.

    Attributes:
        image_size: (width, height) in pixels.

    Raises:
        MissingComponentError: OpenCV is not installed, there is no such camera, or it gives no image.
    """

    def __init__(self, number: int = 0) -> None:
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise MissingComponentError(
                "a camera needs OpenCV, which the detectors bring: pip install 'pose-refiner[mediapipe]'"
            ) from error
        # What OpenCV says of a camera that is not there fills a screen; the error below says it in a line.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._camera = cv2.VideoCapture(number)
        image = self._camera.read()[1] if self._camera.isOpened() else None
        if image is None:
            self._camera.release()
            raise MissingComponentError(
                f"camera {number} gives no image: it is not there, another program uses it, or this user may not; "
                "try another number, or a video file"
            )
        self.image_size = (float(image.shape[1]), float(image.shape[0]))

    def frames(self) -> Iterator[VideoFrame]:
        """The images of the camera until it gives no more, or until the iterator is closed."""
        began = time.monotonic()
        try:
            while True:
                given, image = self._camera.read()
                if not given:
                    return
                # OpenCV's images are blue, green, red.
                yield VideoFrame(np.ascontiguousarray(image[..., ::-1]), time.monotonic() - began)
        finally:
            self._camera.release()
