"""What an actor does with chunks of an archive. Ray runs it; this module needs no Ray."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refiner import __version__, errors
from refiner.archive.job import Job
from refiner.archive.models import Models, load_models
from refiner.archive.sequences import Chunk, Outcome
from refiner.archive.work import refine_chunk
from refiner.errors import RefinerError, UsageError

# The columns of the rows that go to an actor and come back.
TASK, REPLY = "task", "reply"
# A chunk that ended this many processes is not tried again: it would end all others, one by one.
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Fault:
    """An error that ends the whole job, on its way to the driver.

    Attributes:
        kind: the name of a class of `refiner.errors`, or "OSError".
        message: what went wrong.
        number: the errno of an OSError.
        file: the file that an OSError names.
        target: the second one that it names: that of a copy or a new name.
    """

    kind: str
    message: str
    number: int | None = None
    file: str | None = None
    target: str | None = None

    @classmethod
    def of(cls, error: RefinerError | OSError) -> Fault:
        """The error as a fault."""
        if isinstance(error, OSError):
            return cls("OSError", error.strerror or str(error), error.errno, error.filename, error.filename2)
        return cls(type(error).__name__, str(error))

    def error(self) -> RefinerError | OSError:
        """The same error, to raise in the driver."""
        if self.kind == "OSError":
            return OSError(self.number, self.message, self.file, None, self.target)
        kind: type[RefinerError] = getattr(errors, self.kind, RefinerError)
        return kind(self.message)


@dataclass(frozen=True)
class Reply:
    """What came of one chunk.

    Attributes:
        identity: of the chunk.
        outcomes: as of `refine_chunk`; empty with a fault.
        attempt: how many times the chunk was begun, this time included.
        seconds: that this attempt took.
        fault: why nothing can be done; None where the chunk is done.
    """

    identity: str
    outcomes: tuple[Outcome, ...]
    attempt: int
    seconds: float
    fault: Fault | None = None


@dataclass(frozen=True)
class Setup:
    """What the driver tells each actor.

    Attributes:
        job: the job.
        recipe_id: `Job.recipe_id` in the driver, with its version of the package.
        version: of the package in the driver.
        marks: a folder of this run in the output folder, in which actors mark the chunks that they begin.
    """

    job: Job
    recipe_id: str
    version: str
    marks: str


class ChunkWorker:
    """An actor of Ray Data: it loads the models once, and does one chunk after the other.

    Args:
        setup: a pickled `Setup`.
    """

    def __init__(self, setup: bytes) -> None:
        self._setup: Setup = pickle.loads(setup)
        self._models: Models | None = None
        self._fault: Fault | None = None
        # An actor that raises here is started again and again by Ray: the first reply has the error instead.
        try:
            _check_machine(self._setup)
            self._models = load_models(self._setup.job)
        except (RefinerError, OSError) as error:
            self._fault = Fault.of(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Do the chunks of a batch: ``{TASK: pickled chunks}`` becomes ``{REPLY: pickled replies}``."""
        replies = [self._do(pickle.loads(task)) for task in batch[TASK]]
        return {REPLY: np.array([pickle.dumps(reply) for reply in replies], dtype=object)}

    def _do(self, chunk: Chunk) -> Reply:
        began = time.perf_counter()
        if self._models is None:
            return Reply(chunk.identity, (), 1, 0.0, self._fault)
        try:
            marks = Path(self._setup.marks)
            attempt = _begin(marks, chunk.identity)
            if attempt > MOST_ATTEMPTS:
                outcomes = _given_up(chunk)
            else:
                outcomes = tuple(refine_chunk(self._setup.job, self._models, chunk))
        except (RefinerError, OSError) as error:
            return Reply(chunk.identity, (), 1, time.perf_counter() - began, Fault.of(error))
        return Reply(chunk.identity, outcomes, attempt, time.perf_counter() - began)


def _check_machine(setup: Setup) -> None:
    """Raise UsageError where this machine cannot do the job of the driver's machine."""
    if setup.job.recipe_id != setup.recipe_id:
        raise UsageError(
            f"a machine of the cluster has pose-refiner {__version__}, and this one {setup.version}; install the same "
            "version on all of them"
        )
    if not Path(setup.marks).is_dir():
        raise UsageError(
            f"a machine of the cluster does not see the output folder {setup.job.output}; name a folder that all "
            "machines share under the same path"
        )
    if not Path(setup.job.archive).exists():
        raise UsageError(
            f"a machine of the cluster does not see the archive {setup.job.archive}; it must lie in a folder that all "
            "machines share under the same path"
        )


def _begin(marks: Path, identity: str) -> int:
    """Mark that a chunk is begun; returns how many times it was."""
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            (marks / f"{identity}-{attempt}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return attempt
    return MOST_ATTEMPTS + 1


def _given_up(chunk: Chunk) -> tuple[Outcome, ...]:
    words = (
        f"the process that refined it, together with {len(chunk.refs) - 1} other sequences, ended {MOST_ATTEMPTS} "
        "times (killed, out of memory, or a fault of an engine)"
    )
    return tuple(Outcome(ref.name, ref.name, "", 0, error=words) for ref in chunk.refs)
