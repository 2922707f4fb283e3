"""Poses from a webcam, refined live.

    python examples/webcam.py                          # needs: pip install opencv-python rtmlib
    python examples/webcam.py --synthetic              # a walking synthetic person instead of a camera
    python examples/webcam.py --synthetic --view       # both skeletons in a browser

One line is printed for each refined frame: its status, the delay of the computation, and the height of the right wrist
above the hips.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refiner import RefinerError, StreamingRefiner
from refiner.errors import MissingComponentError

RIGHT_WRIST = 16  # in Human3.6M's 17 joints, which every refined pose has
SYNTHETIC_FOCAL_LENGTH = 1145.0  # pixels, of the virtual camera
Keypoints = tuple[float, np.ndarray, np.ndarray]  # seconds, (joints, 2) pixels, (joints,) confidence


def from_camera(number: int) -> tuple[tuple[float, float], str, Iterator[Keypoints]]:
    """Image size, joint set and keypoints of the first person whom a webcam shows."""
    try:
        import cv2
        import rtmlib
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"a webcam needs {error.name}: pip install opencv-python rtmlib; or try --synthetic"
        ) from error
    camera, detector = cv2.VideoCapture(number), rtmlib.BodyWithFeet()
    size = camera.get(cv2.CAP_PROP_FRAME_WIDTH), camera.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if not camera.isOpened():
        raise MissingComponentError(f"camera {number} cannot be opened; try another --camera, or --synthetic")

    def keypoints() -> Iterator[Keypoints]:
        while camera.grab():
            now = time.monotonic()
            people, scores = detector(camera.retrieve()[1])
            if len(people):  # without a person there is no frame; the stream bridges short gaps
                yield now, people[0], scores[0]

    return size, "halpe26", keypoints()


def from_synthetic(frames: int) -> tuple[tuple[float, float], str, Iterator[Keypoints]]:
    """Image size, joint set and keypoints of a synthetic person who walks before a virtual camera, at 50 frames/s."""
    from refiner.camera import human36m_cameras
    from refiner.data import DetectorModel
    from refiner.data.synthetic import synthetic_motion

    camera = human36m_cameras()[0]
    pixels = camera.project(camera.to_camera(synthetic_motion(7, "Walking", frames)))
    detections = DetectorModel.default().detect(pixels, np.random.default_rng(7))  # a detector is never exact

    def keypoints() -> Iterator[Keypoints]:
        began = time.monotonic()
        for index, pose_2d in enumerate(detections):
            time.sleep(max(began + index / 50 - time.monotonic(), 0.0))
            yield index / 50, pose_2d, np.ones(len(pose_2d))

    return camera.image_size, "h36m17", keypoints()


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", type=int, default=0, help="number of the webcam (default: 0)")
    parser.add_argument("--synthetic", action="store_true", help="a synthetic person instead of a camera")
    parser.add_argument("--frames", type=int, default=500, help="stop after this many frames (default: 500)")
    parser.add_argument("--focal-length", type=float, help="pixels (default: the longer side of the image)")
    parser.add_argument("--view", action="store_true", help="show both skeletons in a browser (the extra viewer)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    try:
        run(options)
    except RefinerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


def run(options: argparse.Namespace) -> None:
    """Push the frames of the source to a stream, and print the refined frames."""
    size, joints, frames = from_synthetic(options.frames) if options.synthetic else from_camera(options.camera)
    focal_length = options.focal_length or (SYNTHETIC_FOCAL_LENGTH if options.synthetic else None)
    # The bundled lifter makes the 3D poses, and the causal refiner refines each frame at once. pool_shape keeps the
    # bones of the person at one length.
    stream = StreamingRefiner.load(
        image_size=size, focal_length=focal_length, joints=joints, lifter=True, pool_shape=True
    )
    view: Any = None
    if options.view:
        from refiner.viewer.live import LiveView

        view = LiveView()
        print(f"view: {view.url}")
    for count, (seconds, keypoints, scores) in enumerate(frames, start=1):
        began = time.perf_counter()
        ready = stream.push(keypoints, None, seconds, confidence=scores)
        latency_ms = 1000 * (time.perf_counter() - began)
        for frame in ready:
            above_hips = frame.pose_3d[0, 1] - frame.pose_3d[RIGHT_WRIST, 1]  # y points down
            print(f"{frame.timestamp:8.2f} s  {frame.status:8s}  {latency_ms:5.1f} ms  right wrist {above_hips:+.2f} m")
            if view is not None:
                view.show(frame, latency_ms)
        if count >= options.frames:
            break
    if view is not None:
        view.close()
    print(", ".join(f"{name} {count}" for name, count in stream.counters.as_dict().items() if count))


if __name__ == "__main__":
    sys.exit(main())
