"""Reading of ``data_test_3dhp.npz`` and ``data_train_3dhp.npz``, the form of MPI-INF-3DHP that lifters use.

P-STMO's scripts ``data_to_npz_3dhp*.py`` write them, and STCFormer, D3DP and others read them. Both files hold
one dictionary ``data``, with 2D poses in pixels and the poses ``univ_annot3`` in millimetres and camera axes::

    test      "TS1" -> {"data_2d": (F, 17, 2), "data_3d": (F, 17, 3), "valid": (F,)}
    training  "S1 Seq1" -> [{"0": {"data_2d": (F, 17, 2), "data_3d": (F, 17, 3)}, ...one a camera}, frames/s]

The scripts choose the 17 joints of the test annotations (`refiner.skeleton.MPI_INF_3DHP`). The files state neither
the joints nor the unit nor the size of the images, so that the reader checks what can be checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.inputs import HIGHEST_FPS, LARGEST_NORMALISED, LOWEST_FPS, USUAL_SHARE
from refiner.data.mpi_inf_3dhp import SEQUENCES, Sequence3dhp, sequence_of
from refiner.data.safe_npz import load_npz
from refiner.errors import ArchiveError, InputError, JointCountError, LengthError, NonFiniteError, UnitError
from refiner.skeleton import MPI_INF_3DHP

# All cameras of the training set have images of this size.
TRAINING_IMAGE_SIZE = (2048, 2048)
LIMBS = ("elbow", "wrist", "knee", "ankle")
# The left and the right limbs of a person have about the same length: the largest difference, as a share of the mean.
LARGEST_DIFFERENCE = 0.25
# Hip to knee to ankle, metres.
SHORTEST_LEG_M, LONGEST_LEG_M = 0.3, 2.0


@dataclass(frozen=True, eq=False)
class TrainingSequence3dhp:
    """One sequence of the training set by one camera, in the joints of MPI-INF-3DHP.

    Attributes:
        subject: "S1" to "S8".
        name: "Seq1" or "Seq2".
        camera: The number of the camera, as text.
        pose_2d: ``(F, 17, 2)`` float32, in pixels.
        pose_3d: ``(F, 17, 3)`` float32, in metres and camera axes; every subject has the size of one skeleton.
        fps: The frame rate, frames/s.
        image_size: (width, height) in pixels.
    """

    subject: str
    name: str
    camera: str
    pose_2d: NDArray[np.float32] = field(repr=False)
    pose_3d: NDArray[np.float32] = field(repr=False)
    fps: float
    image_size: tuple[int, int] = TRAINING_IMAGE_SIZE


def is_3dhp(content: Mapping[str, Any]) -> bool:
    """Whether the arrays of an .npz file are those of ``data_test_3dhp.npz`` or ``data_train_3dhp.npz``."""
    entries = content.get("data")
    if not isinstance(entries, dict) or not entries:
        return False
    return all(_is_test(entry) or _is_training(entry) for entry in entries.values())


def holds_test_set(content: Mapping[str, Any]) -> bool:
    """Whether the arrays are those of ``data_test_3dhp.npz``."""
    entries = content.get("data")
    return isinstance(entries, dict) and bool(entries) and all(_is_test(entry) for entry in entries.values())


def read_test(content: Mapping[str, Any], file: Path) -> list[Sequence3dhp]:
    """Read the arrays of ``data_test_3dhp.npz``: the sequences that it holds, in the order of their names.

    Raises:
        ArchiveError: These are the arrays of another file.
        InputError: A sequence cannot be used; the message names it.
    """
    entries = _entries(content, file)
    if any(_is_training(entry) for entry in entries.values()):
        raise ArchiveError(f"{file} holds the training set of MPI-INF-3DHP; expected data_test_3dhp.npz")
    unknown = sorted(set(entries) - set(SEQUENCES))
    if unknown:
        raise ArchiveError(f"{file} holds the sequence {unknown[0]!r}; expected some of {', '.join(SEQUENCES)}")
    found = []
    for name in sorted(entries):
        where = f"{file}, {name}"
        pose_2d, pose_3d = _pair(entries[name], where)
        arrays = {"annot2": pose_2d, "univ_annot3": pose_3d, "valid_frame": _numbers(entries[name], "valid", where)}
        found.append(sequence_of(name, arrays, "univ_annot3", where))
    return found


def load_training_npz(path: str | os.PathLike[str]) -> list[TrainingSequence3dhp]:
    """Read ``data_train_3dhp.npz``: one sequence for each subject, sequence and camera.

    Raises:
        ArchiveError: The file is no such file.
        InputError: A sequence cannot be used; the message names it.
    """
    file = Path(path)
    return read_training(load_npz(file), file)


def read_training(content: Mapping[str, Any], file: Path) -> list[TrainingSequence3dhp]:
    """Read the arrays of ``data_train_3dhp.npz``; see `load_training_npz`."""
    found = []
    for key, entry in _entries(content, file).items():
        if not _is_training(entry):
            raise ArchiveError(f"{file}, {key}: expected a list of cameras and a frame rate, as in data_train_3dhp.npz")
        words = key.split()
        if len(words) != 2:
            raise ArchiveError(f"{file} holds {key!r}; expected keys like 'S1 Seq1'")
        fps = _fps(entry[1], f"{file}, {key}")
        for camera, arrays in entry[0].items():
            pose_2d, pose_3d = _pair(arrays, f"{file}, {key}, camera {camera}")
            seen, metres = pose_2d.astype(np.float32), (pose_3d / 1000.0).astype(np.float32)
            found.append(TrainingSequence3dhp(words[0], words[1], str(camera), seen, metres, fps))
    return found


def _entries(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    if not is_3dhp(content):
        raise ArchiveError(
            f"{file} holds {', '.join(content) or 'nothing'}; expected 'data' with the sequences of MPI-INF-3DHP, as "
            "P-STMO's scripts write data_test_3dhp.npz and data_train_3dhp.npz"
        )
    return {str(key): entry for key, entry in content["data"].items()}


def _is_test(entry: object) -> bool:
    return isinstance(entry, dict) and {"data_2d", "data_3d", "valid"} <= set(entry)


def _is_training(entry: object) -> bool:
    if isinstance(entry, np.ndarray):
        entry = list(entry) if entry.shape == (2,) else None
    return (
        isinstance(entry, (list, tuple))
        and len(entry) == 2
        and isinstance(entry[0], dict)
        and bool(entry[0])
        and all(isinstance(arrays, dict) and {"data_2d", "data_3d"} <= set(arrays) for arrays in entry[0].values())
    )


def _pair(arrays: Mapping[str, Any], where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The poses of one camera, ``(F, 17, 2)`` in pixels and ``(F, 17, 3)`` in millimetres.

    Raises InputError if they cannot be the poses of MPI-INF-3DHP.
    """
    pose_2d, pose_3d = _numbers(arrays, "data_2d", where), _numbers(arrays, "data_3d", where)
    for name, poses, coordinates in (("data_2d", pose_2d, 2), ("data_3d", pose_3d, 3)):
        if poses.ndim != 3 or poses.shape[1:] != (MPI_INF_3DHP.joints, coordinates) or not len(poses):
            raise JointCountError(
                f"{where}: {name} has shape {poses.shape}, expected (frames, {MPI_INF_3DHP.joints}, {coordinates})"
            )
    if len(pose_2d) != len(pose_3d):
        raise LengthError(f"{where}: data_2d has {len(pose_2d)} frames and data_3d {len(pose_3d)}")
    usual = float(np.quantile(np.abs(pose_2d), USUAL_SHARE))
    if usual <= LARGEST_NORMALISED:
        raise UnitError(f"{where}: data_2d lies within {usual:.2f} of 0, which looks normalised; expected pixels")
    _check_limbs(pose_3d / 1000.0, where)
    return pose_2d, pose_3d


