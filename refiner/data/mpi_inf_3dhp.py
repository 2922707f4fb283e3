"""Reading of MPI-INF-3DHP's published test set: six folders TS1 to TS6, each with an ``annot_data.mat`` (MATLAB v7.3).

Such a file is an HDF5 file, which h5py reads (the extra ``3dhp``). The order of the axes is the reverse of MATLAB's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import ArchiveError, LengthError, MissingComponentError, NonFiniteError, ShapeError, UsageError
from refiner.skeleton import MPI_INF_3DHP

# "annot3": the measured poses. "univ_annot3": every subject is scaled to the size of one skeleton, so that subjects of
# different heights have comparable errors. The errors of the two annotations are in different units, so every figure
# must name its annotation.
Annotation = Literal["annot3", "univ_annot3"]
# The largest accepted root mean square error of a fitted lens.
LARGEST_MISFIT_PX = 10.0
SEQUENCES = ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
# Width and height in pixels. TS1 to TS4 have a studio camera; TS5 and TS6 have another camera, outdoors.
IMAGE_SIZES = dict.fromkeys(SEQUENCES[:4], (2048, 2048)) | dict.fromkeys(SEQUENCES[4:], (1920, 1080))
FILE_NAME = "annot_data.mat"
MOST_FRAMES = 1_000_000


@dataclass(frozen=True, eq=False)
class Sequence3dhp:
    """One sequence in the joints of MPI-INF-3DHP (`refiner.skeleton.MPI_INF_3DHP`).

    Attributes:
        name: "TS1" to "TS6".
        annotation: The annotation that ``pose_3d`` comes from.
        pose_2d: ``(F, 17, 2)`` float32, in pixels.
        pose_3d: ``(F, 17, 3)`` float32, in metres and camera axes.
        valid: ``(F,)``, true for the frames that are scored.
        image_size: (width, height) in pixels.
    """

    name: str
    annotation: Annotation
    pose_2d: NDArray[np.float32] = field(repr=False)
    pose_3d: NDArray[np.float32] = field(repr=False)
    valid: NDArray[np.bool_] = field(repr=False)
    image_size: tuple[int, int]


def load_test_set(
    folder: str | os.PathLike[str],
    annotation: Annotation,
    partial: bool = False,
    sequences: Collection[str] = SEQUENCES,
) -> list[Sequence3dhp]:
    """Read sequences of the test set, by default all six.

    Args:
        folder: The folder that holds TS1 to TS6, or the file ``data_test_3dhp.npz``, which has "univ_annot3" alone.
        annotation: The annotation of the 3D poses.
        partial: Read the existing sequences only, at least one, instead of requiring them all.
        sequences: The names of the wanted sequences. They are read in the order of `SEQUENCES`.

    Raises:
        UsageError: A name is unknown, or there is no name.
        ArchiveError: A sequence is missing. `load_test_sequence` raises further errors.
    """
    root = Path(folder)
    unknown = sorted(set(sequences) - set(SEQUENCES))
    if unknown or not sequences:
        found = ", ".join(unknown) or "none"
        raise UsageError(f"the named sequences are {found}; expected some of {', '.join(SEQUENCES)}")
    wanted = [name for name in SEQUENCES if name in sequences]
    if root.is_file():
        return _of_npz(root, annotation, partial, wanted)
    missing = [name for name in wanted if not (root / name / FILE_NAME).is_file()]
    if missing and (not partial or len(missing) == len(wanted)):
        raise ArchiveError(
            f"{root} lacks {', '.join(f'{name}/{FILE_NAME}' for name in missing)}; expected MPI-INF-3DHP's test set, "
            "folders TS1 to TS6"
        )
    names = [name for name in wanted if name not in missing]
    return [load_test_sequence(root / name / FILE_NAME, annotation) for name in names]


def _of_npz(file: Path, annotation: Annotation, partial: bool, wanted: Collection[str]) -> list[Sequence3dhp]:
    from refiner.data.mpi_inf_3dhp_npz import read_test
    from refiner.data.safe_npz import load_npz

    sequences = [sequence for sequence in read_test(load_npz(file), file) if sequence.name in wanted]
    if annotation != "univ_annot3":
        raise UsageError(
            f"{file} holds univ_annot3, not {annotation}: name univ_annot3, or take the folders TS1 to TS6"
        )
    missing = [name for name in wanted if name not in {sequence.name for sequence in sequences}]
    if missing and not partial:
        raise ArchiveError(f"{file} lacks {', '.join(missing)}; expected all of {', '.join(wanted)}")
    return sequences


def camera_of(sequence: Sequence3dhp) -> Camera:
    """Fit the lens of a sequence, which its files do not state, to its 3D and 2D poses by least squares.

    The fit has focal lengths and a principal point, but no distortion. The root mean square error is half a pixel for
    ``annot3``, and five pixels for ``univ_annot3``, whose subjects are scaled to one size.

    Raises ArchiveError if no lens fits.
    """
    points = sequence.pose_3d.reshape(-1, 3).astype(np.float64)
    pixels = sequence.pose_2d.reshape(-1, 2).astype(np.float64)
    if not (points[:, 2] > 0).all():
        raise ArchiveError(f"{sequence.name}: its 3D poses do not lie before a camera, so that its lens is not known")
    focal, centre, misfit = np.empty(2), np.empty(2), 0.0
    for axis in range(2):
        columns = np.stack([points[:, axis] / points[:, 2], np.ones(len(points))], axis=1)
        (focal[axis], centre[axis]), *_ = np.linalg.lstsq(columns, pixels[:, axis], rcond=None)
        misfit = max(misfit, float(np.sqrt(np.mean((columns @ (focal[axis], centre[axis]) - pixels[:, axis]) ** 2))))
    if misfit > LARGEST_MISFIT_PX or not (focal > 0).all():
        raise ArchiveError(
            f"{sequence.name}: no lens takes its 3D poses to its 2D poses; the best lens is {misfit:.0f} px off"
        )
    width, height = sequence.image_size
    zeros = np.zeros(3)
    return Camera(sequence.name, width, height, focal, centre, zeros, zeros[:2], np.eye(3), zeros)


def load_test_sequence(path: str | os.PathLike[str], annotation: Annotation) -> Sequence3dhp:
    """Read one ``annot_data.mat``. The name of its folder is the name of the sequence.

    Raises:
        MissingComponentError: h5py is not installed.
        UsageError: The annotation is unknown.
        ArchiveError: The file cannot be read or has another layout.
        ShapeError, LengthError, NonFiniteError: An array of the file cannot be used.
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
            f"reading {file}, a MATLAB v7.3 file, needs h5py: pip install 'pose-refiner[3dhp]'"
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
    """Make a sequence from the arrays of a file.

    Args:
        name: The name of the sequence, "TS1" to "TS6".
        arrays: The arrays in h5py's order of axes: ``annot2`` ``(F, 1, 17, 2)`` in pixels, the annotation
            ``(F, 1, 17, 3)`` in millimetres, and ``valid_frame`` with F values.
        annotation: The name of the 3D annotation in ``arrays``.
        where: The name of the file, for messages.

    Raises:
        ShapeError, LengthError, NonFiniteError, ArchiveError: An array cannot be used.
    """
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
    """Read one array of an open HDF5 file. Its size is checked before it is read."""
    entry = opened.get(name)
    shape, kind = getattr(entry, "shape", None), getattr(getattr(entry, "dtype", None), "kind", None)
    if shape is None or kind not in ("f", "i", "u", "b"):
        names = ", ".join(sorted(opened.keys()))
        raise ArchiveError(f"{file} has no array of numbers {name!r}; it holds: {names}")
    if int(np.prod(shape, dtype=np.float64)) > MOST_FRAMES * MPI_INF_3DHP.joints * 3:
        raise ArchiveError(f"{file}: {name} has the shape {shape}, which is too large for a sequence")
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
