"""MMPose's predictions: a list of frames with their instances, with or without a header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.formats.detections import WHOLE_BODIES, Detections, Person, body_part, check_span, person_of
from refiner.formats.joint_names import check_names
from refiner.formats.json_files import entry, whole_number
from refiner.skeleton import AIC14, COCO17, CROWDPOSE14, H36M17, HALPE26, MPII16, JointSet

# By the name of the data set in the header; without a header by the number of joints.
SETS_BY_NAME = {
    "coco": COCO17,
    "coco_wholebody": COCO17,
    "halpe": HALPE26,
    "halpe26": HALPE26,
    "body8-halpe26": HALPE26,
    "h36m": H36M17,
    "mpii": MPII16,
    "aic": AIC14,
    "crowdpose": CROWDPOSE14,
}
SETS = {16: MPII16, 17: COCO17, 26: HALPE26}
NAMES = "16 (MPII), 17 (COCO), 26 or 136 (Halpe), or 133 (COCO-WholeBody)"


def is_mmpose(content: Any) -> bool:
    """Whether the content of a JSON file is MMPose's."""
    frames = content.get("instance_info") if isinstance(content, dict) else content
    return (
        isinstance(frames, list) and bool(frames) and all(isinstance(f, dict) and "instances" in f for f in frames[:10])
    )


def read_predictions(content: Any, file: Path) -> Detections:
    """The frames in the order of their ``frame_id``, where the file has one; frames that it leaves out have no people.

    Raises:
        ArchiveError: a frame or an instance is malformed, or its joints are none that are known.
    """
    headed = isinstance(content, dict)
    entries = content["instance_info"] if headed else content
    named = _named_set(content, file) if headed else None
    numbers = _frame_numbers(entries, file)
    by_frame: dict[int, tuple[Person, ...]] = {}
    joints = named
    for index, frame in enumerate(entries):
        people = []
        for number, instance in enumerate(entry(frame, "instances", list, f"{file}, frame {index}")):
            where = f"{file}, frame {index}, instance {number}"
            points = entry(instance, "keypoints", list, where)
            scores = entry(instance, "keypoint_scores", list, where)
            points, scores = body_part(points, scores)
            expected = joints or SETS.get(len(points))
            if expected is None or len(points) != expected.joints:
                raise ArchiveError(f"{where}: {len(points)} joints, expected {expected.joints if expected else NAMES}")
            joints = expected
            people.append(person_of(points, scores, joints, where, whole_number(instance.get("track_id"))))
        by_frame[numbers[index]] = tuple(people)
    if joints is None or not any(by_frame.values()):
        raise ArchiveError(f"{file} shows nobody in any frame")
    if headed:
        _check_names(content["meta_info"] if isinstance(content.get("meta_info"), dict) else {}, joints, file)
    first, last = min(by_frame), max(by_frame)
    check_span(first, last, len(by_frame), str(file))
    frames = tuple(by_frame.get(number, ()) for number in range(first, last + 1))
    return Detections(frames, joints, "MMPose", first_frame=first)


def _frame_numbers(frames: Sequence[Any], file: Path) -> list[int]:
    """The numbers of the frames: those that the file gives, or their places in it where it gives none.

    Raises:
        ArchiveError: a frame has no whole number where others have one, or two frames have the same.
    """
    stated = [isinstance(frame, dict) and "frame_id" in frame for frame in frames]
    if not any(stated):
        return list(range(len(frames)))
    numbers = [whole_number(entry(frame, "frame_id", int, f"{file}, frame {i}")) for i, frame in enumerate(frames)]
    usable = [number for number in numbers if number is not None]
    twice = [number for number, count in Counter(usable).items() if count > 1]
    if len(usable) < len(numbers) or twice:
        what = f"two frames with the frame_id {twice[0]}" if twice else "a frame_id that is no number from 0 upwards"
        raise ArchiveError(f"{file} has {what}; is it one video?")
    return usable


def _check_names(header: Mapping[str, Any], joints: JointSet, file: Path) -> None:
    """Raises ArchiveError where the header names the keypoints, and they are others."""
    names = header.get("keypoint_id2name")
    if isinstance(names, dict) and names:
        try:
            ordered = [names[number] for number in sorted(names, key=int)]
        except (TypeError, ValueError) as error:
            raise ArchiveError(f"{file}: keypoint_id2name has other keys than numbers") from error
        check_names(ordered[: joints.joints] if len(ordered) in WHOLE_BODIES else ordered, joints, str(file))


def _named_set(content: Any, file: Path) -> JointSet | None:
    name = content.get("meta_info", {}).get("dataset_name") if isinstance(content.get("meta_info"), dict) else None
    if name is None:
        return None
    if str(name).lower() not in SETS_BY_NAME:
        raise ArchiveError(f"{file} has the keypoints of {name}; expected those of {', '.join(SETS_BY_NAME)}")
    return SETS_BY_NAME[str(name).lower()]
