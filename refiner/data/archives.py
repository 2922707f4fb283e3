"""Reading of pose archives in VideoPose3D's layout: ``data_3d_*.npz`` and ``data_2d_*.npz``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.safe_npz import DEFAULT_MAX_BYTES, load_npz
from refiner.errors import (
    ArchiveError,
    EmptySequenceError,
    JointCountError,
    LengthError,
    NonFiniteError,
    ShapeError,
    UnitError,
)

JOINTS = 17
_RAW_HUMAN36M_JOINTS = 32
_MAX_EXTENT_M = 10.0

Positions3D = dict[str, dict[str, NDArray[np.float32]]]
Positions2D = dict[str, dict[str, list[NDArray[np.float32]]]]


@dataclass(frozen=True)
class Detections:
    """The 2D poses of a detector.

    Attributes:
        positions: ``positions[subject][action key][camera]`` is an array ``(F, 17, 2)`` float32, in pixels.
        metadata: The metadata of the file; empty if it has none.
        source: The name of the file, for messages; empty if there is none.
    """

    positions: Positions2D = field(repr=False)
    metadata: dict[str, Any]
    source: str = ""


def load_positions_3d(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Positions3D:
    """Read the 3D poses ``positions_3d`` of an archive.

    Args:
        path: The file ``data_3d_*.npz``. Poses with Human3.6M's 32 joints are reduced to VideoPose3D's 17 joints.
        max_bytes: The largest accepted uncompressed size.

    Returns:
        Subject -> action key -> ``(F, 17, 3)`` float32, in world metres.

    Raises:
        ArchiveError: The file is not such an archive.
        UnsafeArchiveError: The file would run code.
        ShapeError, JointCountError, EmptySequenceError, NonFiniteError, UnitError: A clip cannot be used; the message
            names the clip.
    """
    subjects = _subjects(path, "positions_3d", max_bytes)[0]
    return {
        subject: {key: _clip_3d(poses, f"{path}, {subject} {key!r}") for key, poses in clips.items()}
        for subject, clips in subjects.items()
    }


def load_positions_2d(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> Detections:
    """Read the 2D poses ``positions_2d`` of an archive, and its ``metadata``.

    The usual metadata are layout_name, num_joints and keypoints_symmetry.

    Args:
        path: The file ``data_2d_*.npz``.
        max_bytes: The largest accepted uncompressed size.

    Returns:
        The detections: one ``(F, 17, 2)`` float32 array in pixels per camera.

    Raises:
        ArchiveError: See `load_positions_3d`, also for the other errors.
    """
    subjects, content = _subjects(path, "positions_2d", max_bytes)
    metadata = content.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise ArchiveError(f"{path}: metadata is a {type(metadata).__name__}, expected a dict")
    positions: Positions2D = {}
    for subject, clips in subjects.items():
        positions[subject] = {}
        for key, views in clips.items():
            if isinstance(views, np.ndarray) and views.dtype != object and views.ndim != 4:
                raise ArchiveError(f"{path}, {subject} {key!r} has shape {views.shape}, expected one array per camera")
            if not isinstance(views, (list, tuple, np.ndarray)) or len(views) == 0:
                raise ArchiveError(f"{path}, {subject} {key!r} holds no list of arrays, one per camera")
            positions[subject][key] = [
                _clip(view, 2, (JOINTS,), f"{path}, {subject} {key!r}, camera {index}")
                for index, view in enumerate(views)
            ]
    return Detections(positions, dict(metadata), str(path))


def detected_views(
    detections: Detections, subject: str, key: str, cameras: int, frames: int
) -> list[NDArray[np.float32]]:
    """Return the detections of one clip, cut to the number of frames of the 3D poses.

    Args:
        detections: The detections of the archive.
        subject: The subject of the clip.
        key: The action key of the clip.
        cameras: The number of cameras.
        frames: The number of frames of the 3D poses.

    Returns:
        One array ``(frames, 17, 2)`` in pixels per camera.

    Raises:
        ArchiveError: The subject, the clip or a camera is missing.
        LengthError: The detections have fewer frames.
    """
    if subject not in detections.positions:
        raise ArchiveError(f"the detections have no person {subject!r}; they have: {', '.join(detections.positions)}")
    views = detections.positions[subject].get(key)
    if views is None:
        raise ArchiveError(f"the detections have no clip {key!r} of {subject}")
    if len(views) != cameras:
        raise ArchiveError(f"{subject} {key!r} has detections of {len(views)} cameras, expected {cameras}")
    for index, view in enumerate(views):
        if len(view) < frames:
            raise LengthError(
                f"{subject} {key!r}, camera {index}: {len(view)} frames of detections for {frames} of 3D poses"
            )
    return [view[:frames] for view in views]


def _subjects(
    path: str | os.PathLike[str], name: str, max_bytes: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    content = load_npz(path, max_bytes=max_bytes)
    if name not in content:
        names = ", ".join(sorted(content))
        raise ArchiveError(f"{path} has no {name!r}; it holds: {names}. Is this the right archive?")
    subjects = content[name]
    if (
        not isinstance(subjects, dict)
        or not subjects
        or not all(isinstance(clips, dict) for clips in subjects.values())
    ):
        raise ArchiveError(f"{path}: {name} is not a dict subject -> action -> poses")
    return {
        str(subject): {str(key): poses for key, poses in clips.items()} for subject, clips in subjects.items()
    }, content


def _clip_3d(poses: object, where: str) -> NDArray[np.float32]:
    clip = _clip(poses, 3, (JOINTS, _RAW_HUMAN36M_JOINTS), where)
    if clip.shape[1] == _RAW_HUMAN36M_JOINTS:
        from refiner.skeleton import H36M_32_TO_17

        clip = np.ascontiguousarray(clip[:, list(H36M_32_TO_17)])
    extent = float((clip.max(axis=1) - clip.min(axis=1)).max())
    if extent > _MAX_EXTENT_M:
        raise UnitError(f"{where}: a person spans {extent:.0f} m; expected metres (are these millimetres?)")
    return clip


def _clip(poses: object, coordinates: int, joints: tuple[int, ...], where: str) -> NDArray[np.float32]:
    if not isinstance(poses, np.ndarray) or poses.dtype.kind not in "fiu":
        kind = poses.dtype if isinstance(poses, np.ndarray) else type(poses).__name__
        raise ArchiveError(f"{where} holds {kind}, expected an array of numbers")
    if poses.ndim != 3 or poses.shape[-1] != coordinates:
        raise ShapeError(f"{where} has shape {poses.shape}, expected (frames, joints, {coordinates})")
    if poses.shape[1] not in joints:
        expected = " or ".join(map(str, joints))
        raise JointCountError(f"{where} has {poses.shape[1]} joints, expected {expected}")
    if len(poses) == 0:
        raise EmptySequenceError(f"{where} has no frames")
    clip = np.ascontiguousarray(poses, dtype=np.float32)
    if not np.isfinite(clip).all():
        frame = int(np.argwhere(~np.isfinite(clip))[0, 0])
        raise NonFiniteError(f"{where} holds NaN or infinite values, first in frame {frame}")
    return clip
