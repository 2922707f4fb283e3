"""The files of a folder of motion: its archives, their cameras and their detections."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from refiner.camera import Camera, human36m_cameras, load_cameras
from refiner.data.archives import Detections, Positions3D, load_positions_2d, load_positions_3d
from refiner.data.description import FolderDescription
from refiner.data.layouts import check_layout
from refiner.errors import ArchiveError, InputWarning, JointCountError, UsageError
from refiner.skeleton import H36M17

Cameras = Sequence[Camera] | Mapping[str, Sequence[Camera]]
# "own": the folder's cameras.json. "human36m": Human3.6M's cameras of each subject. "default": Human3.6M's cameras of
# S1, because the folder has none. "random": no fixed cameras, so that only random cameras see the archive.
CameraSource = Literal["own", "human36m", "default", "random"]
SIMULATED = "simulated"
ARCHIVE_PREFIX = "data_3d_"
DETECTIONS_PREFIX = "data_2d_"
# VideoPose3D's folder holds the files of HumanEva beside those of Human3.6M.
HUMAN36M_DETECTIONS = f"{DETECTIONS_PREFIX}h36m_"


@dataclass(frozen=True, eq=False)
class ArchiveFile:
    """One archive ``data_3d_*.npz`` and its use.

    Attributes:
        name: The file name.
        positions: The 3D poses of the archive.
        cameras: The fixed cameras; empty for an archive that only random cameras see (``source`` "random").
        source: Where the cameras come from.
        weight: How often training draws its frames, relative to other archives.
        detections: The name of the file with real detections of its subjects; "" if there is none.
        fps_stated: Whether the folder states a frame rate.
    """

    name: str
    positions: Positions3D = field(repr=False)
    cameras: Cameras = field(repr=False)
    source: CameraSource
    weight: float = 1.0
    detections: str = ""
    fps_stated: bool = True

    @property
    def people(self) -> tuple[str, ...]:
        """The subjects of the archive."""
        return tuple(self.positions)

    def cameras_of(self, person: str) -> Sequence[Camera] | None:
        """Return the fixed cameras of a subject.

        The result is empty for an archive without fixed cameras, and None if the cameras of this subject are missing.
        """
        return self.cameras.get(person) if isinstance(self.cameras, Mapping) else self.cameras


def archive_files(root: Path, description: FolderDescription, dataset: str | None = None) -> list[ArchiveFile]:
    """Read every archive ``data_3d_*.npz`` of a folder, in the order of their names.

    The cameras of an archive come from cameras.json. Without this file they are Human3.6M's: for
    ``dataset="human36m"`` the cameras of each subject, otherwise the cameras of S1. An archive has no fixed cameras if
    the description says so, or if its name ends with ``_free``.

    Args:
        root: The folder.
        description: The content of its clips.json.
        dataset: "human36m" or None.

    Raises:
        ArchiveError: There is no folder or no archive, or the description names a missing archive.
        JointCountError: An archive has other joints. With a ``dataset``, another archive is left out with an
            `InputWarning`: VideoPose3D's folder holds HumanEva's poses beside Human3.6M's.
    """
    if not root.is_dir():
        raise ArchiveError(f"there is no folder {root}; expected one with a {ARCHIVE_PREFIX}*.npz")
    paths = sorted(root.glob(f"{ARCHIVE_PREFIX}*.npz"))
    if not paths:
        raise ArchiveError(f"{root} should hold one {ARCHIVE_PREFIX}*.npz or several; found none")
    unknown = sorted(set(description.archives) - {path.name for path in paths})
    if unknown:
        names = ", ".join(path.name for path in paths)
        raise ArchiveError(f"{root / 'clips.json'} tells of {', '.join(unknown)}, which is not there; found {names}")
    file = root / "cameras.json"
    own_cameras = load_cameras(file) if file.exists() else None
    archives = []
    for path in paths:
        use = description.use_of(path.name)
        try:
            positions = load_positions_3d(path)
        except JointCountError as error:
            if dataset is None or len(paths) == 1:
                raise
            warnings.warn(f"{path.name} is left out: {error}; {dataset} does not need it", InputWarning, stacklevel=3)
            continue
        cameras: Cameras
        source: CameraSource
        if use.random_cameras:
            cameras, source = (), "random"
        elif own_cameras is not None:
            cameras, source = own_cameras, "own"
        elif dataset == "human36m":
            cameras, source = {person: human36m_cameras(person) for person in _of_human36m(positions)}, "human36m"
        else:
            cameras, source = human36m_cameras(), "default"
        archives.append(
            ArchiveFile(path.name, positions, cameras, source, use.weight, fps_stated=description.fps is not None)
        )
    return archives


def cameras_of(cameras: Cameras, subject: str) -> Sequence[Camera]:
    """Return the cameras of one subject. Raises ArchiveError if there are none."""
    if isinstance(cameras, Mapping) and subject not in cameras:
        raise ArchiveError(f"there are no cameras for {subject!r}; there are for: {', '.join(cameras)}")
    views = cameras[subject] if isinstance(cameras, Mapping) else cameras
    if not views:
        raise ArchiveError(
            f"{subject} has no fixed cameras: the archive is for random cameras (refiner-evaluate --cameras random)"
        )
    return views


def main_archive(archives: Sequence[ArchiveFile], split: Collection[str], where: str) -> ArchiveFile:
    """Return the archive that holds all subjects of the split.

    Args:
        archives: The archives of the folder.
        split: All subjects of the split.
        where: The name of the split, for messages.

    Raises:
        ArchiveError: No archive holds all subjects. If there is one archive, the message names the missing subjects.
    """
    complete = [archive for archive in archives if set(split) <= set(archive.positions)]
    if complete:
        return complete[0]
    if len(archives) == 1:
        missing = [person for person in split if person not in archives[0].positions]
        raise ArchiveError(f"{archives[0].name} lacks {', '.join(missing)} of the split of {where}")
    names = ", ".join(archive.name for archive in archives)
    raise ArchiveError(
        f"one archive should hold everybody of the split of {where} ({', '.join(split)}); none of {names} does"
    )


def detections_file(root: Path, name: str | None, dataset: str | None = None) -> Path | None:
    """Find the file ``data_2d_*.npz`` with the detections of a folder.

    Args:
        root: The folder.
        name: The file name, the part of the name after ``data_2d_``, or a path. None: the only such file; ground truth
            (``*_gt.npz``) does not count. "simulated": no file.
        dataset: "human36m": where files ``data_2d_h36m_*.npz`` are there, only these count.

    Returns:
        The file; None if there is none, or for "simulated".

    Raises:
        UsageError: ``name`` is None and there are several files.
        ArchiveError: There is no file of this name.
    """
    if name == SIMULATED:
        return None
    if name is None:
        # Ground truth in 2D is not a detection, and it is the same as the projection.
        paths = [path for path in sorted(root.glob(f"{DETECTIONS_PREFIX}*.npz")) if not path.stem.endswith("_gt")]
        if dataset == "human36m":
            paths = [path for path in paths if path.name.startswith(HUMAN36M_DETECTIONS)] or paths
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise UsageError(f"{root} holds detections of several detectors ({names}); name one, or 'simulated'")
        return paths[0] if paths else None
    for candidate in (root / name, root / f"{DETECTIONS_PREFIX}{name}.npz", Path(name)):
        if candidate.is_file():
            return candidate
    names = ", ".join(path.name for path in sorted(root.glob(f"{DETECTIONS_PREFIX}*.npz"))) or "none"
    raise ArchiveError(f"{root} has no detections {name!r}; found {names}")


def load_detections(path: Path) -> Detections:
    """Read a file of detections and check that its joints are Human3.6M's 17 joints.

    The metadata of the file may name another joint set, or left and right joints that are not Human3.6M's. Raises
    ArchiveError for such a file, also where its metadata contradict each other.
    """
    detections = load_positions_2d(path)
    check_layout(detections.metadata, H36M17, str(path), sure=True)
    return detections


def _of_human36m(positions: Positions3D) -> list[str]:
    from refiner.data.description import ArchiveDescription

    return [person for person in ArchiveDescription.human36m().subjects if person in positions]
