"""Which files a folder of motion holds: its archives, their cameras and their detections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from refiner.camera import Camera, human36m_cameras, load_cameras
from refiner.data.archives import Detections, Positions3D, load_positions_2d, load_positions_3d
from refiner.data.description import FolderDescription
from refiner.errors import ArchiveError, UsageError
from refiner.skeleton import LEFT, RIGHT

Cameras = Sequence[Camera] | Mapping[str, Sequence[Camera]]
# The folder's cameras.json; Human3.6M's, person by person; Human3.6M's of S1 for want of any; none, so random ones.
CameraSource = Literal["own", "human36m", "default", "random"]
SIMULATED = "simulated"
ARCHIVE_PREFIX = "data_3d_"
DETECTIONS_PREFIX = "data_2d_"


@dataclass(frozen=True, eq=False)
class ArchiveFile:
    """One ``data_3d_*.npz`` and how it is used.

    ``cameras`` is empty for an archive that random cameras alone see (``source`` "random"). ``weight``: how often a
    frame is drawn in training, beside those of the other archives. ``detections``: the file that its people's real
    detections are from, "" for none. ``fps_stated``: whether its folder says a frame rate.
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
        """Whom it holds."""
        return tuple(self.positions)

    def cameras_of(self, person: str) -> Sequence[Camera] | None:
        """The fixed cameras before one of its people: empty for an archive without any, None where they lack."""
        return self.cameras.get(person) if isinstance(self.cameras, Mapping) else self.cameras


def archive_files(root: Path, description: FolderDescription, dataset: str | None = None) -> list[ArchiveFile]:
    """Every ``data_3d_*.npz`` of a folder, in the order of their names.

    Each is seen by the cameras of cameras.json, by Human3.6M's of each person for ``dataset="human36m"``, else by
    Human3.6M's of S1; by none where the description or a name that ends with ``_free`` says so. Raises ArchiveError
    where there is no folder or no archive, or the description tells of an archive that is not there.
    """
    if not root.is_dir():
        raise ArchiveError(f"there is no folder {root}; expected one with a {ARCHIVE_PREFIX}*.npz")
    paths = sorted(root.glob(f"{ARCHIVE_PREFIX}*.npz"))
    if not paths:
        raise ArchiveError(f"{root} should hold one {ARCHIVE_PREFIX}*.npz or several; found none")
    unknown = sorted(set(description.archives) - {path.name for path in paths})
    if unknown:
        found = ", ".join(path.name for path in paths)
        raise ArchiveError(f"{root / 'clips.json'} tells of {', '.join(unknown)}, which is not there; found {found}")
    file = root / "cameras.json"
    own = load_cameras(file) if file.exists() else None
    archives = []
    for path in paths:
        use = description.use_of(path.name)
        positions = load_positions_3d(path)
        cameras: Cameras
        source: CameraSource
        if use.random_cameras:
            cameras, source = (), "random"
        elif own is not None:
            cameras, source = own, "own"
        elif dataset == "human36m":
            cameras, source = {person: human36m_cameras(person) for person in _of_human36m(positions)}, "human36m"
        else:
            cameras, source = human36m_cameras(), "default"
        archives.append(
            ArchiveFile(path.name, positions, cameras, source, use.weight, fps_stated=description.fps is not None)
        )
    return archives


def cameras_of(cameras: Cameras, subject: str) -> Sequence[Camera]:
    """The cameras before one person. Raises ArchiveError where there are none."""
    if isinstance(cameras, Mapping) and subject not in cameras:
        raise ArchiveError(f"there are no cameras for {subject!r}; there are for: {', '.join(cameras)}")
    views = cameras[subject] if isinstance(cameras, Mapping) else cameras
    if not views:
        raise ArchiveError(
            f"{subject} has no fixed cameras: the archive is for random ones alone (refiner-evaluate --cameras random)"
        )
    return views


def main_archive(archives: Sequence[ArchiveFile], split: Collection[str], where: str) -> ArchiveFile:
    """The archive of a folder that the split is of: the one that holds all its people.

    Raises ArchiveError where there is none; the message names who is missing from the only one there is.
    """
    holding = [archive for archive in archives if set(split) <= set(archive.positions)]
    if holding:
        return holding[0]
    if len(archives) == 1:
        missing = [person for person in split if person not in archives[0].positions]
        raise ArchiveError(f"{archives[0].name} lacks {', '.join(missing)} of the split of {where}")
    names = ", ".join(archive.name for archive in archives)
    raise ArchiveError(
        f"one archive should hold everybody of the split of {where} ({', '.join(split)}); none of {names} does"
    )


def detections_file(root: Path, name: str | None) -> Path | None:
    """The ``data_2d_*.npz`` of that name (its file name, the part after ``data_2d_``, or a path); None for none.

    No name takes the only one there is, ground truth (``*_gt.npz``) aside; "simulated" takes none. Raises UsageError
    where there are several and ArchiveError for a name that is not there.
    """
    if name == SIMULATED:
        return None
    if name is None:
        # Ground truth in 2D is not a detection; the projection gives it anyway.
        found = [path for path in sorted(root.glob(f"{DETECTIONS_PREFIX}*.npz")) if not path.stem.endswith("_gt")]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"{root} holds detections of several detectors ({names}); name one, or 'simulated'")
        return found[0] if found else None
    for candidate in (root / name, root / f"{DETECTIONS_PREFIX}{name}.npz", Path(name)):
        if candidate.is_file():
            return candidate
    names = ", ".join(path.name for path in sorted(root.glob(f"{DETECTIONS_PREFIX}*.npz"))) or "none"
    raise ArchiveError(f"{root} has no detections {name!r}; found {names}")


def load_detections(path: Path) -> Detections:
    """`load_positions_2d`, and the check that the joints are Human3.6M's 17.

    Other sets of 17 joints are told by what the file says of itself. Raises ArchiveError for one of them.
    """
    detections = load_positions_2d(path)
    told = detections.metadata
    layout, joints, pairs = (told.get(name) for name in ("layout_name", "num_joints", "keypoints_symmetry"))
    wanted = set(zip(LEFT, RIGHT, strict=True))
    if pairs is not None:
        try:
            left, right = pairs
            same = set(zip(map(int, left), map(int, right), strict=True)) == wanted
        except (TypeError, ValueError):
            same = False
    else:
        same = layout is None or str(layout).lower().startswith(("h36m", "human36m"))
    if not same or (joints is not None and joints != 17):
        said = f"layout_name {layout!r}, num_joints {joints!r}, keypoints_symmetry {pairs!r}"
        raise ArchiveError(
            f"{path} has another layout of joints than Human3.6M's 17 ({said}); expected layout 'h36m' with left "
            f"{list(LEFT)} and right {list(RIGHT)}: convert it first"
        )
    return detections


def _of_human36m(positions: Positions3D) -> list[str]:
    from refiner.data.description import ArchiveDescription

    return [person for person in ArchiveDescription.human36m().subjects if person in positions]
