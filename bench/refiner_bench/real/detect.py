"""Runs MediaPipe on videos and writes the detections to one file. The interpreter of a separate environment runs it.

    python detect.py out.npz FOLDER name=video.mp4 [name=video.mp4 ...]

FOLDER holds the package ``refiner``, which the separate environment lacks: its adapter runs MediaPipe. OpenCV, and not
`refiner.video.Video`, reads the videos here: the published figures come from its images, and other images swap left and
right in other frames.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LANDMARKS = 33


def detect(path: str) -> dict[str, NDArray[Any]]:
    """Detect the person in every frame of a video.

    Args:
        path: The video.

    Returns:
        The arrays ``keypoints`` ``(F, 33, 2)`` in pixels, ``confidence`` ``(F, 33)``, ``own_3d`` ``(F, 33, 3)`` in
        metres, ``image_size`` and ``fps``. Frames without a person contain NaN, with confidence 0.

    Raises:
        OSError: The file is no video.
    """
    # The folder of the package is known only from the command line.
    from refiner.video.mediapipe_detector import MediaPipeDetector

    video, detector = cv2.VideoCapture(path), MediaPipeDetector()
    fps = video.get(cv2.CAP_PROP_FPS)
    keypoints, confidence, own = [], [], []
    size = (0, 0)
    while True:
        more, image = video.read()
        if not more:
            break
        size = (image.shape[1], image.shape[0])
        seen = detector.landmarks(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
        keypoints.append(np.full((LANDMARKS, 2), np.nan) if seen is None else seen.keypoints)
        confidence.append(np.zeros(LANDMARKS) if seen is None else seen.confidence)
        own.append(np.full((LANDMARKS, 3), np.nan) if seen is None else seen.own_3d)
    video.release()
    if not keypoints:
        raise OSError(f"{path}: OpenCV reads no frame of it")
    return {
        "keypoints": np.asarray(keypoints, np.float32),
        "confidence": np.asarray(confidence, np.float32),
        "own_3d": np.asarray(own, np.float32),
        "image_size": np.asarray(size),
        "fps": np.asarray(fps),
    }


def main() -> None:
    """Detect in all videos of the command line."""
    target, folder, *videos = sys.argv[1:]
    # Behind the packages of this environment, so that none of another one takes their place.
    sys.path.append(folder)
    arrays: dict[str, Any] = {}
    for video in videos:
        name, path = video.split("=", 1)
        arrays.update({f"{name}/{field}": value for field, value in detect(path).items()})
        print(f"{name}: {len(arrays[f'{name}/keypoints'])} frames", file=sys.stderr, flush=True)
    np.savez_compressed(target, **arrays)


if __name__ == "__main__":
    main()
