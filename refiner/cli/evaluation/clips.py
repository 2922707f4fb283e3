"""Load the clips that ``refiner-evaluate`` scores."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.data import (
    CameraClip,
    MotionFolder,
    camera_clips,
    motion_folder_from_env,
    open_motion_folder,
    random_camera_clips,
)
from refiner.data.training_set import check_own_cameras
from refiner.data.viewpoints import CAMERA_SEED, RANDOM_CAMERAS
from refiner.errors import InputError, UsageError
from refiner.evaluation.selection import (
    acknowledgement_of,
    describe_archive,
    describe_people,
    limit_clips,
    select_people,
)

# The values of --detections that are no file.
WITHOUT_FILE = ("simulated", "ground-truth")


@dataclass(frozen=True)
class ScoredClips:
    """The clips to score.

    Attributes:
        clips: one for each motion and camera.
        fps: their frame rate.
        record: their entry in the report.
        acknowledgement: the text that thanks the makers of the archive, if it asks for one.
    """

    clips: list[CameraClip]
    fps: float
    record: dict[str, Any]
    acknowledgement: str | None


def load_clips(arguments: argparse.Namespace) -> ScoredClips:
    """Load the clips that the options select, and describe them."""
    folder, name = _open_source(arguments)
    archive = folder.description
    split = {"train": archive.train, "validation": archive.validation, "test": archive.test}
    people = select_people(arguments.subjects, split, folder.positions)
    positions = limit_clips(folder.positions, people, arguments.limit_clips)
    detector = folder.detector if arguments.detections == "simulated" else None
    detections = folder.detections if arguments.detections not in WITHOUT_FILE else None
    seed = None
    if detector is not None:
        seed = detector.seed if arguments.seed is None else arguments.seed
        source = f"simulated detections, seed {seed}"
    else:
        source = "ground-truth 2D" if detections is None else f"detections {Path(arguments.detections).name}"
    who = f"people {', '.join(people)}" if arguments.synthetic is not None else describe_people(people, split)
    cameras: dict[str, Any] = {"kind": arguments.cameras}
    if arguments.cameras == "random":
        cameras["number"] = arguments.cameras_per_clip or RANDOM_CAMERAS
        cameras["seed"] = CAMERA_SEED if arguments.camera_seed is None else arguments.camera_seed
        who += f"; each clip by {cameras['number']} random cameras, seed {cameras['seed']}"
        clips = random_camera_clips(
            positions,
            detector=detector,
            seed=seed,
            fps=archive.fps,
            number=cameras["number"],
            camera_seed=cameras["seed"],
        )
    else:
        if detections is not None:
            check_own_cameras(folder, people)
        clips = camera_clips(positions, folder.cameras, None, detections, detector, seed, archive.fps)
    if not clips:
        raise InputError(f"there is no clip to score: {name} holds none of {', '.join(people)}")
    record = {
        "description": f"{describe_archive(name)}, {who}; {source}; {archive.fps:g} frames/s",
        "archive": name,
        "people": people,
        "cameras": cameras,
        "detections": arguments.detections,
        "detector_seed": seed,
        "synthetic_seed": arguments.synthetic,
        "fps": archive.fps,
    }
    return ScoredClips(clips, archive.fps, record, acknowledgement_of(name))


def _open_source(arguments: argparse.Namespace) -> tuple[MotionFolder, str]:
    """Open the archive, with the detections that the options name. Returns it and its name."""
    file = arguments.detections if arguments.detections not in WITHOUT_FILE else None
    if arguments.synthetic is not None:
        from refiner.data.synthetic import synthetic_folder

        if file is not None:
            raise UsageError(f"--detections {file}: synthetic motion has simulated or ground-truth 2D alone")
        name = f"built-in synthetic motion (procedural, not a recording), seed {arguments.synthetic}"
        return synthetic_folder(arguments.synthetic), name
    options = {"dataset": arguments.dataset, "detections": file or "simulated"}
    if arguments.data is None:
        folder = motion_folder_from_env(**options)
    else:
        folder = open_motion_folder(arguments.data, **options)
    return folder, folder.archives[0].name
