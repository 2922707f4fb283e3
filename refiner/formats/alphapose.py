"""AlphaPose's ``--format open`` and ``--format cmu``: a JSON object with OpenPose's 18 joints for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refiner.errors import ArchiveError
from refiner.formats.coco import frame_numbers, in_order
from refiner.formats.detections import Detections, Person, joints_of, person_of
from refiner.formats.json_files import entry, triples
from refiner.skeleton import COCO18

# The list of people, and the keypoints of a person.
FORMS = {"people": "pose_keypoints_2d", "bodies": "joints"}
NECK = COCO18.joint_names.index("neck")
SHOULDERS = [COCO18.joint_names.index(f"{side}_shoulder") for side in ("left", "right")]
# AlphaPose computes the neck from the shoulders. What lies further away, as a share of the person's size, is no neck.
FARTHEST_NECK = 0.05


def is_alphapose(content: Any) -> bool:
    """Whether the content of a JSON file is an object of images with a version and people each."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(image, dict) and "version" in image and not set(FORMS).isdisjoint(image)
            for image in list(content.values())[:10]
        )
    )


def read_images(content: Mapping[str, Any], file: Path) -> Detections:
    """The frames in the order of the numbers in their images' names.

    Raises:
        ArchiveError: an image or a person is malformed. Also where the neck does not lie between the shoulders: for
            models of 26 joints AlphaPose writes the head in its place.
    """
    numbers = frame_numbers(list(content), str(file))
    by_frame: dict[int, list[Person]] = {}
    for name, image in content.items():
        form = next((form for form in FORMS if isinstance(image, dict) and form in image), "people")
        people = by_frame.setdefault(numbers[name], [])
        for index, person in enumerate(entry(image, form, list, f"{file}, {name}")):
            where = f"{file}, {name}, person {index}"
            points, scores = triples(entry(person, FORMS[form], list, where), where)
            joints_of(len(points), {18: COCO18}, COCO18, "18", where)
            people.append(person_of(points, scores, COCO18, where))
    _check_necks([person for people in by_frame.values() for person in people], file)
    return Detections(in_order(by_frame, file), COCO18, "AlphaPose", first_frame=min(by_frame))


def _check_necks(people: list[Person], file: Path) -> None:
    shares = []
    for person in people:
        seen = person.keypoints[np.isfinite(person.keypoints).all(axis=-1)]
        away = float(np.linalg.norm(person.keypoints[NECK] - person.keypoints[SHOULDERS].mean(axis=0)))
        if len(seen) and np.isfinite(away):
            shares.append(away / max(float(np.linalg.norm(np.ptp(seen, axis=0))), 1e-9))
    if shares and np.median(shares) > FARTHEST_NECK:
        raise ArchiveError(
            f"{file} has necks that do not lie between the shoulders, as AlphaPose writes them for models of other "
            "joints than COCO's 17; run it without --format"
        )
