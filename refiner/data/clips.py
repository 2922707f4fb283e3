"""From an archive to what a model sees: one clip per motion and camera, projected and root-relative."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, human36m_cameras, load_cameras
from refiner.data.archives import (
    Detections,
    Positions3D,
    load_positions_2d,
    load_positions_3d,
)
from refiner.data.description import ArchiveDescription
from refiner.data.detector import DetectorModel, detector_rng
from refiner.errors import ArchiveError, LengthError, MissingComponentError, UsageError

Cameras = Sequence[Camera] | Mapping[str, Sequence[Camera]]
Part = Literal["train", "validation", "test", "all"]
DATA_VARIABLE = "REFINER_DATA"
SIMULATED = "simulated"


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
        if subject not in archive_3d:
            raise ArchiveError(f"the archive has no person {subject!r}; it has: {', '.join(archive_3d)}")
        views = _cameras_of(cameras, subject)
        for key, world in archive_3d[subject].items():
            detected = None if detections is None else _detected(detections, subject, key, len(views), len(world))
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


@dataclass(frozen=True, eq=False)
class MotionFolder:
    """A motion archive with everything that belongs to it; ``detections`` where the folder holds some."""

    positions: Positions3D = field(repr=False)
    cameras: Cameras = field(repr=False)
    description: ArchiveDescription
    detector: DetectorModel = field(repr=False)
    detections: Detections | None = field(default=None, repr=False)

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
        seed.
        """
        people = [person for person in self.subjects(part) if not subjects or person in subjects]
        detections = self.detections if detected else None
        detector = self.detector if detected and detections is None else None
        return camera_clips(self.positions, self.cameras, people, detections, detector, seed, self.description.fps)


def open_motion_folder(
    folder: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    validation: str | Collection[str] | None = "default",
    detections: str | None = None,
) -> MotionFolder:
    """Open a folder with one ``data_3d_*.npz``, and ``clips.json``, ``cameras.json``,
    ``detector_noise.json``.

    The split comes from clips.json, or from Human3.6M's protocol where ``dataset="human36m"`` says so;
    never from the names. Where the folder has no cameras, they are Human3.6M's: those of each person for
    ``dataset="human36m"``, else those of S1; where it has no detector model, it is the bundled one.
    ``detections`` names the ``data_2d_*.npz`` to use: its file name, or the part after ``data_2d_``; None
    takes the only one there (ground truth, ``data_2d_*_gt.npz``, aside) or else the simulated detector, and
    "simulated" the latter in any case. Raises ArchiveError or UsageError for what is missing or ambiguous.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ArchiveError(f"there is no folder {root}; expected one with a data_3d_*.npz")
    archives = sorted(root.glob("data_3d_*.npz"))
    if len(archives) != 1:
        found = ", ".join(path.name for path in archives) or "none"
        raise ArchiveError(f"{root} should hold one data_3d_*.npz; found {found}")
    if dataset not in (None, "human36m"):
        raise UsageError(f"the dataset {dataset!r} is not known; expected 'human36m', or none with a clips.json")
    if dataset == "human36m":
        description = ArchiveDescription.human36m(validation)
    elif (root / "clips.json").exists():
        description = ArchiveDescription.from_json(root / "clips.json", validation)
    else:
        raise ArchiveError(
            f"{root} has no clips.json, so who is a test person is not known; write one with 'fps' and "
            "'split', or say dataset='human36m'"
        )
    detections_file = _detections_file(root, detections)
    chosen = None if detections_file is None else load_positions_2d(detections_file)
    positions = load_positions_3d(archives[0])
    missing = [person for person in description.subjects if person not in positions]
    if missing:
        raise ArchiveError(f"{archives[0]} lacks {', '.join(missing)} of the split of {description.name}")
    cameras_file, detector_file = root / "cameras.json", root / "detector_noise.json"
    cameras: Cameras
    if cameras_file.exists():
        cameras = load_cameras(cameras_file)
    elif dataset == "human36m":
        cameras = {person: human36m_cameras(person) for person in description.subjects}
    else:
        cameras = human36m_cameras()
    detector = DetectorModel.from_json(detector_file) if detector_file.exists() else DetectorModel.default()
    return MotionFolder(positions, cameras, description, detector, chosen)


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


def _cameras_of(cameras: Cameras, subject: str) -> Sequence[Camera]:
    if not isinstance(cameras, Mapping):
        return cameras
    if subject not in cameras:
        raise ArchiveError(f"there are no cameras for {subject!r}; there are for: {', '.join(cameras)}")
    return cameras[subject]


def _detected(detections: Detections, subject: str, key: str, cameras: int, frames: int) -> list[NDArray[np.float32]]:
    views = detections.positions.get(subject, {}).get(key)
    if views is None:
        raise ArchiveError(f"the detections have no clip {key!r} of {subject}")
    if len(views) != cameras:
        raise ArchiveError(f"{subject} {key!r} has detections of {len(views)} cameras, expected {cameras}")
    for index, view in enumerate(views):
        if len(view) < frames:
            raise LengthError(f"{subject} {key!r}, camera {index}: {len(view)} frames of detections for {frames} of 3D")
    return [view[:frames] for view in views]


def _detections_file(root: Path, name: str | None) -> Path | None:
    if name == SIMULATED:
        return None
    if name is None:
        # Ground truth in 2D is not a detection; the projection gives it anyway.
        found = [path for path in sorted(root.glob("data_2d_*.npz")) if not path.stem.endswith("_gt")]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"{root} holds detections of several detectors ({names}); name one, or 'simulated'")
        return found[0] if found else None
    for candidate in (root / name, root / f"data_2d_{name}.npz"):
        if candidate.is_file():
            return candidate
    names = ", ".join(path.name for path in sorted(root.glob("data_2d_*.npz"))) or "none"
    raise ArchiveError(f"{root} has no detections {name!r}; found {names}")
