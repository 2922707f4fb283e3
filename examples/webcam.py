"""Poses from a webcam, refined live and drawn in a browser.

    python examples/webcam.py                        # needs: pip install 'pose-refiner[cpu,mediapipe,viewer]'
    python examples/webcam.py --camera dance.mp4     # a video, played like a webcam (and the extra video)
    python examples/webcam.py --synthetic            # a walking synthetic person instead of a camera
    python examples/webcam.py --synthetic --no-view  # without the browser

The largest person in the image is picked and followed. One line is printed for each refined frame: its status, the
delay of the computation, and the height of the right wrist above the hips. The command refiner-stream --camera does the
same and writes all joints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from refiner import RefinerError, StreamingRefiner
from refiner.errors import MissingComponentError
from refiner.formats import Person
from refiner.video import LatestFrames, LivePeople, Video, Webcam, open_detector, paced

RIGHT_WRIST = 16  # in Human3.6M's 17 joints, which every refined pose has
SYNTHETIC_FOCAL_LENGTH = 1145.0  # pixels, of the virtual camera
People = tuple[float, Sequence[Person]]  # seconds, and the people whom the image shows


def from_camera(camera: str, name: str | None) -> tuple[tuple[float, float], str, Iterator[People]]:
    """Image size, joint set and people of a webcam, or of a video that is played like one."""
    source = Webcam(int(camera)) if camera.isdecimal() else Video(camera)
    detector = open_detector(name)

    def people() -> Iterator[People]:
        images = LatestFrames(source.frames() if camera.isdecimal() else paced(source.frames()))
        for image in images:
            yield image.seconds, detector.detect(image.image)

    return source.image_size, detector.joints.name, people()


def from_synthetic() -> tuple[tuple[float, float], str, Iterator[People]]:
    """Image size, joint set and keypoints of a synthetic person who walks before a virtual camera, at 50 frames/s."""
    from refiner.camera import human36m_cameras
    from refiner.data import DetectorModel
    from refiner.data.synthetic import synthetic_motion

    camera = human36m_cameras()[0]
    pixels = camera.project(camera.to_camera(synthetic_motion(7, "Walking", 500)))
    detections = DetectorModel.default().detect(pixels, np.random.default_rng(7))  # a detector is never exact

    def people() -> Iterator[People]:
        began = time.monotonic()
        for index, pose_2d in enumerate(detections):
            time.sleep(max(began + index / 50 - time.monotonic(), 0.0))
            yield index / 50, [Person(pose_2d, np.ones(len(pose_2d)))]

    return camera.image_size, "h36m17", people()


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", default="0", help="number of the webcam, or a video (default: 0)")
    parser.add_argument("--detector", help="mediapipe or rtmlib (default: the one that is installed)")
    parser.add_argument("--synthetic", action="store_true", help="a synthetic person instead of a camera")
    parser.add_argument("--frames", type=int, help="stop after this many images (default: go on)")
    parser.add_argument("--focal-length", type=float, help="pixels (default: the longer side of the image)")
    parser.add_argument("--no-view", action="store_true", help="do not draw the skeletons in a browser")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    try:
        run(options)
    except RefinerError as error:
        hint = "; or try --synthetic" if isinstance(error, MissingComponentError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


def run(options: argparse.Namespace) -> None:
    """Push the picked person of each image to a stream; print and draw the refined frames."""
    synthetic = options.synthetic
    size, joints, images = from_synthetic() if synthetic else from_camera(options.camera, options.detector)
    focal_length = options.focal_length or (SYNTHETIC_FOCAL_LENGTH if synthetic else None)
    # The bundled lifter makes the 3D poses, and the causal refiner refines each frame at once. pool_shape keeps the
    # bones of the person at one length.
    stream = StreamingRefiner.load(
        image_size=size, focal_length=focal_length, joints=joints, lifter=True, pool_shape=True
    )
    view = None if options.no_view else open_view()
    picked, alone = LivePeople(), False
    for seconds, people in islice(images, options.frames):
        taken = picked.take(seconds, people)
        if not taken and not alone:
            print(f"{seconds:8.2f} s  nobody is followed")
        alone = not taken
        for number, person in taken:
            began = time.perf_counter()
            ready = stream.push(person.keypoints, None, seconds, person_id=number, confidence=person.confidence)
            latency_ms = 1000 * (time.perf_counter() - began)
            for frame in ready:
                above_hips = frame.pose_3d[0, 1] - frame.pose_3d[RIGHT_WRIST, 1]  # y points down
                told = f"{frame.timestamp:8.2f} s  {frame.status:8s}  {latency_ms:5.1f} ms"
                print(f"{told}  right wrist {above_hips:+.2f} m")
                if view is not None:
                    view.show(frame, latency_ms)
    if view is not None:
        view.close()
    print(", ".join(f"{name} {count}" for name, count in stream.counters.as_dict().items() if count))


def open_view() -> Any:
    """Both skeletons in a browser; None where viser is not installed."""
    from refiner.viewer.live import LiveView

    try:
        view = LiveView()
    except MissingComponentError as error:
        print(f"not drawn: {error}")
        return None
    print(f"open {view.url}")
    return view


if __name__ == "__main__":
    sys.exit(main())
