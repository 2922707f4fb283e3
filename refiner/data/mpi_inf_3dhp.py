"""MPI-INF-3DHP's test set as it is published: six folders TS1 to TS6, each with an ``annot_data.mat`` (MATLAB v7.3).

Such a file is HDF5, which h5py reads (the extra ``3dhp``); MATLAB's order of the axes comes out reversed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import ArchiveError, LengthError, MissingComponentError, NonFiniteError, ShapeError, UsageError
from refiner.skeleton import MPI_INF_3DHP

# "annot3": as it was measured. "univ_annot3": every person scaled to the size of one skeleton, by which people of other
# heights are scored alike. Their errors are in different units, so a figure is nothing without the name.
Annotation = Literal["annot3", "univ_annot3"]
# Root mean square of what a lens may be off.
LARGEST_MISFIT_PX = 10.0
SEQUENCES = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
# Width and height in pixels: a studio camera, and in the last two another one outdoors.
IMAGE_SIZES = dict.fromkeys(SEQUENCES[:4], (2048, 2048)) | dict.fromkeys(SEQUENCES[4:], (1920, 1080))
FILE_NAME = "annot_data.mat"
MOST_FRAMES = 1_000_000


@dataclass(frozen=True, eq=False)
class Sequence3dhp:
    """One sequence in the joints of MPI-INF-3DHP (`refiner.skeleton.MPI_INF_3DHP`).

    ``pose_2d`` ``(F, 17, 2)`` pixels, ``pose_3d`` ``(F, 17, 3)`` metres in camera axes, both float32; ``valid``
    ``(F,)``: the frames that are scored; ``annotation`` says which of the two 3D poses these are.
    """

    name: str
    annotation: Annotation
    pose_2d: NDArray[np.float32] = field(repr=False)
    pose_3d: NDArray[np.float32] = field(repr=False)
    valid: NDArray[np.bool_] = field(repr=False)
    image_size: tuple[int, int]


def load_test_set(folder: str | os.PathLike[str], annotation: Annotation, partial: bool = False) -> list[Sequence3dhp]:
    """All six sequences of the folder that holds TS1 to TS6; with ``partial`` those that are there, at least one.

    Raises as `load_test_sequence`, and ArchiveError for missing ones."""
    root = Path(folder)
    missing = [name for name in SEQUENCES if not (root / name / FILE_NAME).is_file()]
    if missing and (not partial or len(missing) == len(SEQUENCES)):
        raise ArchiveError(
            f"{root} lacks {', '.join(f'{name}/{FILE_NAME}' for name in missing)}; expected MPI-INF-3DHP's test set, "
            "folders TS1 to TS6"
        )
    there = [name for name in SEQUENCES if name not in missing]
    return [load_test_sequence(root / name / FILE_NAME, annotation) for name in there]


def camera_of(sequence: Sequence3dhp) -> Camera:
    """The lens that took a sequence, which its files do not state: the one that takes its 3D poses to its 2D poses, by
    least squares.

    The principal point is part of it, distortion is not. ``annot3`` is met to half a pixel, ``univ_annot3``, whose
    people are scaled to one size, to five. Raises ArchiveError where no lens does.
    """
    points = sequence.pose_3d.reshape(-1, 3).astype(np.float64)
    pixels = sequence.pose_2d.reshape(-1, 2).astype(np.float64)
    if not (points[:, 2] > 0).all():
        raise ArchiveError(f"{sequence.name}: its 3D poses do not lie before a camera, so that its lens is not known")
    focal, centre, off = np.empty(2), np.empty(2), 0.0
    for axis in range(2):
        columns = np.stack([points[:, axis] / points[:, 2], np.ones(len(points))], axis=1)
        (focal[axis], centre[axis]), *_ = np.linalg.lstsq(columns, pixels[:, axis], rcond=None)
        off = max(off, float(np.sqrt(np.mean((columns @ (focal[axis], centre[axis]) - pixels[:, axis]) ** 2))))
    if off > LARGEST_MISFIT_PX or not (focal > 0).all():
        raise ArchiveError(f"{sequence.name}: no lens takes its 3D poses to its 2D poses; the best is {off:.0f} px off")
    width, height = sequence.image_size
    none = np.zeros(3)
    return Camera(sequence.name, width, height, focal, centre, none, none[:2], np.eye(3), none)


def load_test_sequence(path: str | os.PathLike[str], annotation: Annotation) -> Sequence3dhp:
    """One ``annot_data.mat``, whose folder names the sequence.

    Raises MissingComponentError without h5py, UsageError for another annotation, ArchiveError for another file, and
    ShapeError, LengthError or NonFiniteError for arrays that are not what they should be.
    """
    if annotation not in get_args(Annotation):
        raise UsageError(f"there is no annotation {annotation!r}; name one of {' or '.join(get_args(Annotation))}")
    file = Path(path)
    if file.parent.name not in SEQUENCES:
        raise ArchiveError(f"{file} lies in {file.parent.name!r}, expected one of {', '.join(SEQUENCES)}")
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading {file}, a MATLAB v7.3 file, needs h5py: pip install 'refiner[3dhp]'"
        ) from error
    try:
        with h5py.File(file, "r") as opened:
            arrays = {name: _numbers(opened, name, file) for name in ("annot2", annotation, "valid_frame")}
    except OSError as error:
        raise ArchiveError(
            f"{file} cannot be read as a MATLAB v7.3 file ({error}); is the download complete?"
        ) from error
    return sequence_of(file.parent.name, arrays, annotation, str(file))


def sequence_of(name: str, arrays: Mapping[str, NDArray[Any]], annotation: Annotation, where: str) -> Sequence3dhp:
    """The arrays of a file, axes as h5py gives them (``(F, 1, 17, 2 or 3)``, millimetres), as a sequence."""
    pose_2d = _poses(arrays["annot2"], 2, f"{where}, annot2")
    pose_3d = _poses(arrays[annotation], 3, f"{where}, {annotation}") / 1000.0
    valid = np.asarray(arrays["valid_frame"]).reshape(-1)
    if not len(pose_2d) == len(pose_3d) == len(valid):
        raise LengthError(
            f"{where}: annot2 has {len(pose_2d)} frames, {annotation} {len(pose_3d)}, valid_frame {len(valid)}"
        )
    if not np.isin(valid, (0, 1)).all():
        raise ArchiveError(f"{where}: valid_frame holds other numbers than 0 and 1")
    return Sequence3dhp(
        name,
        annotation,
        pose_2d.astype(np.float32),
        pose_3d.astype(np.float32),
        valid.astype(bool),
        IMAGE_SIZES[name],
    )


def _numbers(opened: Any, name: str, file: Path) -> NDArray[Any]:
    """One array of an open file, its size checked before it is read."""
    entry = opened.get(name)
    shape, kind = getattr(entry, "shape", None), getattr(getattr(entry, "dtype", None), "kind", None)
    if shape is None or kind not in ("f", "i", "u", "b"):
        found = ", ".join(sorted(opened.keys()))
        raise ArchiveError(f"{file} has no array of numbers {name!r}; it holds: {found}")
    if int(np.prod(shape, dtype=np.float64)) > MOST_FRAMES * MPI_INF_3DHP.joints * 3:
        raise ArchiveError(f"{file}: {name} has the shape {shape}, more than a sequence can be")
    return np.asarray(entry[()])


def _poses(values: NDArray[Any], coordinates: int, where: str) -> NDArray[np.float64]:
    poses = np.asarray(values, dtype=np.float64)
    if poses.ndim == 4 and poses.shape[1] == 1:
        poses = poses[:, 0]
    if poses.shape[1:] != (MPI_INF_3DHP.joints, coordinates):
        raise ShapeError(
            f"{where} has shape {values.shape}, expected (frames, 1, {MPI_INF_3DHP.joints}, {coordinates})"
        )
    if not np.isfinite(poses).all():
        raise NonFiniteError(f"{where} holds NaN or infinite values")
    return poses
