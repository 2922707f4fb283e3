"""One run at a time in an output folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refiner.archive.outputs import TEMPORARY
from refiner.errors import UsageError

_LOCK = "lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Hold the lock of an output folder. What a killed run left unfinished is removed first.

    The operating system gives the lock back when the process ends, however it ends.

    Yields:
        The folder for temporary files. It is gone afterwards.

    Raises:
        UsageError: another run works in the folder.
    """
    temporary = folder / TEMPORARY
    handle = _locked(temporary / _LOCK, folder)
    try:
        _clear(temporary)
        yield temporary
    finally:
        _clear(temporary)
        (temporary / _LOCK).unlink(missing_ok=True)
        os.close(handle)
        if temporary.is_dir() and not os.listdir(temporary):
            temporary.rmdir()


def _locked(file: Path, folder: Path) -> int:
    """The handle of a lock file that nobody else has."""
    import fcntl

    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the run before removed its folder at this moment
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise UsageError(
                f"another run works in {folder}: wait for its end, or choose another folder for --output"
            ) from error
        # The run before may have removed the file after it was opened here.
        if file.exists() and os.stat(file).st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)


def _clear(temporary: Path) -> None:
    for entry in temporary.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)
