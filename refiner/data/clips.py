"""From an archive to what a model sees: one clip per motion and camera, projected and root-relative."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.data.archives import Detections, Positions3D, detected_views
from refiner.data.description import ArchiveDescription, FolderDescription
from refiner.data.detector import DetectorModel, detector_rng
from refiner.data.folder_files import (
    SIMULATED,
    ArchiveFile,
    Cameras,
    archive_files,
    cameras_of,
    detections_file,
    load_detections,
    main_archive,
)
from refiner.data.viewpoints import CAMERA_SEED, RANDOM_CAMERAS, random_cameras
from refiner.errors import ArchiveError, MissingComponentError, UsageError

__all__ = [
    "DATA_VARIABLE",
    "SIMULATED",
    "ArchiveFile",
    "CameraClip",
    "Cameras",
    "MotionFolder",
    "Part",
    "action_of",
    "camera_clips",
    "data_folder_from_env",
    "join_archives",
    "motion_folder_from_env",
    "open_motion_folder",
    "random_camera_clips",
]

Part = Literal["train", "validation", "test", "all"]
DATA_VARIABLE = "REFINER_DATA"


@dataclass(frozen=True, eq=False)
class CameraClip:
    """One motion seen by one camera.

    ``key`` is the clip's name in the archive (``Walking 1``), ``action`` what it counts under (``Walking``).
    ``pose_2d`` and ``pose_2d_clean`` ``(F, 17, 2)`` float32 pixels, detected and projected; ``pose_3d``
    ``(F, 17, 3)`` float32 metres in camera axes, relative to the root; ``image_size`` (width, height). ``lens``: the
    calibrated camera, where the clip was made with one.
    """

    subject: str
    key: str
    action: str
    camera: str
    pose_2d: NDArray[np.float32] = field(repr=False)
    pose_2d_clean: NDArray[np.float32] = field(repr=False)
    pose_3d: NDArray[np.float32] = field(repr=False)
    image_size: tuple[int, int]
    fps: float
    lens: Camera | None = field(default=None, repr=False)

    @property
    def frames(self) -> int:
        return len(self.pose_3d)


def action_of(key: str) -> str:
    """``Walking 1`` -> ``Walking``: the field groups clips by the first word of their key."""
    return key.split(" ")[0]


def camera_clips(
    archive_3d: Positions3D,
    cameras: Cameras,
    subjects: Iterable[str] | None = None,
    detections: Detections | None = None,
    detector: DetectorModel | None = None,
    seed: int | None = None,
    fps: float = 50.0,
) -> list[CameraClip]:
    """Every clip of ``subjects`` (None: all) through every camera, in the order of the archive.

    ``cameras`` is one list for everybody, or a list per subject. ``pose_2d`` comes from ``detections``
    where they are given (cropped to the 3D frames, as detections may run on), else from ``detector`` with
    the generator that `detector_rng` documents (``seed`` None: the model's own), else it is the projection.
    Raises ArchiveError for a person, clip or camera that is missing, LengthError for detections shorter
    than the 3D, and UsageError where both ``detections`` and ``detector`` are given.
    """
    if detections is not None and detector is not None:
        raise UsageError("camera_clips takes detections or a detector model, not both")
    clips = []
    for subject in archive_3d if subjects is None else subjects:
        _require_person(archive_3d, subject)
        views = cameras_of(cameras, subject)
        for key, world in archive_3d[subject].items():
            detected = None if detections is None else detected_views(detections, subject, key, len(views), len(world))
            for index, camera in enumerate(views):
                points = camera.to_camera(world.astype(np.float64))
                clean = camera.project(points)
                if detected is not None:
                    pose_2d = detected[index]
                elif detector is not None:
                    rng = detector_rng(detector.seed if seed is None else seed, subject, key, index)
                    pose_2d = detector.detect(clean, rng)
                else:
                    pose_2d = clean
                clips.append(
                    CameraClip(
                        subject=subject,
                        key=key,
                        action=action_of(key),
                        camera=camera.id,
                        pose_2d=pose_2d.astype(np.float32),
                        pose_2d_clean=clean.astype(np.float32),
                        pose_3d=(points - points[:, :1]).astype(np.float32),
                        image_size=camera.image_size,
                        fps=fps,
                        lens=camera,
                    )
                )
    return clips


def random_camera_clips(
    archive_3d: Positions3D,
    subjects: Iterable[str] | None = None,
    detector: DetectorModel | None = None,
    seed: int | None = None,
    fps: float = 50.0,
    *,
    number: int = RANDOM_CAMERAS,
    camera_seed: int = CAMERA_SEED,
) -> list[CameraClip]:
    """Every clip of ``subjects`` (None: all) by ``number`` cameras that no archive has.

    `camera_clips` with the cameras that `random_cameras` draws for each clip; the others of its arguments are as
    there. Raises ArchiveError for a person who is missing.
    """
    clips = []
    for subject in archive_3d if subjects is None else subjects:
        _require_person(archive_3d, subject)
        for key, world in archive_3d[subject].items():
            views = random_cameras(world, subject, key, number, camera_seed)
            clips += camera_clips({subject: {key: world}}, views, [subject], None, detector, seed, fps)
    return clips


@dataclass(frozen=True, eq=False)
class MotionFolder:
    """Motion archives with everything that belongs to them; ``detections`` where they have some.

    ``archives``: the files, the one that the split is of first; empty where nothing was read from files. ``cameras``
    of a person whom random cameras alone see are an empty list.
    """

    positions: Positions3D = field(repr=False)
    cameras: Cameras = field(repr=False)
    description: ArchiveDescription
    detector: DetectorModel = field(repr=False)
    detections: Detections | None = field(default=None, repr=False)
    archives: tuple[ArchiveFile, ...] = ()

    def archive_of(self, person: str) -> ArchiveFile | None:
        """The file that a person is from; None where nothing was read from files."""
        return next((archive for archive in self.archives if person in archive.positions), None)

    def subjects(self, part: Part) -> tuple[str, ...]:
        """The people of one part of the split."""
        parts = {
            "train": self.description.train,
            "validation": self.description.validation,
            "test": self.description.test,
            "all": self.description.subjects,
        }
        if part not in parts:
            raise UsageError(f"there is no part {part!r}; choose among {', '.join(parts)}")
        return parts[part]

    def clips(
        self,
        part: Part = "all",
        *,
        detected: bool = True,
        seed: int | None = None,
        subjects: Collection[str] = (),
    ) -> list[CameraClip]:
        """`camera_clips` of one part (or of some of its people), with the archive's detections or simulated
        ones.

        ``detected=False`` gives the projection as ``pose_2d``; ``seed`` None is the detector model's own
        seed. People without fixed cameras are seen by those of `random_camera_clips`.
        """
        people = [person for person in self.subjects(part) if not subjects or person in subjects]
        clips = []
        for person in people:
            archive = self.archive_of(person)
            real = detected and (archive is None or bool(archive.detections))
            detections = self.detections if real else None
            detector = self.detector if detected and detections is None else None
            if archive is not None and archive.source == "random":
                clips += random_camera_clips(self.positions, [person], detector, seed, self.description.fps)
                continue
            clips += camera_clips(
                self.positions, self.cameras, [person], detections, detector, seed, self.description.fps
            )
        return clips


def open_motion_folder(
    folder: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    validation: str | Collection[str] | None = "default",
    detections: str | None = None,
) -> MotionFolder:
    """Open a folder with a ``data_3d_*.npz``, and ``clips.json``, ``cameras.json``, ``detector_noise.json``.

    The split comes from clips.json (`refiner.data.description`), or from Human3.6M's protocol where
    ``dataset="human36m"`` says so; never from the names. A folder of several archives is one training set: the split
    is of the one that holds everybody whom it names, and the people of the others are training people. Where the folder
    has no cameras, they are Human3.6M's: those of each person for ``dataset="human36m"``, else those of S1; where it
    has no detector model, it is the bundled one. ``detections`` names the ``data_2d_*.npz`` to use: its file name, the
    part after ``data_2d_``, or a path; None takes the only one there (ground truth, ``data_2d_*_gt.npz``, aside) or
    else the simulated detector, and "simulated" the latter in any case.

    Raises ArchiveError or UsageError for what is missing or ambiguous. `refiner.data.training_set` opens several
    folders as one.
    """
    root = Path(folder)
    if dataset not in (None, "human36m"):
        raise UsageError(f"the dataset {dataset!r} is not known; expected 'human36m', or none with a clips.json")
    notes = FolderDescription.from_json(root / "clips.json")
    archives = archive_files(root, notes, dataset)
    if dataset == "human36m":
        description = ArchiveDescription.human36m(validation)
    elif (root / "clips.json").exists():
        description = ArchiveDescription.from_json(root / "clips.json", validation)
    else:
        raise ArchiveError(
            f"{root} has no clips.json, so who is a test person is not known; write one with 'fps' and "
            "'split', or say dataset='human36m'"
        )
    main = main_archive(archives, description.subjects, description.name)
    file, detector_file = detections_file(root, detections), root / "detector_noise.json"
    chosen = None if file is None else load_detections(file)
    if file is not None and chosen is not None:
        archives = [_with_detections(archive, chosen, file.name, archive is main) for archive in archives]
        main = next(archive for archive in archives if archive.name == main.name)
    detector = DetectorModel.from_json(detector_file) if detector_file.exists() else DetectorModel.default()
    opened = MotionFolder(main.positions, main.cameras, description, detector, chosen, (main,))
    return join_archives(opened, [archive for archive in archives if archive is not main])


def join_archives(
    folder: MotionFolder,
    others: Sequence[ArchiveFile],
    detections: Detections | None = None,
    test: Collection[str] = (),
) -> MotionFolder:
    """A folder and further archives as one training set: their people train, but for those of ``test``.

    ``detections``: what the further people's are. Everybody keeps the own cameras. Raises ArchiveError for a person who
    is in two archives.
    """
    if not others:
        return folder
    archives = (*folder.archives, *others)
    positions: Positions3D = {}
    owner: dict[str, str] = {}
    for archive in archives:
        for person, clips in archive.positions.items():
            if person in positions:
                raise ArchiveError(
                    f"{person} is in {owner[person]} and in {archive.name}: the same person twice, or two of one name? "
                    "Rename or remove one"
                )
            positions[person], owner[person] = clips, archive.name
    cameras = {
        person: views
        for archive in archives
        for person in archive.people
        if (views := archive.cameras_of(person)) is not None
    }
    joining = tuple(person for archive in others for person in archive.people if person not in test)
    description = replace(folder.description, train=(*folder.description.train, *joining))
    found = [part.positions for part in (folder.detections, detections) if part is not None]
    metadata = {} if folder.detections is None else folder.detections.metadata
    merged = Detections({person: clips for part in found for person, clips in part.items()}, metadata)
    return MotionFolder(positions, cameras, description, folder.detector, merged if found else None, archives)


def _with_detections(archive: ArchiveFile, detections: Detections, name: str, needed: bool) -> ArchiveFile:
    """The archive with the name of its detections' file, where that holds any of its people or should."""
    held = needed or any(person in detections.positions for person in archive.positions)
    return replace(archive, detections=name) if held else archive


def data_folder_from_env() -> Path | None:
    """The folder that the environment variable REFINER_DATA names; None where it is unset or empty."""
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder) if folder else None


def motion_folder_from_env(**options: Any) -> MotionFolder:
    """`open_motion_folder` of the folder that the environment variable REFINER_DATA names.

    Raises MissingComponentError where it is unset.
    """
    folder = data_folder_from_env()
    if folder is None:
        raise MissingComponentError(
            f"the environment variable {DATA_VARIABLE} is not set; let it name a folder with a data_3d_*.npz"
        )
    return open_motion_folder(folder, **options)


def _require_person(archive_3d: Positions3D, subject: str) -> None:
    if subject not in archive_3d:
        raise ArchiveError(f"the archive has no person {subject!r}; it has: {', '.join(archive_3d)}")
