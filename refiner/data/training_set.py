"""Training sets: the archives of several folders as one set, and its clips with cameras and detections."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.data.archives import detected_views
from refiner.data.clips import MotionFolder, action_of, camera_clips, join_archives, open_motion_folder
from refiner.data.description import FolderDescription
from refiner.data.folder_files import (
    SIMULATED,
    ArchiveFile,
    archive_files,
    cameras_of,
    detections_file,
    load_detections,
)
from refiner.errors import ArchiveError, UsageError


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One continuous clip, from which training takes windows.

    Attributes:
        subject: The subject of the clip.
        key: The name of the motion in the archive.
        action: The action of the motion.
        positions: The 3D poses ``(F, 17, 3)`` float32, in world metres, z up.
        cameras: The fixed cameras of this subject; empty for a clip that only random cameras see.
        weight: How often training draws its frames, relative to other archives.
        detections: The real detections, one array ``(F, 17, 2)`` float32 in pixels per camera; empty if there are none.
    """

    subject: str
    key: str
    action: str
    positions: NDArray[np.float32] = field(repr=False)
    cameras: tuple[Camera, ...] = field(default=(), repr=False)
    weight: float = 1.0
    detections: tuple[NDArray[np.float32], ...] = field(default=(), repr=False)


def open_motion_folders(
    folders: Sequence[str | os.PathLike[str]],
    *,
    dataset: str | None = None,
    validation: str | Collection[str] | None = "default",
    detections: str | None = None,
    weights: Mapping[str, float] | None = None,
) -> MotionFolder:
    """Open several folders as one training set.

    The split of the first folder determines the validation and test subjects, and its detector model simulates
    detections for all subjects. The archives of the further folders add training subjects, except the test subjects of
    their own clips.json. If a further folder has a file of detections of the same name, its subjects get these
    detections.

    Args:
        folders: The folders.
        dataset: See `open_motion_folder`, which opens the first folder.
        validation: See `open_motion_folder`.
        detections: See `open_motion_folder`.
        weights: Weights by archive (``data_3d_idle.npz`` or ``idle``), which replace the weights of clips.json.

    Raises:
        UsageError: There is no folder, a folder is named twice, or a weight belongs to no archive.
        ArchiveError: A subject is in two archives, or a folder has another frame rate.
    """
    roots = [Path(folder).resolve() for folder in folders]
    if not roots:
        raise UsageError("a training set needs at least one folder")
    twice = [str(root) for root in roots if roots.count(root) > 1]
    if twice:
        raise UsageError(f"the folder {twice[0]} is named twice")
    joined = open_motion_folder(roots[0], dataset=dataset, validation=validation, detections=detections)
    named = joined.archives[0].detections or SIMULATED
    for root in roots[1:]:
        joined = _join_folder(joined, root, detections or named)
    return _weighted(joined, weights or {})


def training_clips(folder: MotionFolder, people: Collection[str], *, detected: bool = False) -> list[TrainingClip]:
    """Return every clip of some subjects, in the order of ``people`` and of the archive.

    Args:
        folder: The training set.
        people: The subjects.
        detected: Add the real detections of the archives that have some.

    Raises:
        ArchiveError: A subject is missing or has no cameras.
        LengthError: See `refiner.data.archives.detected_views`.
    """
    clips = []
    for person in people:
        if person not in folder.positions:
            raise ArchiveError(f"the archive has no person {person!r}; it has: {', '.join(folder.positions)}")
        archive = folder.archive_of(person)
        free = archive is not None and archive.source == "random"
        cameras = () if free else tuple(cameras_of(folder.cameras, person))
        real = folder.detections if detected and (archive is None or archive.detections) else None
        for key, world in folder.positions[person].items():
            views = () if real is None else tuple(detected_views(real, person, key, len(cameras), len(world)))
            weight = 1.0 if archive is None else archive.weight
            clips.append(TrainingClip(person, key, action_of(key), world, cameras, weight, views))
    return clips


