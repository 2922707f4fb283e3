"""OpenPose's ``--write_json``: a folder with one file for each frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.formats.detections import Detections, Person, check_span, joints_of, person_of
from refiner.formats.json_files import entry, read_json, triples, whole_number
from refiner.skeleton import BODY25, COCO18, JointSet

# NAME_000000000012_keypoints.json
FRAME_FILE = re.compile(r"(?P<name>.*?)_?(?P<frame>\d+)_keypoints\.json")
SETS = {25: BODY25, 18: COCO18}
NAMES = "25 (BODY_25) or 18 (COCO)"


def is_openpose(content: Any) -> bool:
    """Whether the content of a JSON file is one frame of OpenPose."""
    return isinstance(content, dict) and isinstance(content.get("people"), list) and "version" in content


def read_folder(folder: Path) -> Detections:
    """A folder of frames. A frame without a file is a frame without people.

    Raises:
        ArchiveError: there is no frame, there are several videos, or a file is no frame of OpenPose.
    """
    matches = {file: FRAME_FILE.fullmatch(file.name) for file in folder.glob("*.json")}
    numbered = {file: match for file, match in matches.items() if match is not None}
    if not numbered:
        raise ArchiveError(f"{folder} holds no NAME_000000000000_keypoints.json of OpenPose")
    names = sorted({match["name"] for match in numbered.values()})
    if len(names) > 1:
        raise ArchiveError(f"{folder} holds frames of several videos: {', '.join(names[:5])}; give each its own folder")
    files = {int(match["frame"]): file for file, match in numbered.items()}
    if len(files) < len(numbered):
        raise ArchiveError(f"{folder} holds several files of one frame")
    first, last = min(files), max(files)
    check_span(first, last, len(files), str(folder))
    return replace(read_frames([files.get(frame) for frame in range(first, last + 1)]), first_frame=first)


def read_frames(files: Sequence[Path | None]) -> Detections:
    """Files of neighbouring frames, None for a frame without a file.

    Raises:
        ArchiveError: a file is no frame of OpenPose, or the frames have different joint sets.
    """
    frames: list[tuple[Person, ...]] = []
    joints: JointSet | None = None
    for file in files:
        content = {"people": []} if file is None else read_json(file)
        people = []
        for index, person in enumerate(entry(content, "people", list, str(file))):
            where = f"{file}, person {index}"
            values = entry(person, "pose_keypoints_2d", list, where)
            if not values:
                continue  # OpenPose writes an empty list for a person of whom it saw a face or a hand alone.
            points, scores = triples(values, where)
            joints = joints_of(len(points), SETS, joints, NAMES, where)
            people.append(person_of(points, scores, joints, where, whole_number(person.get("person_id"))))
        frames.append(tuple(people))
    if joints is None:
        first = next((str(file.parent if len(files) > 1 else file) for file in files if file is not None), "")
        raise ArchiveError(f"{first}: OpenPose saw nobody in any frame; expected people with pose_keypoints_2d")
    return Detections(tuple(frames), joints, "OpenPose")
