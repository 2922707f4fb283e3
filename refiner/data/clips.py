"""Camera clips, the input of a model: one clip per motion and camera, with projected and root-relative poses."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.data.archives import Detections, Positions3D, detected_views
from refiner.data.description import ArchiveDescription, FolderDescription
from refiner.data.detection_fit import check_fit
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
    """One motion, seen by one camera.

    Attributes:
        subject: The subject who performs the motion.
        key: The name of the motion in the archive (``Walking 1``).
        action: The action under which the motion is scored (``Walking``).
        camera: The name of the camera.
        pose_2d: The detected 2D poses ``(F, 17, 2)`` float32, in pixels.
        pose_2d_clean: The projections of the 3D poses ``(F, 17, 2)`` float32, in pixels.
        pose_3d: The root-relative 3D poses ``(F, 17, 3)`` float32, in metres and camera axes.
        image_size: (width, height) in pixels.
        fps: The frame rate, frames/s.
        lens: The calibrated camera; None if it is not known.
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
        """F, the number of frames."""
        return len(self.pose_3d)


def action_of(key: str) -> str:
    """Return the action of a clip, which is the first word of its key: ``Walking 1`` -> ``Walking``."""
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
    """Project every motion with every camera, in the order of the archive.

    ``pose_2d`` of a clip comes from ``detections``, or from the simulated detector ``detector``, or it is the
    projection if both are None.

    Args:
        archive_3d: The 3D poses of the archive.
        cameras: One list of cameras for all subjects, or one list per subject.
        subjects: The subjects to use. None: all.
        detections: Real detections. They may have more frames than the 3D poses; the surplus is dropped.
        detector: The model of a detector's errors, for simulated detections.
        seed: The seed of the simulated detector (`detector_rng`). None: the seed of the model.
        fps: The frame rate of the archive, frames/s.

    Raises:
        ArchiveError: A subject, a clip or a camera is missing, or the detections lie far from the projections: they
            have other joints, or another camera saw them (`refiner.data.detection_fit`).
        LengthError: The detections of a clip have fewer frames than its 3D poses.
        UsageError: Both ``detections`` and ``detector`` are given.
    """
    if detections is not None and detector is not None:
        raise UsageError("camera_clips takes detections or a detector model, not both")
    clips: list[CameraClip] = []
    for subject in archive_3d if subjects is None else subjects:
        _require_person(archive_3d, subject)
        views = cameras_of(cameras, subject)
        first = len(clips)
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
        if detections is None:
            continue
        for index, camera in enumerate(views):
            seen = clips[first + index :: len(views)]
            check_fit(subject, camera.id, ((clip.pose_2d, clip.pose_2d_clean) for clip in seen), detections.source)
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
    """Project every motion with random cameras, which `random_cameras` draws for each motion.

    Args:
        archive_3d: See `camera_clips`, also for the other arguments that are not listed here.
        number: The number of cameras per motion.
        camera_seed: The seed of the cameras.

    Raises:
        ArchiveError: A subject is missing.
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
    """The motion archives of one or several folders, with their cameras, split and detections.

    Attributes:
        positions: The 3D poses of all subjects.
        cameras: The cameras of all subjects. A subject of an archive for random cameras has an empty list.
        description: The frame rate and the split.
        detector: The model of a detector's errors, for simulated detections.
        detections: The real detections; None if there are none.
        archives: The archive files. The first file holds the subjects of the split. Empty if the data did not come from
            files.
    """

    positions: Positions3D = field(repr=False)
    cameras: Cameras = field(repr=False)
    description: ArchiveDescription
    detector: DetectorModel = field(repr=False)
    detections: Detections | None = field(default=None, repr=False)
    archives: tuple[ArchiveFile, ...] = ()

    def archive_of(self, person: str) -> ArchiveFile | None:
        """Return the archive file that holds a subject; None if the data did not come from files."""
        return next((archive for archive in self.archives if person in archive.positions), None)

    def subjects(self, part: Part) -> tuple[str, ...]:
        """Return the subjects of one part of the split. Raises UsageError for an unknown part."""
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
        """Return the camera clips of one part of the split.

        ``pose_2d`` comes from the real detections if the archive has some, otherwise from the simulated detector.
        Subjects without fixed cameras are seen by random cameras (`random_camera_clips`).

        Args:
            part: The part of the split.
            detected: If false, ``pose_2d`` is the projection of the 3D poses.
            seed: The seed of the simulated detector. None: the seed of the model.
            subjects: Only these subjects of the part. Empty: all.

        Raises:
            ArchiveError, LengthError: See `camera_clips`.
        """
        chosen = [subject for subject in self.subjects(part) if not subjects or subject in subjects]
        clips = []
        for subject in chosen:
            archive = self.archive_of(subject)
            real = detected and (archive is None or bool(archive.detections))
            detections = self.detections if real else None
            detector = self.detector if detected and detections is None else None
            if archive is not None and archive.source == "random":
                clips += random_camera_clips(self.positions, [subject], detector, seed, self.description.fps)
                continue
            clips += camera_clips(
                self.positions, self.cameras, [subject], detections, detector, seed, self.description.fps
            )
        return clips


def open_motion_folder(
    folder: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    validation: str | Collection[str] | None = "default",
    detections: str | None = None,
) -> MotionFolder:
    """Open a folder with archives ``data_3d_*.npz``.

    The folder may also hold ``clips.json``, ``cameras.json`` and ``detector_noise.json``. Without ``cameras.json`` the
    cameras are Human3.6M's: for ``dataset="human36m"`` the cameras of each subject, otherwise the cameras of S1.
    Without ``detector_noise.json`` the simulated detector is the bundled one.

    The split comes from clips.json (`refiner.data.description`), or from Human3.6M's protocol for
    ``dataset="human36m"``. It never follows from the names of the subjects. A folder of several archives is one
    training set: one archive holds all subjects of the split, and the subjects of the other archives are training
    subjects.

    `refiner.data.training_set` opens several folders as one.

    Args:
        folder: The folder.
        dataset: "human36m", or None for a folder with a clips.json.
        validation: The subjects that are held out of the training subjects for validation; see
            `ArchiveDescription.from_json`.
        detections: The file ``data_2d_*.npz`` to use: its file name, the part of the name after ``data_2d_``, or a
            path. None: the only such file (ground truth, ``data_2d_*_gt.npz``, does not count), or the simulated
            detector if there is no file. "simulated": the simulated detector.

    Raises:
        ArchiveError: A file or a subject is missing, or a file has another layout.
        UsageError: The dataset is unknown, or there are several files of detections.
    """
    root = Path(folder)
    if dataset not in (None, "human36m"):
        raise UsageError(f"the dataset {dataset!r} is not known; expected 'human36m', or None with a clips.json")
    folder_description = FolderDescription.from_json(root / "clips.json")
    archives = archive_files(root, folder_description, dataset)
    if dataset == "human36m":
        description = ArchiveDescription.human36m(validation)
    elif (root / "clips.json").exists():
        description = ArchiveDescription.from_json(root / "clips.json", validation)
    else:
        raise ArchiveError(
            f"{root} has no clips.json, so its test subjects are not known; write one with 'fps' and 'split', or pass "
            "dataset='human36m'"
        )
    main = main_archive(archives, description.subjects, description.name)
    file, detector_file = detections_file(root, detections, dataset), root / "detector_noise.json"
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
    """Add further archives to a folder. Their subjects become training subjects and keep their own cameras.

    Args:
        folder: The folder with the split.
        others: The further archives.
        detections: The real detections of the subjects in ``others``.
        test: Subjects of ``others`` that do not become training subjects.

    Raises:
        ArchiveError: A subject is in two archives.
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
                    f"{person} is in {owner[person]} and in {archive.name}: rename one if these are two people, remove "
                    "one if it is the same person"
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
    detected = [part.positions for part in (folder.detections, detections) if part is not None]
    first = folder.detections or Detections({}, {})
    merged = Detections({k: v for part in detected for k, v in part.items()}, first.metadata, first.source)
    return MotionFolder(positions, cameras, description, folder.detector, merged if detected else None, archives)


