"""The readers of an archive's sequences, by the kind of a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from refiner.archive.job import Job
from refiner.archive.sequences import UNSTATED, Sequence, SequenceRef
from refiner.errors import ArchiveError, MissingComponentError, RefinerError

# Each module has `identity(job, ref)` and `load(job, ref, sha256)`.
READERS = {
    "arrays": "refiner.archive.array_files",
    "detector": "refiner.archive.detector_files",
    "field": "refiner.archive.field_layout",
    "parquet": "refiner.archive.parquet_files",
}


@dataclass(frozen=True, eq=False)
class Read:
    """What came of reading a reference.

    Attributes:
        input: the hash of the input; "" where it could not be read.
        sequences: those of the reference; empty where they could not be read.
        error: why they could not be read; "" where they could.
    """

    input: str
    sequences: tuple[Sequence, ...] = ()
    error: str = ""


def identity_of(job: Job, ref: SequenceRef) -> str:
    """The hash of the input of a reference; "" where it cannot be read."""
    identity: Callable[[Job, SequenceRef], str] = import_module(READERS[ref.kind]).identity
    path = job.path_of(ref)
    if not path.is_file() and not path.is_dir():  # a pipe would let the reader wait for ever
        return ""
    try:
        found = identity(job, ref)
    except (MissingComponentError, MemoryError):
        raise
    except Exception:  # see `read`
        return ""
    if ref.stated == UNSTATED:
        return found
    # What sequences.json says about a sequence is a part of its input.
    return hashlib.sha256(f"{found} {ref.stated!r}".encode()).hexdigest()


def read(job: Job, ref: SequenceRef) -> Read:
    """Read the sequences of a reference. A fault of the input becomes an error of the result.

    Raises:
        MissingComponentError: a package that reads the file is not installed.
    """
    load: Callable[[Job, SequenceRef, str], list[Sequence]] = import_module(READERS[ref.kind]).load
    input_hash = identity_of(job, ref)
    try:
        return Read(input_hash, tuple(load(job, ref, input_hash)))
    except (MissingComponentError, MemoryError):
        raise
    except RefinerError as error:
        return Read(input_hash, error=str(error))
    except OSError as error:
        return Read(input_hash, error=f"cannot read {job.path_of(ref)}: {error.strerror or error}")
    except Exception as error:  # what a reader stumbles over is damage that it had not foreseen
        return Read(input_hash, error=str(ArchiveError(f"{job.path_of(ref)} is damaged: {error!r}")))
