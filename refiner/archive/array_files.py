"""Sequences in .npz and .npy files: ``pose_2d``, and what goes with it."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from refiner.archive.job import Job
from refiner.archive.sequences import Sequence, SequenceRef
from refiner.archive.statements import complete, stated_by
from refiner.data.safe_npz import load_npz, load_user_array
from refiner.errors import ArchiveError
from refiner.files import sha256_of
from refiner.skeleton import H36M17

# pose_2d.npy in a folder of its own, or NAME.pose_2d.npy, NAME_pose_2d.npy and NAME-pose_2d.npy.
POSE_FILE = re.compile(r"(?:(?P<name>.+)[._-])?pose_2d\.npy", re.IGNORECASE)
# Bytes of a frame of 17 joints in 2D and 3D, where the file does not tell how many frames it has.
USUAL_BYTES = 17 * 5 * 4


def frames_in(file: Path, member: str | None = None) -> int | None:
    """The number of frames of an array, from the header of its .npy file or .npz member; None where that is damaged."""
    try:
        if member is None:
            with file.open("rb") as opened:
                return _frames(opened)
        with zipfile.ZipFile(file) as archive, archive.open(member) as opened:
            return _frames(opened)
    except Exception:  # libraries stumble over damage in many ways; the reader of the sequence says what is wrong
        return None


def parts_of(file: Path) -> dict[str, Path]:
    """The .npy files of the sequence whose 2D poses are in ``file``, by what they hold; those that exist."""
    beginning = file.name[: -len("pose_2d.npy")]
    others = {name: file.with_name(f"{beginning}{name}.npy") for name in ("pose_3d", "confidence")}
    return {"pose_2d": file, **{name: other for name, other in others.items() if other.exists()}}


def identity(job: Job, ref: SequenceRef) -> str:
    """The hash of the file, or of all files of a sequence in .npy files.

    Raises:
        OSError: a file cannot be read.
    """
    file = job.path_of(ref)
    if file.suffix.lower() != ".npy":
        return sha256_of(file)
    digest = hashlib.sha256()
    for part in parts_of(file).values() if POSE_FILE.fullmatch(file.name) else [file]:
        digest.update(f"{part.name} {sha256_of(part)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def load(job: Job, ref: SequenceRef, sha256: str) -> list[Sequence]:
    """Read a sequence.

    Raises:
        InputError: the file is damaged or holds no sequence, or something about it is not known.
    """
    file = job.path_of(ref)
    if file.suffix.lower() == ".npy":
        return [_from_npy(job, ref, sha256, file)]
    arrays = load_npz(file)
    if "pose_2d" not in arrays:
        raise ArchiveError(f"{file} holds {', '.join(sorted(arrays))[:200]}; expected pose_2d")
    stated = stated_by(arrays, str(file))
    pose_3d = arrays.get("pose_3d")
    if pose_3d is None and "lifted_pose_3d" in arrays:
        # A file of refiner-refine: the lifted poses have Human3.6M's joints, whatever the detector's are.
        pose_3d = arrays["lifted_pose_3d"]
        stated = stated_by({"joints_3d": H36M17.name}, "").or_else(stated)
    first = arrays.get("first_frame")
    return [
        complete(
            ref.name,
            sha256,
            stated.or_else(ref.stated).or_else(job.stated),
            _numbers(arrays["pose_2d"], f"{file}, pose_2d"),
            None if pose_3d is None else _numbers(pose_3d, f"{file}, pose_3d"),
            None if arrays.get("confidence") is None else _numbers(arrays["confidence"], f"{file}, confidence"),
            0 if first is None else int(_numbers(first, f"{file}, first_frame").reshape(())),
        )
    ]


def _from_npy(job: Job, ref: SequenceRef, sha256: str, file: Path) -> Sequence:
    if POSE_FILE.fullmatch(file.name) is None:
        raise ArchiveError(f"{file} is no part of a sequence; expected NAME.pose_2d.npy, with NAME.pose_3d.npy beside")
    loaded = {name: load_user_array(part) for name, part in parts_of(file).items()}
    return complete(
        ref.name,
        sha256,
        ref.stated.or_else(job.stated),
        loaded["pose_2d"],
        loaded.get("pose_3d"),
        loaded.get("confidence"),
    )


def _numbers(values: Any, where: str) -> NDArray[Any]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise ArchiveError(f"{where} holds {kind}, expected an array of numbers")
    return values


def _frames(opened: Any) -> int | None:
    version = npy_format.read_magic(opened)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape = read(opened, max_header_size=10_000)[0]
    return int(shape[0]) if shape else None
