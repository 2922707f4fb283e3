"""Archives in VideoPose3D's layout, which the field uses: subject -> action -> one array for each camera.

``data_2d_*.npz`` holds the 2D poses, ``(F, J, 2)`` pixels, or ``(F, J, 3)`` with a confidence. A second file may hold
3D poses under the same names: an array ``(F, J, 3)`` for each camera in its axes, or one array for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.archive.job import Job
from refiner.archive.npz_content import content_of
from refiner.archive.sequences import UNSTATED, Sequence, SequenceRef, Stated
from refiner.archive.statements import complete
from refiner.data.layouts import check_layout, stated_joints
from refiner.errors import ArchiveError
from refiner.skeleton import joint_set


def entries_of(file: Path) -> list[tuple[tuple[str, str, str], int | None]]:
    """The places (subject, action, camera) of all sequences of a file, and how many frames each has.

    Raises:
        ArchiveError: the file is damaged or has another layout.
    """
    found: list[tuple[tuple[str, str, str], int | None]] = []
    for subject, actions in _positions(file, "positions_2d").items():
        for action, views in _named(actions, f"{file}, {subject}").items():
            if not isinstance(views, list | tuple | np.ndarray) or not len(views):
                found.append(((subject, action, "0"), None))
                continue
            found += [((subject, action, str(camera)), _frames(view)) for camera, view in enumerate(views)]
    return sorted(found, key=lambda entry: (entry[0][:2], int(entry[0][2])))


def identity(job: Job, ref: SequenceRef) -> str:
    """The hash of the arrays of one sequence, and of what the file says about all of them.

    Raises:
        ArchiveError: the file is damaged, or has no such sequence.
    """
    pose_2d, pose_3d, stated = _arrays(job, ref)
    digest = hashlib.sha256(repr(stated).encode())
    for array in (pose_2d, pose_3d):
        if array is not None:
            values = np.ascontiguousarray(array)
            digest.update(f"{values.dtype.str} {values.shape}".encode())
            digest.update(values.data if values.size else b"")
    return digest.hexdigest()


def load(job: Job, ref: SequenceRef, sha256: str) -> list[Sequence]:
    """Read a sequence.

    Raises:
        InputError: the sequence is missing or damaged, or something about it is not known.
    """
    pose_2d, pose_3d, own = _arrays(job, ref)
    confidence = None
    if pose_2d.ndim == 3 and pose_2d.shape[2] == 3:
        pose_2d, confidence = pose_2d[..., :2], pose_2d[..., 2]
    stated = own.or_else(ref.stated).or_else(job.stated)
    metadata = content_of(job.path_of(ref)).get("metadata")
    if isinstance(metadata, Mapping) and stated.joints is not None:
        check_layout(metadata, joint_set(stated.joints), str(job.path_of(ref)))
    if pose_3d is not None and pose_3d.ndim == 3 and len(pose_3d) < len(pose_2d):
        # As everywhere in the field: detections may go on after the motion capture ended.
        pose_2d, confidence = pose_2d[: len(pose_3d)], None if confidence is None else confidence[: len(pose_3d)]
    return [complete(ref.name, sha256, stated, pose_2d, pose_3d, confidence)]


def _arrays(job: Job, ref: SequenceRef) -> tuple[NDArray[Any], NDArray[Any] | None, Stated]:
    """The 2D poses, the 3D poses, and what the file says."""
    subject, action, camera = ref.entry
    file = job.path_of(ref)
    pose_2d = _view(_positions(file, "positions_2d"), subject, action, int(camera), str(file))
    pose_3d = None
    if job.pose_3d is not None:
        other = Path(job.pose_3d)
        pose_3d = _view(_positions(other, "positions_3d"), subject, action, int(camera), str(other))
    return pose_2d, pose_3d, _stated(content_of(file).get("metadata"), pose_2d)


def _stated(metadata: Any, pose_2d: NDArray[Any]) -> Stated:
    if not isinstance(metadata, Mapping) or pose_2d.ndim != 3:
        return UNSTATED
    fitting = [
        name for name in stated_joints(metadata.get("layout_name")) if joint_set(name).joints == pose_2d.shape[1]
    ]
    return Stated(joints=fitting[0]) if len(fitting) == 1 else UNSTATED


def _positions(file: Path, name: str) -> dict[str, Any]:
    content = content_of(file)
    if name not in content:
        raise ArchiveError(f"{file} has no {name!r}; it holds: {', '.join(sorted(content))[:200]}")
    return _named(content[name], f"{file}, {name}")


def _named(entries: Any, where: str) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise ArchiveError(f"{where} is no dict subject -> action -> poses")
    return {str(key): value for key, value in entries.items()}


def _view(positions: dict[str, Any], subject: str, action: str, camera: int, where: str) -> NDArray[Any]:
    place = f"{where}, {subject} {action!r}, camera {camera}"
    views = _named(positions.get(subject, {}), f"{where}, {subject}").get(action)
    if views is None:
        raise ArchiveError(f"{place} is missing")
    if isinstance(views, np.ndarray) and views.dtype != object and views.ndim == 3:
        view: Any = views  # one array for all cameras
    elif isinstance(views, list | tuple | np.ndarray) and camera < len(views):
        view = views[camera]
    else:
        raise ArchiveError(f"{place} is missing; expected one array for each camera")
    if not isinstance(view, np.ndarray) or view.dtype.kind not in "fiu":
        kind = view.dtype if isinstance(view, np.ndarray) else type(view).__name__
        raise ArchiveError(f"{place} holds {kind}, expected an array of numbers")
    return view


def _frames(view: Any) -> int | None:
    return len(view) if isinstance(view, np.ndarray) and view.ndim else None
