"""``refiner-refine VIDEO``: detect the people of a video, lift and refine them, and draw them beside the video."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from refiner.cli.progress import progress_bar
from refiner.cli.refine_detections import check_options, write_people
from refiner.errors import UsageError

if TYPE_CHECKING:
    from refiner.formats import Person
    from refiner.skeleton import JointSet
    from refiner.video import Detector
    from refiner.video.detector import Image

Given = ParamSpec("Given")
Result = TypeVar("Result")
OVERLAY = "overlay.mp4"


def refine_video(arguments: argparse.Namespace) -> None:
    """Detect, lift and refine the people of the video ``arguments.input``, and write them and an overlay.

    Raises:
        UsageError: an option does not go with a video.
        VideoError: the video is broken or truncated.
        EmptySequenceError: the video shows nobody.
        MissingComponentError: PyAV, a detector or an engine is not installed.
    """
    check_options(arguments)
    if arguments.name is not None:
        raise UsageError("--name chooses a video of a detector's file; leave it out with a video")
    shares = TimeShares()
    from refiner.runtime import Lifter, Refiner
    from refiner.runtime.people import check_folder
    from refiner.video import Video, detect_people, open_detector

    video = Video(arguments.input)
    if arguments.image_size is not None and tuple(arguments.image_size) != video.image_size:
        width, height = video.image_size
        raise UsageError(f"--image-size: the images of {arguments.input} have {width:g} x {height:g} pixels")
    detector = open_detector(arguments.detector)
    folder = check_folder(arguments.output)
    with progress_bar(f"{detector.name}: people", "frame", video.expected) as progress:
        frames = shares.iterated("read", video.frames())
        seen = detect_people(frames, _Timed(detector, shares), video.fps, progress)
    print(f"{video.path.name}: {len(seen.seconds)} frames, {seen.empty} of them without a person")
    # A slow-motion video is played slower than it was filmed: its own rate is not that of the motion.
    fps = arguments.fps or seen.detections.fps or video.fps
    detections = replace(seen.detections, fps=fps)
    if seen.variable:
        print(f"its frame rate varies: the people are interpolated to {seen.detections.fps:.2f} frames/s")
    lifter = Lifter.load(arguments.lifter)
    refiner = Refiner.load(
        arguments.checkpoint,
        steps=arguments.steps,
        pool_shape=arguments.pool_shape,
        smoothing=arguments.smooth,
        precision=arguments.precision,
    )
    # The methods of these two objects alone; both are used for this video only.
    vars(lifter)["lift"] = shares.timed("lift", lifter.lift)
    vars(refiner)["refine"] = shares.timed("refine", refiner.refine)
    people = write_people(arguments, detections, lifter, refiner, fps, video.image_size, folder)
    if not arguments.no_overlay:
        from refiner.viewer.overlay import overlay_poses, write_overlay

        joints = seen.detections.joints
        poses = [overlay_poses(person, joints, seen.instants, seen.seconds) for person in people]
        with progress_bar(OVERLAY, "frame", len(seen.seconds)) as progress:
            shares.timed("draw", write_overlay)(folder / OVERLAY, video, poses, progress)
    print(f"wrote {folder}")
    print(shares.told())


@dataclass
class TimeShares:
    """How the wall time of a run was shared."""

    began: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict)

    def timed(self, part: str, function: Callable[Given, Result]) -> Callable[Given, Result]:
        """The same function; its time counts to ``part``."""

        def run(*given: Given.args, **named: Given.kwargs) -> Result:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - began

        return run

    def iterated(self, part: str, items: Iterable[Result]) -> Iterator[Result]:
        """The same items; the time that they take to come counts to ``part``."""
        following = self.timed(part, iter(items).__next__)
        while True:
            try:
                item = following()
            except StopIteration:
                return
            yield item

    def told(self) -> str:
        """One line of it. What the detector took is left out of the last share."""
        whole = time.perf_counter() - self.began
        parts = self.spent | {"other": whole - sum(self.spent.values())}
        shares = ", ".join(f"{part} {seconds:.1f} s ({seconds / whole:.0%})" for part, seconds in parts.items())
        rest = self.spent["refine"] / (whole - self.spent["detect"])
        return f"{whole:.1f} s: {shares}; the refinement took {rest:.1%} of the time without the detector"


class _Timed:
    """A detector whose time is counted."""

    def __init__(self, detector: Detector, shares: TimeShares) -> None:
        self.name = detector.name
        self.joints: JointSet = detector.joints
        self._detect: Any = shares.timed("detect", detector.detect)

    def detect(self, image: Image) -> Sequence[Person]:
        """See `refiner.video.Detector`."""
        found: Sequence[Person] = self._detect(image)
        return found
