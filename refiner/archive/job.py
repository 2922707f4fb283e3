"""What is to be done with an archive: a description that can be sent to another process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.archive.sequences import UNSTATED, SequenceRef, Stated

# Frames of a chunk, about: enough for full batches, and little memory.
CHUNK_FRAMES = 8192
FORMATS = ("npz", "parquet", "trc", "bvh")


@dataclass(frozen=True)
class ModelFile:
    """A model and the engine that runs it.

    Attributes:
        path: the absolute path of the file.
        sha256: its hash. A process that finds another file there refuses to work.
        engine: the name of the engine.
        precision: see `refiner.Refiner.load`.
        device: see there.
        steps: see there.
    """

    path: str
    sha256: str
    engine: str
    precision: str | None = None
    device: str | None = None
    steps: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """What decides the result, as JSON: all but the path."""
        return {
            "sha256": self.sha256,
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class Job:
    """An archive, the models, and the options. It can be pickled.

    Attributes:
        archive: the absolute path of a folder or a file.
        output: the absolute path of the folder for the results.
        refiner: the model that refines.
        lifter: the model that lifts sequences without 3D poses.
        pose_3d: the absolute path of the 3D poses of an archive in the field's layout; None where there are none.
        stated: what the options say about sequences that do not say it themselves.
        least_confidence: see `refiner.Lifter.lift`.
        pool_shape: see `refiner.Refiner`.
        smoothing: see `refiner.Refiner`.
        formats: of the output files, from `FORMATS`.
        chunk_frames: frames of a chunk, about.
        threads: of the engines; None takes their default. The results do not depend on it, but for engines whose
            rounding does.
    """

    archive: str
    output: str
    refiner: ModelFile
    lifter: ModelFile
    pose_3d: str | None = None
    stated: Stated = UNSTATED
    least_confidence: float = 0.0
    pool_shape: bool = False
    smoothing: bool = False
    formats: tuple[str, ...] = ("npz",)
    chunk_frames: int = CHUNK_FRAMES
    threads: int | None = None

    def path_of(self, ref: SequenceRef) -> Path:
        """The file or folder of a sequence."""
        return Path(self.archive, ref.file) if ref.file else Path(self.archive)

    def recipe(self) -> dict[str, Any]:
        """Everything beside the archive that decides the output files, as JSON for the ledger."""
        stated = self.stated
        return {
            "refiner_version": __version__,
            "refiner": self.refiner.as_dict(),
            "lifter": self.lifter.as_dict(),
            "options": {
                "fps": stated.fps,
                "joints": stated.joints,
                "joints_3d": stated.joints_3d,
                "image_size": None if stated.image_size is None else list(stated.image_size),
                "focal_length": None if stated.focal_length is None else list(stated.focal_length),
                "least_confidence": self.least_confidence,
                "pool_shape": self.pool_shape,
                "smoothing": self.smoothing,
                "formats": list(self.formats),
                "chunk_frames": self.chunk_frames,
            },
        }

    @property
    def recipe_id(self) -> str:
        """A hash of the `recipe`, in every line of the ledger."""
        return hashlib.sha256(json.dumps(self.recipe(), sort_keys=True).encode()).hexdigest()[:16]
