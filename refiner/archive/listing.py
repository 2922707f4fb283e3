"""What an archive holds: a folder of files, an .npz file in the field's layout, or a Parquet file."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from refiner.archive import array_files, detector_files, field_layout, parquet_files
from refiner.archive.job import Job
from refiner.archive.npz_content import content_of
from refiner.archive.sequences import SequenceRef
from refiner.archive.statements import FILE, Statements
from refiner.errors import ArchiveError, MissingComponentError
from refiner.formats.openpose import FRAME_FILE
from refiner.formats.videopose3d import is_custom

# Other files are left out. Videos are detected first (refiner-refine VIDEO).
SUFFIXES = (".npz", ".npy", ".json", ".parquet")


def is_archive(path: Path, video: str | None = None) -> bool:
    """Whether ``refiner-refine INPUT`` is an archive, and not one detector's file.

    An archive is a folder of files that are no frames of OpenPose, a Parquet file, and an .npz file whose 2D poses are
    ordered by subject and action, or that has those of several videos where nobody chose one.

    Args:
        path: of the input.
        video: the video that the user chose.
    """
    if path.is_dir():
        names = sorted(os.listdir(path))
        if any(FRAME_FILE.fullmatch(name) for name in names):
            return False
        return any(True for _ in _files(path, None))
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        magic = opened.read(4)
    if magic == b"PAR1":
        return True
    if magic[:2] != b"PK" or "positions_2d" not in _members(path):
        return False
    content = content_of(path)
    return not is_custom(content) or (video is None and len(content["positions_2d"]) > 1)


def list_archive(job: Job) -> list[SequenceRef]:
    """The sequences of an archive, sorted by name.

    A file that cannot be read is in the list, and fails when it is read.

    Raises:
        ArchiveError: there is nothing, or the archive is one file that cannot be read.
        MissingComponentError: Parquet files, and no package that reads them.
    """
    root = Path(job.archive)
    if root.is_dir():
        refs = _of_folder(root, Path(job.output))
        statements = Statements(root / FILE)
        if not refs:
            raise ArchiveError(f"{root} holds no {', '.join(SUFFIXES)} files")
    else:
        refs = _of_file(root, "", "")
        statements = Statements(root.with_suffix("." + FILE))
    if job.pose_3d is not None and any(ref.kind != "field" for ref in refs):
        raise ArchiveError("a file of 3D poses goes with one archive in the field's layout (positions_2d) alone")
    refs = [replace(ref, stated=statements.of(ref.name)) for ref in refs]
    return sorted(refs, key=lambda ref: ref.name)


def _of_folder(root: Path, output: Path) -> list[SequenceRef]:
    """The sequences of all files below a folder, with names that differ."""
    found: list[tuple[str, str, list[SequenceRef]]] = []
    for path in _files(root, output):
        file = path.relative_to(root).as_posix()
        if file == FILE:
            continue
        plain = _name(path, root)
        try:
            refs = _of_file(path, file, plain)
        except (MissingComponentError, MemoryError):
            raise
        except Exception:  # see `_members`
            refs = [SequenceRef(plain, _kind_of_broken(path), file, weight=_size(path) // array_files.USUAL_BYTES)]
        found.append((plain, file, refs))
    # Two files that differ in their suffix alone keep it.
    count = Counter(plain for plain, _, _ in found)
    refs = [
        ref if count[plain] == 1 else replace(ref, name=file + ref.name.removeprefix(plain))
        for plain, file, refs in found
        for ref in refs
    ]
    twice = [name for name, number in Counter(ref.name for ref in refs).items() if number > 1]
    if twice:
        raise ArchiveError(f"{root} holds several sequences of the name {twice[0]!r}; rename their files")
    return refs


def _files(root: Path, output: Path | None) -> Iterator[Path]:
    """The files of an archive, and its folders of OpenPose's frames, in order."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != output)
        frames = [name for name in names if FRAME_FILE.fullmatch(name)]
        if frames:
            yield here
        for name in sorted(set(names) - set(frames)):
            file = here / name
            if name.startswith(".") or file.suffix.lower() not in SUFFIXES:
                continue
            if file.suffix.lower() != ".npy" or not _goes_with_another(name, names):
                yield file


