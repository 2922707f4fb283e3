"""``refiner-refine INPUT``: the people of a detector's file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.progress import progress_of
from refiner.cli.trajectory import axes_text, placement_of
from refiner.errors import InputError, UsageError

if TYPE_CHECKING:
    from refiner.formats import Detections
    from refiner.runtime import Lifter, Refiner
    from refiner.runtime.people import RefinedPerson

# Options that belong to arrays.
FOR_ARRAYS = ("pose_3d", "height", "key_2d", "key_3d", "confidence", "same_person", "video", "joints_3d", "json")


def refine_detections(arguments: argparse.Namespace) -> None:
    """Lift and refine the people of ``arguments.input``, and write each of them into the folder ``arguments.output``.

    Raises:
        UsageError: an option belongs to arrays, or nobody states the frame rate or the image size.
        InputError: the file has no layout that is known, or is damaged, or shows nobody.
    """
    from refiner.formats import read_detections
    from refiner.runtime import Lifter, Refiner
    from refiner.runtime.people import check_folder

    check_options(arguments)
    detections = read_detections(arguments.input, arguments.name)
    size = arguments.image_size or detections.image_size
    if size is None:
        raise UsageError(f"{arguments.input} does not say how large its images are: give --image-size W H in pixels")
    image_size = (float(size[0]), float(size[1]))
    fps = arguments.fps or detections.fps
    if fps is None:
        raise UsageError(f"{arguments.input} does not say how many frames a second it has: give --fps")
    folder = check_folder(arguments.output)
    lifter = Lifter.load(arguments.lifter)
    refiner = Refiner.load(
        arguments.checkpoint,
        steps=arguments.steps,
        pool_shape=arguments.pool_shape,
        smoothing=arguments.smooth,
        precision=arguments.precision,
    )
    write_people(arguments, detections, lifter, refiner, fps, image_size, folder)
    print(f"wrote {folder}")


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError where an option does not go with INPUT, and InputError where a value is out of range."""
    unfit = [f"--{name.replace('_', '-')}" for name in FOR_ARRAYS if getattr(arguments, name) is not None]
    if unfit:
        raise UsageError(f"{', '.join(unfit)} belong to arrays (--pose-2d); leave them out with INPUT")
    if arguments.joints != "h36m17":
        raise UsageError("--joints belongs to arrays; a detector says what its joints are")
    # Before the work begins, not only where it is needed.
    placement_of(arguments)


def write_people(
    arguments: argparse.Namespace,
    detections: Detections,
    lifter: Lifter,
    refiner: Refiner,
    fps: float,
    image_size: tuple[float, float],
    folder: Path,
) -> list[RefinedPerson]:
    """Lift and refine the people of detections, write each of them into ``folder``, and print what was written.

    Raises:
        InputError: nobody can be refined.
    """
    from refiner.runtime.people import refine_people, save_person

    focal = arguments.focal_length
    people = refine_people(
        detections,
        lifter,
        refiner,
        fps,
        image_size,
        focal if focal is None or len(focal) > 1 else focal[0],
        arguments.person,
        placement_of(arguments),
        arguments.least_confidence,
    )
    print(f"{detections.source}: {len(detections.frames)} frames, {detections.joints.name}")
    written = []
    for person in progress_of(people, "people", "person"):
        files = save_person(person, folder, fps, image_size, detections.joints.name, detections.first_frame)
        frames = sum(end - begin for begin, end in person.parts)
        guessed = int(person.guessed.sum())
        print(f"person {person.number}: {frames} frames refined, {guessed} joints guessed; {files[0].name}, .trc, .bvh")
        if person.trajectory is not None:
            print(f"person {person.number}: {axes_text(person.trajectory, focal is not None)}")
        written.append(person)
    if not written:
        raise InputError(f"{arguments.input} shows nobody well enough to be refined")
    return written