def _with_detections(archive: ArchiveFile, detections: Detections, name: str, needed: bool) -> ArchiveFile:
    """Note the file of detections in the archive, if the file holds a subject of the archive or is needed for it."""
    belongs = needed or any(person in detections.positions for person in archive.positions)
    return replace(archive, detections=name) if belongs else archive


def data_folder_from_env() -> Path | None:
    """Return the folder that the environment variable REFINER_DATA names; None if it is unset or empty."""
    folder = os.environ.get(DATA_VARIABLE)
    return Path(folder) if folder else None


def motion_folder_from_env(
    *, dataset: str | None = None, validation: str | Collection[str] | None = "default", detections: str | None = None
) -> MotionFolder:
    """Open the folder that the environment variable REFINER_DATA names.

    Args:
        dataset: See `open_motion_folder`, also for the other arguments and errors.

    Raises:
        MissingComponentError: The variable is unset.
    """
    folder = data_folder_from_env()
    if folder is None:
        raise MissingComponentError(
            f"the environment variable {DATA_VARIABLE} is not set; set it to a folder with a data_3d_*.npz"
        )
    return open_motion_folder(folder, dataset=dataset, validation=validation, detections=detections)


def _require_person(archive_3d: Positions3D, subject: str) -> None:
    if subject not in archive_3d:
        raise ArchiveError(f"the archive has no person {subject!r}; it has: {', '.join(archive_3d)}")