def _goes_with_another(name: str, names: list[str]) -> bool:
    """Whether an .npy file holds the 3D poses or the confidence of a sequence whose 2D poses lie beside it."""
    return any(
        name == f"{beginning}{part}.npy"
        for part in ("pose_3d", "confidence")
        for beginning in [name.removesuffix(f"{part}.npy")]
        if f"{beginning}pose_2d.npy" in names
    )


def _name(path: Path, root: Path) -> str:
    """The name of the sequence, or of all sequences, in a file: its path without the suffix."""
    relative = path.relative_to(root)
    pose_file = array_files.POSE_FILE.fullmatch(path.name)
    if pose_file is None:
        whole = relative if path.is_dir() else relative.with_suffix("")
    elif pose_file["name"] is not None:
        whole = relative.with_name(pose_file["name"])
    else:  # pose_2d.npy in a folder of its own
        whole = relative.parent if relative.parent.name else relative.with_suffix("")
    return whole.as_posix() if whole.name else root.name


def _of_file(path: Path, file: str, name: str) -> list[SequenceRef]:
    """The sequences of one file. Raises RefinerError or OSError where it must be read for that and cannot."""
    if path.is_dir():
        frames = sum(1 for entry in os.listdir(path) if FRAME_FILE.fullmatch(entry))
        return [SequenceRef(name, "detector", file, frames=frames, weight=frames)]
    if not path.is_file():  # a pipe would let the reader wait for ever
        raise ArchiveError(f"{path} is not a regular file")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return [SequenceRef(name, "detector", file, weight=_size(path) // detector_files.USUAL_BYTES)]
    if suffix == ".npy":
        return [_array_ref(path, file, name, array_files.frames_in(path))]
    with path.open("rb") as opened:
        magic = opened.read(4)
    if magic == b"PAR1" or suffix == ".parquet":
        return [
            SequenceRef(_below(name, entry[0]), "parquet", file, entry, rows, rows)
            for entry, rows in parquet_files.entries_of(path)
        ]
    members = _members(path)
    if "pose_2d" in members:
        return [_array_ref(path, file, name, array_files.frames_in(path, "pose_2d.npy"))]
    if "positions_2d" in members and not is_custom(content_of(path)):
        return [
            SequenceRef(_below(name, "/".join(entry)), "field", file, entry, frames, frames or 0)
            for entry, frames in field_layout.entries_of(path)
        ]
    if not members & {"positions_2d", "data"}:
        return [_array_ref(path, file, name, None)]  # it will say what it holds
    videos = detector_files.videos_of(path)
    weight = _size(path) // (17 * 2 * 8 * max(len(videos), 1))
    if len(videos) == 1:
        return [SequenceRef(name, "detector", file, (videos[0],), weight=weight)]
    return [SequenceRef(_below(name, video), "detector", file, (video,), weight=weight) for video in videos]


def _array_ref(path: Path, file: str, name: str, frames: int | None) -> SequenceRef:
    weight = frames if frames is not None else _size(path) // array_files.USUAL_BYTES
    return SequenceRef(name, "arrays", file, frames=frames, weight=weight)


def _kind_of_broken(path: Path) -> str:
    """The reader whose error says what is wrong with a file that cannot be listed."""
    if path.is_dir() or path.suffix.lower() == ".json":
        return "detector"
    return "arrays"


def _below(name: str, entry: str) -> str:
    return f"{name}/{entry}" if name else entry


def _members(file: Path) -> set[str]:
    """The names of the arrays in an .npz file; empty where it is none."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except Exception:  # libraries stumble over damage in many ways; the reader of the sequence says what is wrong
        return set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
