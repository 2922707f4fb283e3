"""The people of a whole video."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refiner.errors import VideoError
from refiner.formats.detections import Detections
from refiner.video.detector import Detector, detected
from refiner.video.rate import at_constant_rate, constant_rate
from refiner.video.reader import USUAL_FPS, VideoFrame

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DetectedVideo:
    """The people of a video.

    Attributes:
        detections: at a constant frame rate, with keypoints in pixels of the upright image.
        instants: ``(G,)``, the time-stamps of the detections, seconds.
        seconds: ``(F,)``, the time-stamps of the video's own frames; the same unless ``variable``.
        variable: the frame rate of the video varies, and the detections are interpolated to a constant one.
        empty: how many frames of the video show nobody.
    """

    detections: Detections
    instants: Array = field(repr=False)
    seconds: Array = field(repr=False)
    variable: bool
    empty: int


def detect_people(
    frames: Iterable[VideoFrame],
    detector: Detector,
    fps: float = USUAL_FPS,
    progress: Callable[[int], None] = lambda frame: None,
) -> DetectedVideo:
    """Detect the people in every frame.

    A damaged frame counts as one that shows nobody, because what a decoder guesses is no picture of anybody. If the
    time-stamps of the frames are irregular, the detections are interpolated to a constant frame rate: each joint
    linearly between the two frames around an instant, and not over more than half a second.

    Args:
        frames: `Video.frames`, or frames of the caller's own.
        detector: finds the people; see `open_detector`.
        fps: the frame rate of a video of a single frame; others have time-stamps.
        progress: called with the number of frames that are done.

    Returns:
        The people; `refiner.formats.follow` and `refiner.runtime.people.refine_people` tell them apart.

    Raises:
        VideoError: there is no frame, or the time-stamps cannot be used.
        InputError: the detector gave something other than people in its joint set.
    """
    people, seconds, size = [], [], None
    for number, frame in enumerate(frames):
        size = (float(frame.image.shape[1]), float(frame.image.shape[0]))
        seen = () if frame.damaged else detected(detector, frame.image, f"frame {number}")
        people.append(seen)
        seconds.append(frame.seconds)
        progress(number + 1)
    if size is None:
        raise VideoError("the video has no frame")
    stamps = np.array(seconds)
    if (np.diff(stamps) <= 0).any():
        raise VideoError("the time-stamps of the frames do not increase")
    detections = Detections(tuple(people), detector.joints, detector.name, size)
    empty = sum(not seen for seen in people)
    rate = fps if len(stamps) == 1 else constant_rate(stamps)
    if rate is not None:
        return DetectedVideo(replace(detections, fps=rate), stamps, stamps, False, empty)
    regular, instants = at_constant_rate(detections, stamps)
    return DetectedVideo(regular, instants, stamps, True, empty)
