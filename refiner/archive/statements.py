"""What files say about a sequence beside its poses: frame rate, joint set, image size, focal length."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.archive.sequences import UNSTATED, Sequence, Stated
from refiner.data.inputs import HIGHEST_FPS, LOWEST_FPS, check_image_size
from refiner.errors import ArchiveError, InputError
from refiner.formats.json_files import read_json
from refiner.skeleton import H36M17, JOINT_SETS

# The file of statements in a folder; beside an archive that is a file NAME.npz it is NAME.sequences.json.
FILE = "sequences.json"
NAMES = ("fps", "joints", "joints_3d", "image_size", "focal_length")


def stated_by(values: Mapping[str, Any], where: str) -> Stated:
    """The statements in arrays or JSON values, by the names of `NAMES`; others are left alone.

    Raises:
        ArchiveError: a value is none of its kind.
    """
    if not any(name in values for name in NAMES):
        return UNSTATED
    return Stated(
        fps=_fps(values.get("fps"), where),
        joints=_joint_set(values.get("joints"), "joints", where),
        joints_3d=_joint_set(values.get("joints_3d"), "joints_3d", where),
        image_size=_image_size(values.get("image_size"), where),
        focal_length=_focal_length(values.get("focal_length"), where),
    )


class Statements:
    """The statements of a file: an object ``{"name or pattern": {"fps": 25, ...}}``.

    Where several entries fit a name, the exact one comes first, then the patterns (``*`` and ``?``) in their order.

    Args:
        file: the file; it may be missing.

    Raises:
        ArchiveError: the file is damaged, or an entry states something else.
    """

    def __init__(self, file: Path) -> None:
        self._entries: dict[str, Stated] = {}
        if not file.is_file():
            return
        content = read_json(file)
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise ArchiveError(f'{file} is no object of objects, expected {{"name": {{"fps": 25}}}}')
        for name, entry in content.items():
            unknown = sorted(set(entry) - set(NAMES))
            if unknown:
                raise ArchiveError(f"{file}, {name!r}: unknown {unknown[0]!r}; expected {', '.join(NAMES)}")
            self._entries[name] = stated_by(entry, f"{file}, {name!r}")

    def of(self, name: str) -> Stated:
        """What the file says about the sequence of this name."""
        stated = self._entries.get(name, UNSTATED)
        for pattern, entry in self._entries.items():
            if fnmatchcase(name, pattern):
                stated = stated.or_else(entry)
        return stated


def complete(
    name: str,
    sha256: str,
    stated: Stated,
    pose_2d: NDArray[Any],
    pose_3d: NDArray[Any] | None = None,
    confidence: NDArray[Any] | None = None,
    first_frame: int = 0,
) -> Sequence:
    """A sequence with all that is known about it.

    Args:
        name: see `Sequence`, also for the other arguments.
        stated: by the file itself, by ``sequences.json`` and by the options, in this order.

    Raises:
        InputError: nobody states the frame rate, the size of the image or the joints, and it cannot be known.
    """
    how = f"write it into the file, or into {FILE}, or give"
    if stated.image_size is None:
        raise InputError(f"nobody says how large its images are: {how} --image-size W H in pixels")
    if stated.fps is None:
        raise InputError(f"nobody says how many frames a second it has: {how} --fps")
    joints = stated.joints or _known_set(pose_2d, "pose_2d", f"joints: {how} --joints")
    joints_3d = joints
    if pose_3d is not None:
        joints_3d = stated.joints_3d or _joints_3d(joints, pose_3d)
    return Sequence(
        name,
        sha256,
        pose_2d,
        pose_3d,
        confidence,
        joints,
        joints_3d,
        stated.fps,
        stated.image_size,
        stated.focal_length,
        first_frame,
    )


def _joints_3d(joints: str, pose_3d: NDArray[Any]) -> str:
    """The joint set of 3D poses that nobody names: that of the 2D, or Human3.6M's where a detector has other joints."""
    count = pose_3d.shape[1] if pose_3d.ndim == 3 else None
    return H36M17.name if count == H36M17.joints != JOINT_SETS[joints].joints else joints


def _known_set(poses: NDArray[Any], name: str, remedy: str) -> str:
    """The only joint set that has this number of joints."""
    count = poses.shape[1] if poses.ndim == 3 else None
    fitting = [key for key, kind in JOINT_SETS.items() if kind.joints == count]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        known = ", ".join(f"{key} {kind.joints}" for key, kind in JOINT_SETS.items())
        raise InputError(f"{name} has the shape {poses.shape}, which fits no joint set ({known})")
    raise InputError(f"{name} has {count} joints, which may be {' or '.join(fitting)}; nobody says which {remedy}")


def _fps(value: Any, where: str) -> float | None:
    if value is None:
        return None
    rate = _number(value)
    if rate is None or not LOWEST_FPS <= rate <= HIGHEST_FPS:
        raise ArchiveError(f"{where}: fps is {value!r}, expected {LOWEST_FPS:g} to {HIGHEST_FPS:g} frames per second")
    return rate


def _joint_set(value: Any, name: str, where: str) -> str | None:
    if value is None:
        return None
    text = str(value)
    if text not in JOINT_SETS:
        raise ArchiveError(f"{where}: {name} is {text[:40]!r}, expected one of {', '.join(JOINT_SETS)}")
    return text


def _image_size(value: Any, where: str) -> tuple[float, float] | None:
    if value is None:
        return None
    try:
        return check_image_size(value)
    except InputError as error:
        raise ArchiveError(f"{where}: {error}") from error


def _focal_length(value: Any, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"{where}: focal_length is {value!r}, expected pixels") from error
    if numbers.shape not in ((1,), (2,)):
        raise ArchiveError(f"{where}: focal_length has shape {numbers.shape}, expected one number or two")
    return tuple(numbers.tolist())


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        array = np.asarray(value)
        return float(array) if array.dtype.kind in "fiu" and array.size == 1 else None
    except (TypeError, ValueError):
        return None
