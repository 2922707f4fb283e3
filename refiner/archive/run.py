"""The driver of an archive: what is to be done, and the ledger of what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refiner.archive.job import Job
from refiner.archive.sequences import Chunk, Outcome
from refiner.archive.work import load_models, refine_chunk


@dataclass(frozen=True)
class Summary:
    """What came of an archive.

    Attributes:
        done: sequences that are refined, those of earlier runs included.
        earlier: those of them that an earlier run had finished.
        frames: frames of all sequences that are done.
        failed: (name, error) of those that failed.
    """

    done: int
    earlier: int
    frames: int
    failed: tuple[tuple[str, str], ...]


class ArchiveRun:
    """An archive that is being refined into a folder. Make one with `open_run`; one process alone has it.

    Attributes:
        job: the job.
        todo: the chunks that are to be done, in the order of the archive.
    """

    job: Job
    todo: tuple[Chunk, ...]

    def record(self, chunk: Chunk, outcomes: Sequence[Outcome]) -> None:
        """Write the outcomes of a chunk, whose files are in place, into the ledger. Chunks may come in any order."""
        raise NotImplementedError

    def finish(self) -> Summary:
        """Sort the ledger and remove what is temporary. Call it when all chunks of `todo` are recorded."""
        raise NotImplementedError


@contextmanager
def open_run(job: Job) -> Iterator[ArchiveRun]:
    """List the archive, read the ledger, and find what is to be done.

    Raises:
        UsageError: another run works in the folder, or the folder holds something else.
        ArchiveError: the archive cannot be listed.
    """
    raise NotImplementedError
    yield


def refine_archive(job: Job, advance: Callable[[int], None] = lambda frames: None) -> Summary:
    """Refine an archive in this process.

    Args:
        job: what is to be done.
        advance: takes the number of frames (`Chunk.weight`) of every chunk that is done.
    """
    with open_run(job) as run:
        models = load_models(job)
        for chunk in run.todo:
            run.record(chunk, refine_chunk(job, models, chunk))
            advance(chunk.weight)
        return run.finish()
