"""JSON with COCO's keypoints: COCO's annotations and results, AlphaPose's results."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.formats.detections import Detections, Person, body_part, check_span, joints_of, person_of
from refiner.formats.joint_names import check_names
from refiner.formats.json_files import entry, triples, whole_number
from refiner.skeleton import COCO17, HALPE26, MPII16, JointSet

SETS = {16: MPII16, 17: COCO17, 26: HALPE26}
NAMES = "16 (MPII), 17 (COCO), 26 or 136 (Halpe), or 133 (COCO-WholeBody)"
# Annotations mark a joint as absent (0), hidden (1) or visible (2).
VISIBLE = 2.0
MOST_DIGITS = 18


def is_results(content: Any) -> bool:
    """Whether the content of a JSON file is a list of people with keypoints and an image each."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(person, dict) and "keypoints" in person and "image_id" in person for person in content[:10])
    )


def is_annotations(content: Any) -> bool:
    """Whether the content of a JSON file is a data set in COCO's layout."""
    return isinstance(content, dict) and isinstance(content.get("annotations"), list) and "images" in content


def read_results(content: Any, file: Path) -> Detections:
    """Results as COCO's evaluation takes them and as AlphaPose writes them: one entry for each person and image.

    Frames are ordered by the number in their image's name.

    Raises:
        ArchiveError: an entry is no person, or the people have different joint sets.
    """
    by_frame: defaultdict[int, list[Person]] = defaultdict(list)
    joints: JointSet | None = None
    names = [entry(person, "image_id", (int, str), f"{file}, entry {index}") for index, person in enumerate(content)]
    numbers = frame_numbers(names, str(file))
    for index, person in enumerate(content):
        where = f"{file}, entry {index}"
        points, scores = body_part(*triples(entry(person, "keypoints", list, where), where))
        joints = joints_of(len(points), SETS, joints, NAMES, where)
        track = whole_number(person.get("idx", person.get("track_id")))
        by_frame[numbers[names[index]]].append(person_of(points, scores, joints, where, track))
    assert joints is not None  # `is_results` has seen an entry
    return Detections(in_order(by_frame, file), joints, "AlphaPose or COCO results", first_frame=min(by_frame))


def read_annotations(content: Any, file: Path) -> Detections:
    """A data set in COCO's layout, whose images are the frames of one video in the order of their numbers.

    Raises:
        ArchiveError: the file lacks something, or its images have different sizes.
    """
    images = entry(content, "images", list, str(file))
    sizes = set()
    names = {}
    for index, image in enumerate(images):
        where = f"{file}, image {index}"
        identity = entry(image, "id", (int, str), where)
        names[identity] = image.get("file_name", identity)
        if "width" in image and "height" in image:
            sizes.add(
                (float(entry(image, "width", (int, float), where)), float(entry(image, "height", (int, float), where)))
            )
    if len(sizes) > 1:
        raise ArchiveError(f"{file} has images of {len(sizes)} sizes; expected the frames of one video")
    by_name = frame_numbers(list(names.values()), str(file))
    numbers = {identity: by_name[name] for identity, name in names.items()}
    by_frame: defaultdict[int, list[Person]] = defaultdict(list)
    for number in numbers.values():
        by_frame[number] = []
    joints: JointSet | None = None
    for index, person in enumerate(content["annotations"]):
        where = f"{file}, annotation {index}"
        points, marks = body_part(*triples(entry(person, "keypoints", list, where), where))
        joints = joints_of(len(points), SETS, joints, NAMES, where)
        identity = entry(person, "image_id", (int, str), where)
        if identity not in numbers:
            raise ArchiveError(f"{where}: there is no image {identity!r}")
        sure = [_number(mark, where) / VISIBLE for mark in marks]
        track = whole_number(person.get("track_id", person.get("instance_id")))
        by_frame[numbers[identity]].append(person_of(points, sure, joints, where, track))
    if joints is None:
        raise ArchiveError(f"{file} has no annotation with keypoints")
    _check_names(content, joints, file)
    return Detections(
        in_order(by_frame, file), joints, "COCO annotations", next(iter(sizes), None), first_frame=min(by_frame)
    )


def _check_names(content: Any, joints: JointSet, file: Path) -> None:
    """Raises ArchiveError where the file names its keypoints and they are others."""
    for category in content.get("categories", ()):
        names = category.get("keypoints") if isinstance(category, dict) else None
        if isinstance(names, list) and names:
            check_names(names, joints, str(file))


def frame_numbers(names: Sequence[int | str], where: str) -> dict[int | str, int]:
    """The number of each image's frame: the image's own number, or the first one in its name that differs.

    Raises:
        ArchiveError: a name has no number there, or two images have the same one.
    """
    distinct = list(dict.fromkeys(names))
    texts = [str(name) for name in distinct]
    common = _common_beginning(texts) if len(texts) > 1 else ""
    # A number that begins in the common part belongs to the part that differs.
    begin = len(common.rstrip("0123456789"))
    numbers: dict[int | str, int] = {}
    owners: dict[int, int | str] = {}
    for name, text in zip(distinct, texts, strict=True):
        if isinstance(name, int):
            number = name
        else:
            match = re.search(r"\d+", text[begin:]) if len(texts) > 1 else re.search(r"\d+(?=\D*$)", Path(text).stem)
            if match is None or len(match.group()) > MOST_DIGITS:
                raise ArchiveError(f"{where}: the image {name!r} has no number that would order the frames")
            number = int(match.group())
        if number in owners:
            raise ArchiveError(
                f"{where}: the images {owners[number]!r} and {name!r} have the same frame number {number}"
            )
        numbers[name], owners[number] = number, name
    return numbers


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArchiveError(f"{where}: expected numbers, got {value!r}")
    return float(value)


def in_order(by_frame: Mapping[int, list[Person]], file: Path) -> tuple[tuple[Person, ...], ...]:
    """All frames from the first to the last; those without an entry have no people."""
    first, last = min(by_frame), max(by_frame)
    check_span(first, last, len(by_frame), str(file))
    return tuple(tuple(by_frame.get(frame, ())) for frame in range(first, last + 1))
