"""``refiner-stream --camera``: frames of a webcam or a video, with the people whom a detector finds in them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from refiner.errors import EmptySequenceError, UsageError

if TYPE_CHECKING:
    from refiner.runtime.streaming import Frame
    from refiner.video import VideoFrame

# Seconds without a person after which a line says so.
LONELY_S = 2.0
# Options that a camera answers itself.
OF_POSES = ("pose_2d", "pose_3d", "serve", "image_size")


class CameraSource:
    """The frames of ``arguments.camera``: a number for a webcam, else a video file, which is played like one.

    Args:
        arguments: the options of ``refiner-stream``. ``joints``, ``image_size`` and ``lifter`` are set to what the
            detector and the camera give.

    Raises:
        UsageError: an option does not go with a camera.
        VideoError: the video cannot be read.
        MissingComponentError: there is no such camera, or a component is not installed.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from refiner.video import Video, Webcam, open_detector

        unfit = [f"--{name.replace('_', '-')}" for name in OF_POSES if getattr(arguments, name) is not None]
        if unfit:
            raise UsageError(f"{', '.join(unfit)}: leave it out with --camera, which gives images")
        if arguments.joints != "h36m17":
            raise UsageError("--joints: leave it out with --camera; the detector says what its joints are")
        is_webcam = arguments.camera.isdecimal()
        if is_webcam and arguments.full_speed:
            raise UsageError("--full-speed is for files; a webcam gives its frames when they come")
        source: Webcam | Video = Webcam(int(arguments.camera)) if is_webcam else Video(arguments.camera)
        self._detector = open_detector(arguments.detector)
        self._source, self._plays = source, not is_webcam
        self._full_speed, self._most = arguments.full_speed, arguments.people or 1
        arguments.joints, arguments.image_size = self._detector.joints.name, source.image_size
        arguments.lifter = arguments.lifter or "bundled"

    def frames(self) -> Iterator[list[Frame]]:
        """The followed people of each image; images without them give nothing.

        Raises:
            EmptySequenceError: no image showed anybody.
        """
        from refiner.runtime.streaming import Frame
        from refiner.video import LivePeople
        from refiner.video.detector import detected

        people, images, sights, seen_at, lonely = LivePeople(self._most), 0, 0, 0.0, False
        for image in self._images():
            images += 1
            where = f"the image at {image.seconds:.2f} s"
            found = () if image.damaged else detected(self._detector, image.image, where)
            taken = people.take(image.seconds, found)
            if taken:
                sights, seen_at = sights + 1, image.seconds
            if lonely != (image.seconds - seen_at > LONELY_S):
                lonely = not lonely
                _print_status(f"{image.seconds:.1f} s: {'nobody is seen; waiting' if lonely else 'somebody is seen'}")
            if taken:
                yield [
                    Frame(person.keypoints, None, image.seconds, person_id=number, confidence=person.confidence)
                    for number, person in taken
                ]
        _print_status(f"{images} images, {sights} with a person who is followed")
        if not sights:
            raise EmptySequenceError(f"the {images} images show nobody for long enough to be followed")

    def _images(self) -> Iterator[VideoFrame]:
        """All images of a file at full speed; else the newest one at each time."""
        from refiner.video import LatestFrames, paced

        if self._full_speed:
            yield from self._source.frames()
            return
        frames = self._source.frames()
        newest = LatestFrames(paced(frames) if self._plays else frames)
        try:
            yield from newest
        finally:
            newest.close()
            if newest.left_out:
                _print_status(f"{newest.left_out} images came while an earlier one was detected, and were left out")


def _print_status(text: str) -> None:
    print(f"refiner-stream: {text}", file=sys.stderr, flush=True)