def _check_limbs(metres: NDArray[np.float64], where: str) -> None:
    """Raises InputError if the limbs are not a person's: another unit, or another order of the joints."""
    lengths = {}
    for name in (f"{side}_{part}" for side in ("left", "right") for part in LIMBS):
        joint = MPI_INF_3DHP.joint_names.index(name)
        with np.errstate(invalid="ignore", over="ignore"):
            bone = np.linalg.norm(metres[:, joint] - metres[:, MPI_INF_3DHP.parents[joint]], axis=-1)
        lengths[name] = float(np.median(bone))
    if not np.isfinite(list(lengths.values())).all():
        raise NonFiniteError(f"{where}: data_3d holds NaN or infinite values")
    for part in LIMBS:
        left, right = lengths[f"left_{part}"], lengths[f"right_{part}"]
        if abs(left - right) > LARGEST_DIFFERENCE * (left + right) / 2.0:
            raise InputError(
                f"{where}: data_3d has limbs of different lengths (to the {part}: {1000 * left:.0f} and "
                f"{1000 * right:.0f} mm); expected the 17 joints of MPI-INF-3DHP's test set in their order"
            )
    leg = lengths["left_knee"] + lengths["left_ankle"]
    if not SHORTEST_LEG_M < leg < LONGEST_LEG_M:
        raise UnitError(f"{where}: data_3d has legs of {1000 * leg:.3g}; expected millimetres, about 900")


def _numbers(arrays: Mapping[str, Any], name: str, where: str) -> NDArray[np.float64]:
    values = arrays[name]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ArchiveError(f"{where}: {name} holds {kind}, expected an array of numbers")
    return values.astype(np.float64)


def _fps(value: object, where: str) -> float:
    usable = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not usable or not LOWEST_FPS <= float(value) <= HIGHEST_FPS:  # type: ignore[arg-type]
        raise ArchiveError(f"{where}: the frame rate is {value!r}, expected frames per second")
    return float(value)  # type: ignore[arg-type]