def check_own_cameras(folder: MotionFolder, people: Collection[str]) -> None:
    """Check that the own cameras of all subjects with real detections are known.

    Real detections need the cameras that recorded them. Raises ArchiveError, naming the archive, if a subject with
    detections has the default cameras (Human3.6M's cameras of S1) or random cameras. For Human3.6M, one list of cameras
    for all subjects is an error too, because the cameras were set up again for each subject.
    """
    for person in people:
        archive = folder.archive_of(person)
        if archive is None or not archive.detections:
            continue
        need = f"{archive.name}: the detections of {person} ({archive.detections}) need the cameras that saw {person}"
        remedy = "write a cameras.json with a list of cameras for each person"
        if archive.source == "default":
            raise ArchiveError(
                f"{need}, and the folder names none; {remedy}, or pass dataset human36m if it is Human3.6M"
            )
        if archive.source == "random":
            raise ArchiveError(f"{need}, but the archive is one for random cameras alone; {remedy}")
        if (
            folder.description.name == "Human3.6M"
            and archive.source == "own"
            and not isinstance(archive.cameras, Mapping)
        ):
            raise ArchiveError(
                f"{need}, but the folder's cameras.json has one list for everybody; {remedy}, or remove the file: "
                "Human3.6M's cameras of each person are bundled"
            )


def check_detections(folder: MotionFolder, people: Collection[str]) -> None:
    """Check that the real detections belong to these subjects, clips and cameras.

    The detections of a subject in a camera must lie near the projections of the 3D poses. The median distance over all
    joints and frames must be at most 5 % of the person's size in the image.

    Raises:
        ArchiveError: There are no real detections; a subject, clip or camera is missing; `check_own_cameras` finds
            wrong cameras; or the detections lie too far from the projections.
        LengthError: The detections of a clip have too few frames.
    """
    check_own_cameras(folder, people)
    if folder.detections is None:
        raise ArchiveError("there are no real detections beside the archive; name a data_2d_*.npz")
    for person in people:
        archive = folder.archive_of(person)
        if archive is not None and not archive.detections:
            continue
        camera_clips(folder.positions, folder.cameras, [person], folder.detections)


def describe_archives(folder: MotionFolder) -> list[str]:
    """Describe each archive in one line: subjects, frames, cameras, weight, detections and an assumed frame rate."""
    cameras = {
        "own": "its own cameras",
        "human36m": "Human3.6M's cameras, person by person",
        "default": "Human3.6M's cameras of S1, for want of its own",
        "random": "random cameras alone",
    }
    lines = []
    for archive in folder.archives:
        frames = sum(len(clip) for clips in archive.positions.values() for clip in clips.values())
        line = f"{archive.name}: {len(archive.people)} people, {frames:,} frames; {cameras[archive.source]}"
        line += f"; weight {archive.weight:g}"
        line += f"; detections {archive.detections}" if archive.detections else ""
        line += "" if archive.fps_stated else f"; taken to have {folder.description.fps:g} frames/s"
        lines.append(line)
    return lines


def _join_folder(folder: MotionFolder, root: Path, detections: str) -> MotionFolder:
    description = FolderDescription.from_json(root / "clips.json")
    archives = archive_files(root, description)
    if description.fps is not None and description.fps != folder.description.fps:
        raise ArchiveError(
            f"{root} has {description.fps:g} frames/s, the first folder {folder.description.fps:g}; resample one of "
            "them (refiner.data.resample)"
        )
    try:
        file = detections_file(root, detections)
    except ArchiveError:
        file = None  # a folder without detections of this name gets simulated detections
    real = None if file is None or file.parent != root else load_detections(file)
    if file is not None and real is not None:
        archives = [
            replace(archive, detections=file.name) if set(archive.positions) & set(real.positions) else archive
            for archive in archives
        ]
    return join_archives(folder, archives, real, description.test)


def _weighted(folder: MotionFolder, weights: Mapping[str, float]) -> MotionFolder:
    by_name: dict[str, float] = {}
    for name, weight in weights.items():
        named = [a.name for a in folder.archives if name in (a.name, Path(a.name).stem, _short(a))]
        if not named:
            names = ", ".join(_short(archive) for archive in folder.archives)
            raise UsageError(f"there is no archive {name!r} to weigh; there are: {names}")
        if not 0 < weight < float("inf"):
            raise UsageError(f"the weight of {name} is {weight:g}, expected a number above 0")
        by_name |= dict.fromkeys(named, weight)
    archives = tuple(replace(a, weight=by_name.get(a.name, a.weight)) for a in folder.archives)
    return replace(folder, archives=archives)


def _short(archive: ArchiveFile) -> str:
    return Path(archive.name).stem.removeprefix("data_3d_")
