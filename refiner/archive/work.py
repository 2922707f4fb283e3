"""One chunk of an archive: read, lift, refine, write. Any process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refiner.archive.job import Job
from refiner.archive.sequences import Chunk, Outcome
from refiner.runtime.lifter import Lifter
from refiner.runtime.refiner import Refiner


@dataclass(frozen=True, eq=False)
class Models:
    """The loaded models of a job. One process loads them once, for all of its chunks."""

    refiner: Refiner
    lifter: Lifter


def load_models(job: Job) -> Models:
    """Load the models of a job.

    Raises:
        CheckpointError: a file is not the one that the job names.
        RefinerError: as `refiner.Refiner.load`.
    """
    raise NotImplementedError


def refine_chunk(job: Job, models: Models, chunk: Chunk) -> Sequence[Outcome]:
    """Read, lift, refine and write the sequences of a chunk.

    Every output file appears whole, under its own name, before the function returns. A chunk that is done twice, also
    by two processes at a time, gives the same files. A sequence that cannot be read or refined becomes an `Outcome`
    with an error, and the others are done.

    Returns:
        One outcome for each sequence, in the order of the chunk; several of one reference where a detector's file shows
        several people.

    Raises:
        OSError: an output cannot be written, such as on a full disk. The chunk is then not done.
    """
    raise NotImplementedError
