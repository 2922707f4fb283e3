"""Runs MediaPipe on videos and writes the detections to one file. The interpreter of a separate environment runs it.

    python detect.py out.npz name=video.mp4 [name=video.mp4 ...]

This file imports nothing of this project, because the separate environment lacks it. MediaPipe Pose runs with its
defaults for videos (tracking, smoothed landmarks) and complexity 1, whose weights are in its wheel.
"""

from __future__ import annotations

import sys
from typing import Any

import cv2
import mediapipe
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
    video = cv2.VideoCapture(path)
    fps = video.get(cv2.CAP_PROP_FPS)
    keypoints, confidence, own = [], [], []
    size = (0, 0)
    with mediapipe.solutions.pose.Pose(model_complexity=1) as pose:
        while True:
            more, image = video.read()
            if not more:
                break
            size = (image.shape[1], image.shape[0])
            result = pose.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            if result.pose_landmarks is None:
                keypoints.append(np.full((LANDMARKS, 2), np.nan))
                confidence.append(np.zeros(LANDMARKS))
                own.append(np.full((LANDMARKS, 3), np.nan))
                continue
            seen = result.pose_landmarks.landmark
            keypoints.append(np.array([(mark.x * size[0], mark.y * size[1]) for mark in seen]))
            confidence.append(np.array([mark.visibility for mark in seen]))
            own.append(np.array([(mark.x, mark.y, mark.z) for mark in result.pose_world_landmarks.landmark]))
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
    target, *videos = sys.argv[1:]
    arrays: dict[str, Any] = {}
    for video in videos:
        name, path = video.split("=", 1)
        arrays.update({f"{name}/{field}": value for field, value in detect(path).items()})
        print(f"{name}: {len(arrays[f'{name}/keypoints'])} frames", file=sys.stderr, flush=True)
    np.savez_compressed(target, **arrays)


if __name__ == "__main__":
    main()
