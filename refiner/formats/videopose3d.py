"""VideoPose3D's custom detections: ``data_2d_custom_NAME.npz`` of its ``prepare_data_2d_custom.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refiner.data.inputs import HIGHEST_FPS, LOWEST_FPS, check_image_size
from refiner.data.layouts import same_pairs
from refiner.errors import ArchiveError, InputError, UsageError
from refiner.formats.detections import Detections, Person, person_of
from refiner.skeleton import COCO17, H36M17, JointSet

LAYOUTS = {"coco": COCO17, "h36m": H36M17}


def is_custom(content: Mapping[str, Any]) -> bool:
    """Whether an .npz holds 2D poses of videos, with the size of each."""
    metadata = content.get("metadata")
    return "positions_2d" in content and isinstance(metadata, dict) and "video_metadata" in metadata


def read_custom(content: Mapping[str, Any], file: Path, video: str | None = None) -> Detections:
    """The poses of one video.

    Args:
        content: the arrays of the file by name.
        file: its name, for messages.
        video: which video; None where the file holds one alone.

    Raises:
        UsageError: the file holds several videos and ``video`` names none of them.
        ArchiveError: the layout of the joints is not known, or the arrays do not fit it.
    """
    videos, metadata = content["positions_2d"], content["metadata"]
    if not isinstance(videos, dict) or not videos:
        raise ArchiveError(f"{file}: positions_2d holds no videos")
    if video is None and len(videos) == 1:
        video = next(iter(videos))
    if video not in videos:
        raise UsageError(f"{file} holds the videos {', '.join(map(str, videos))}; name one of them")
    joints = _layout(metadata, file)
    tracks = _tracks(videos[video], joints, f"{file}, {video}")
    size = metadata["video_metadata"].get(video) if isinstance(metadata["video_metadata"], dict) else None
    frames: list[tuple[Person, ...]] = []
    for index in range(max(map(len, tracks))):
        people = [
            person_of(track[index, :, :2], _scores(track[index]), joints, f"{file}, frame {index}", number)
            for number, track in enumerate(tracks)
            if index < len(track)
        ]
        frames.append(tuple(people))
    return Detections(tuple(frames), joints, "VideoPose3D", _size(size, file), _fps(size, file))


def _layout(metadata: Mapping[str, Any], file: Path) -> JointSet:
    layout = str(metadata.get("layout_name"))
    if layout not in LAYOUTS:
        raise ArchiveError(f"{file} has the layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    if metadata.get("num_joints") not in (None, LAYOUTS[layout].joints):
        raise ArchiveError(f"{file} has {metadata['num_joints']} joints in the layout {layout!r}")
    joints, pairs = LAYOUTS[layout], metadata.get("keypoints_symmetry")
    if pairs is not None and not same_pairs(pairs, joints):
        raise ArchiveError(
            f"{file} names the layout {layout!r}, whose left joints are {list(joints.left)} and right joints "
            f"{list(joints.right)}, and the keypoints_symmetry {pairs!r}: one of them is wrong"
        )
    return joints


def _tracks(entry: Any, joints: JointSet, where: str) -> list[Any]:
    """The arrays of a video's people, ``(F, J, 2 or 3)`` each: in a list, and perhaps in a dictionary of actions."""
    if isinstance(entry, dict):
        if len(entry) != 1:
            raise ArchiveError(f"{where}: expected one entry, got {', '.join(map(str, entry))}")
        entry = next(iter(entry.values()))
    tracks = [np.asarray(track) for track in entry] if isinstance(entry, list | tuple) else [np.asarray(entry)]
    for track in tracks:
        if track.ndim != 3 or track.shape[1] != joints.joints or track.shape[2] not in (2, 3) or not len(track):
            raise ArchiveError(f"{where}: poses of shape {track.shape}, expected (frames, {joints.joints}, 2)")
    return tracks


def _scores(pose: Any) -> Any:
    return pose[:, 2] if pose.shape[1] == 3 else np.ones(len(pose))


def _size(entry: Any, file: Path) -> tuple[float, float] | None:
    if not isinstance(entry, dict) or not {"w", "h"} <= set(entry):
        return None
    try:
        return check_image_size((entry["w"], entry["h"]))
    except InputError as error:
        raise ArchiveError(f"{file}: {error}") from error


def _fps(entry: Any, file: Path) -> float | None:
    if not isinstance(entry, dict) or entry.get("fps") is None:
        return None
    fps = entry["fps"]
    usable = isinstance(fps, (int, float, np.number)) and not isinstance(fps, bool)
    if not usable or not LOWEST_FPS <= float(fps) <= HIGHEST_FPS:
        raise ArchiveError(f"{file}: the frame rate is {fps!r}, expected frames per second")
    return float(fps)
