"""What a training set is made of: archives of several folders as one, and their clips with cameras and detections."""

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

# Of a person's size in the image (the diagonal of the box about the joints). CPN's median lies near 0.015. Human3.6M's
# cameras as they stood for S1, before its other people, are off by 0.06 to 0.3 at the worst of the four (0.04 for S7);
# the cameras in another order by 0.2 to 0.5.
WORST_FIT = 0.05


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One continuous clip to cut windows from.

    ``positions`` ``(F, 17, 3)`` float32, world metres, z up. ``cameras``: the fixed ones before this person; empty for
    a clip that random cameras alone see. ``weight``: how often a frame is drawn, beside those of other archives.
    ``detections``: real ones ``(F, 17, 2)`` float32 pixels, one array a camera; empty where there are none.
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
    """Several folders as one training set.

    The first is opened by `open_motion_folder`, whose options these are; its split says who validates and tests, its
    detector model simulates for everybody. Every archive of the further folders adds training people, less those whom
    its own clips.json keeps for test. A further folder that holds the detections of the same name gives them for its
    people. ``weights`` by archive (``data_3d_idle.npz`` or ``idle``) go before those of clips.json.

    Raises UsageError for no folder, one that is named twice and a weight of an archive that is not there, ArchiveError
    for a person who is in two archives and for a folder of another frame rate.
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
    """Every clip of ``people``, in their order and that of the archive.

    ``detected`` also gives the real detections of the archives that have some. Raises ArchiveError for a person who is
    missing or has no cameras, and as `detected_views` does.
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
    """Whether everybody's own cameras are known: real detections go with no others.

    Raises ArchiveError, naming the archive, for people with detections whose cameras are nobody's (those of S1 for want
    of any, random ones), and for one list of cameras for everybody in Human3.6M, whose rig was set up anew for each.
    """
    for person in people:
        archive = folder.archive_of(person)
        if archive is None or not archive.detections:
            continue
        what = f"{archive.name}: the detections of {person} ({archive.detections}) need the cameras that saw {person}"
        remedy = "write a cameras.json with a list of cameras for each person"
        if archive.source == "default":
            raise ArchiveError(f"{what}, and the folder names none; {remedy}, or say dataset human36m where it is that")
        if archive.source == "random":
            raise ArchiveError(f"{what}, and the archive is one for random cameras alone; {remedy}")
        if (
            folder.description.name == "Human3.6M"
            and archive.source == "own"
            and not isinstance(archive.cameras, Mapping)
        ):
            raise ArchiveError(
                f"{what}, and the folder's cameras.json has one list for everybody; {remedy}, or remove the file: "
                "Human3.6M's are bundled, person by person"
            )


def check_detections(folder: MotionFolder, people: Collection[str]) -> None:
    """Whether the real detections are those of these people, clips and cameras.

    Raises ArchiveError or LengthError for a missing person, clip or camera and for too few frames (`detected_views`),
    as `check_own_cameras` does, and where the detections of a person by a camera lie away from where that camera sees
    the joints, by more than 5 % of the person's size in the image (median of all joints and frames).
    """
    check_own_cameras(folder, people)
    if folder.detections is None:
        raise ArchiveError("there are no real detections beside the archive; name a data_2d_*.npz")
    for person in people:
        archive = folder.archive_of(person)
        if archive is not None and not archive.detections:
            continue
        distances: dict[str, list[NDArray[np.float32]]] = {}
        for clip in camera_clips(folder.positions, folder.cameras, [person], folder.detections):
            size = np.linalg.norm(np.ptp(clip.pose_2d_clean, axis=1), axis=-1)
            apart = np.linalg.norm(clip.pose_2d - clip.pose_2d_clean, axis=-1)
            distances.setdefault(clip.camera, []).append(apart / np.maximum(size, 1.0)[:, None])
        for camera, parts in distances.items():
            off = float(np.median(np.concatenate(parts)))
            if off > WORST_FIT:
                raise ArchiveError(
                    f"the detections of {person} by camera {camera} lie {100 * off:.0f} % of the person's size in the "
                    f"image from where that camera sees the joints; expected at most {100 * WORST_FIT:.0f} %. Are "
                    f"these {person}'s own cameras, in the order of the detections, and Human3.6M's 17 joints?"
                )


def told_archives(folder: MotionFolder) -> list[str]:
    """One line for each archive: who is in it, how many frames, whose cameras, which weight, what was taken for
    granted."""
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
    notes = FolderDescription.from_json(root / "clips.json")
    archives = archive_files(root, notes)
    if notes.fps is not None and notes.fps != folder.description.fps:
        raise ArchiveError(
            f"{root} has {notes.fps:g} frames/s, the first folder {folder.description.fps:g}; resample one of them "
            "(refiner.data.resample)"
        )
    try:
        file = detections_file(root, detections)
    except ArchiveError:
        file = None  # a folder without detections of that name has simulated ones
    found = None if file is None or file.parent != root else load_detections(file)
    if file is not None and found is not None:
        archives = [
            replace(archive, detections=file.name) if set(archive.positions) & set(found.positions) else archive
            for archive in archives
        ]
    return join_archives(folder, archives, found, notes.test)


def _weighted(folder: MotionFolder, weights: Mapping[str, float]) -> MotionFolder:
    by_name: dict[str, float] = {}
    for name, weight in weights.items():
        named = [a.name for a in folder.archives if name in (a.name, Path(a.name).stem, _short(a))]
        if not named:
            found = ", ".join(_short(archive) for archive in folder.archives)
            raise UsageError(f"there is no archive {name!r} to weigh; there are: {found}")
        if not 0 < weight < float("inf"):
            raise UsageError(f"the weight of {name} is {weight:g}, expected a number above 0")
        by_name |= dict.fromkeys(named, weight)
    archives = tuple(replace(a, weight=by_name.get(a.name, a.weight)) for a in folder.archives)
    return replace(folder, archives=archives)


def _short(archive: ArchiveFile) -> str:
    return Path(archive.name).stem.removeprefix("data_3d_")
