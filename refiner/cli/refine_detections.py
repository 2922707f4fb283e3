"""``refiner-refine INPUT``: the people of a detector's file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TypeVar

from refiner.cli.trajectory import axes_text, placement_of
from refiner.errors import InputError, UsageError

Item = TypeVar("Item")

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
    from refiner.runtime.people import check_folder, refine_people, save_person

    unfit = [f"--{name.replace('_', '-')}" for name in FOR_ARRAYS if getattr(arguments, name) is not None]
    if unfit:
        raise UsageError(f"{', '.join(unfit)} belong to arrays (--pose-2d); leave them out with INPUT")
    if arguments.joints != "h36m17":
        raise UsageError("--joints belongs to arrays; the file of a detector says what its joints are")
    detections = read_detections(arguments.input, arguments.name)
    size = arguments.image_size or detections.image_size
    if size is None:
        raise UsageError(f"{arguments.input} does not say how large its images are: give --image-size W H in pixels")
    image_size = (float(size[0]), float(size[1]))
    fps = arguments.fps or detections.fps
    if fps is None:
        raise UsageError(f"{arguments.input} does not say how many frames a second it has: give --fps")
    focal = arguments.focal_length
    placement = placement_of(arguments)
    folder = check_folder(arguments.output)
    lifter = Lifter.load(arguments.lifter)
    refiner = Refiner.load(
        arguments.checkpoint, steps=arguments.steps, pool_shape=arguments.pool_shape, smoothing=arguments.smooth
    )
    people = refine_people(
        detections,
        lifter,
        refiner,
        fps,
        image_size,
        focal if focal is None or len(focal) > 1 else focal[0],
        arguments.person,
        placement,
        arguments.least_confidence,
    )
    print(f"{detections.source}: {len(detections.frames)} frames, {detections.joints.name}")
    written = 0
    for person in _with_progress(people):
        files = save_person(person, folder, fps, image_size, detections.joints.name, detections.first_frame)
        frames = sum(end - begin for begin, end in person.parts)
        guessed = int(person.guessed.sum())
        print(f"person {person.number}: {frames} frames refined, {guessed} joints guessed; {files[0].name}, .trc, .bvh")
        if person.trajectory is not None:
            print(f"person {person.number}: {axes_text(person.trajectory, focal is not None)}")
        written += 1
    if not written:
        raise InputError(f"{arguments.input} shows nobody well enough to be refined")
    print(f"wrote {folder}")


def _with_progress(people: Iterable[Item]) -> Iterator[Item]:
    """The same with a progress bar on a terminal, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield from people
        return
    yield from tqdm(people, desc="people", unit="person", disable=None, leave=False)
