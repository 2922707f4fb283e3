"""MMPose's predictions: a list of frames with their instances, with or without a header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.formats.detections import Detections, Person, person_of
from refiner.formats.json_files import entry, whole_number
from refiner.skeleton import COCO17, H36M17, HALPE26, JointSet

# By the name of the data set in the header; without a header by the number of joints.
SETS_BY_NAME = {"coco": COCO17, "halpe26": HALPE26, "body8-halpe26": HALPE26, "h36m": H36M17}
SETS = {17: COCO17, 26: HALPE26}


def is_mmpose(content: Any) -> bool:
    """Whether the content of a JSON file is MMPose's."""
    frames = content.get("instance_info") if isinstance(content, dict) else content
    return (
        isinstance(frames, list) and bool(frames) and all(isinstance(f, dict) and "instances" in f for f in frames[:10])
    )


def read_predictions(content: Any, file: Path) -> Detections:
    """The frames in their order.

    Raises:
        ArchiveError: a frame or an instance is malformed, or its joints are none that are known.
    """
    headed = isinstance(content, dict)
    named = _named_set(content, file) if headed else None
    frames: list[tuple[Person, ...]] = []
    joints = named
    for index, frame in enumerate(content["instance_info"] if headed else content):
        people = []
        for number, instance in enumerate(entry(frame, "instances", list, f"{file}, frame {index}")):
            where = f"{file}, frame {index}, instance {number}"
            points = entry(instance, "keypoints", list, where)
            scores = entry(instance, "keypoint_scores", list, where)
            expected = joints or SETS.get(len(points))
            if expected is None or len(points) != expected.joints:
                count = "17 (COCO) or 26 (Halpe)" if expected is None else expected.joints
                raise ArchiveError(f"{where}: {len(points)} joints, expected {count}")
            joints = expected
            people.append(person_of(points, scores, joints, where, whole_number(instance.get("track_id"))))
        frames.append(tuple(people))
    if joints is None or not any(frames):
        raise ArchiveError(f"{file} shows nobody in any frame")
    return Detections(tuple(frames), joints, "MMPose")


def _named_set(content: Any, file: Path) -> JointSet | None:
    name = content.get("meta_info", {}).get("dataset_name") if isinstance(content.get("meta_info"), dict) else None
    if name is None:
        return None
    if str(name).lower() not in SETS_BY_NAME:
        raise ArchiveError(f"{file} has the keypoints of {name}; expected those of {', '.join(SETS_BY_NAME)}")
    return SETS_BY_NAME[str(name).lower()]
