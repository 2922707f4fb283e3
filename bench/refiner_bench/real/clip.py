"""The real clip of a single camera as a picture and a video: ``python -m refiner_bench.real.clip FOLDER``.

The keypoints ship with this package. The clip itself is downloaded with pip, from the wheel of Sports2D. Without a
network nothing is drawn, and the exit code is 0 all the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refiner.cli.common import HelpFormatter, run
from refiner.cli.progress import progress_bar
from refiner.formats import Detections, Person
from refiner.skeleton import MEDIAPIPE33
from refiner_bench.real import take
from refiner_bench.real.packages import SPORTS2D, UnavailableError, cache_folder, package_files

NAME = "real-clip"
# The frame of the picture: the man on the roof raises his arms.
SHOWN = 60


def build_parser() -> argparse.ArgumentParser:
    """The options of the module."""
    parser = argparse.ArgumentParser(
        prog="refiner_bench.real.clip",
        description="Lift and refine the people of a real clip, and draw them beside it.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("output", type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--cache", type=Path, help="folder of downloads (default: ~/.cache/refiner/real)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the module; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    try:
        (file,) = package_files(SPORTS2D, (arguments.cache or cache_folder()).resolve()).values()
    except UnavailableError as error:
        print(f"real clip: left out, since it cannot be downloaded ({error}); the built-in motion is shown alone")
        return
    video, picture = draw_clip(file, clip_detections(), arguments.output)
    print(f"real clip: {video}, and one of its frames: {picture}")


def clip_detections() -> Detections:
    """The keypoints of the clip that ship with this package."""
    clip = take.load_clip()
    seen = [bool(np.isfinite(points).all()) for points in clip.keypoints]
    frames = tuple(
        (Person(points, sure),) if there else ()
        for points, sure, there in zip(clip.keypoints, clip.confidence, seen, strict=True)
    )
    size = (float(clip.image_size[0]), float(clip.image_size[1]))
    return Detections(frames, MEDIAPIPE33, "MediaPipe", size, clip.fps)


def draw_clip(file: Path, detections: Detections, folder: Path) -> tuple[Path, Path]:
    """Lift and refine the people of a clip, and draw them into it.

    Args:
        file: the video.
        detections: one entry for each of its frames, which have a constant rate.
        folder: where the video and the picture are written.

    Returns:
        The video and the picture of one frame.
    """
    from refiner.runtime import Lifter, Refiner
    from refiner.runtime.people import refine_people
    from refiner.video import Video
    from refiner.viewer.overlay import overlay_poses, write_overlay

    folder.mkdir(parents=True, exist_ok=True)
    times = np.arange(len(detections.frames)) / (detections.fps or 1.0)
    people = [
        overlay_poses(person, detections.joints, times, times)
        for person in refine_people(detections, Lifter.load(), Refiner.load())
    ]
    target = folder / f"{NAME}.mp4"
    with progress_bar(target.name, "frame", len(times)) as progress:
        write_overlay(target, Video(file), people, progress)
    return target, _picture(target, min(SHOWN, len(times) - 1))


def _picture(file: Path, number: int) -> Path:
    """One frame of a video as a PNG beside it."""
    from PIL import Image

    from refiner.files import atomic_path
    from refiner.video import Video

    target = file.with_suffix(".png")
    for index, frame in enumerate(Video(file).frames()):
        if index == number:
            with atomic_path(target) as temporary:
                Image.fromarray(frame.image).save(temporary, format="PNG")
            break
    return target


if __name__ == "__main__":
    sys.exit(main())
