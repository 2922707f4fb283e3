"""The models of a job: described for other processes, and loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from refiner.archive.job import Job, ModelFile
from refiner.engines import EngineOptions
from refiner.errors import CheckpointError
from refiner.files import sha256_of
from refiner.runtime.lifter import Lifter
from refiner.runtime.loading import find_model
from refiner.runtime.refiner import Refiner


@dataclass(frozen=True, eq=False)
class Models:
    """The loaded models of a job. One process loads them once, for all of its chunks."""

    refiner: Refiner
    lifter: Lifter


def model_file(
    path: str | os.PathLike[str] | None,
    role: str,
    engine: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    steps: int | None = None,
) -> ModelFile:
    """Find a model, and the engine that would run it.

    Args:
        path: see `refiner.Refiner.load`, also for the other arguments.
        role: "refiner" or "lifter".

    Raises:
        RefinerError: as `refiner.Refiner.load`.
    """
    file, found = find_model(path, role, EngineOptions(engine, steps, device=device, precision=precision))
    if not file.is_file():
        raise CheckpointError(f"there is no {role} {file}")
    return ModelFile(str(file.resolve()), sha256_of(file), found, precision, device, steps)


def load_models(job: Job) -> Models:
    """Load the models of a job.

    Raises:
        CheckpointError: a file is not the one that the job names.
        RefinerError: as `refiner.Refiner.load`.
    """
    for model in (job.refiner, job.lifter):
        if not Path(model.path).is_file() or sha256_of(Path(model.path)) != model.sha256:
            raise CheckpointError(f"{model.path} is not the model of this job any more: its SHA-256 differs")
    one, two = job.refiner, job.lifter
    refiner = Refiner.load(
        one.path,
        one.engine,
        one.steps,
        job.threads,
        device=one.device,
        goal="throughput",
        pool_shape=job.pool_shape,
        smoothing=job.smoothing,
        precision=one.precision,
    )
    lifter = Lifter.load(
        two.path, two.engine, threads=job.threads, device=two.device, goal="throughput", precision=two.precision
    )
    return Models(refiner, lifter)
