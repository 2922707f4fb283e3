"""Output files: results that appear whole or not at all, lines that stay as they come, and the hash of a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from refiner.errors import RefinerError

# The errors of a file that cannot grow: a full disk, a quota, and the largest file that the process may write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A disk with less room than this is full.
PROBE_BYTES = 1 << 16


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` when the block ends without an error.

    It lies in the same folder, or in ``folder``, which must be on the same file system.

    The temporary name has the suffix of ``path``, so that libraries which append a missing suffix (``numpy.save``) do
    not change the name. On an error or an interrupt, the temporary file is removed and an existing file at ``path``
    stays unchanged.

    Raises:
        OSError: There is no room for the file; the error names ``path``, whatever the block's library raised.
    """
    unfinished = UnfinishedFile(path, folder)
    try:
        with unfinished.writing() as temporary:
            yield temporary
        unfinished.finish()
    finally:
        unfinished.remove()


class UnfinishedFile:
    """A file under a temporary name; `atomic_path` takes its steps one after the other.

    Args:
        path: The name that the file gets.
        folder: See `atomic_path`.

    Raises:
        OSError: There is no room for the file; the error names ``path``.
    """

    def __init__(self, path: str | os.PathLike[str], folder: Path | None = None) -> None:
        self._target = Path(path)
        with naming_full_disk(self._target):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            where = self._target.parent if folder is None else folder
            # A name may be as long as the file system allows.
            handle, name = tempfile.mkstemp(prefix=f".{self._target.stem[:40]}-", suffix=self._target.suffix, dir=where)
        os.close(handle)
        self._temporary = Path(name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield the temporary path to a block that writes the file."""
        with naming_full_disk(self._target):
            try:
                yield self._temporary
            except RefinerError:
                raise
            except Exception as error:
                # Writers report a full disk by errors of their own (safetensors, NumPy), or without a name.
                _refuse_without_room(self._temporary, error)
                raise
            give_usual_permissions(self._temporary)

    def finish(self) -> None:
        """Wait until the file is on the disk, and give it its name. Several threads may finish files at a time."""
        with naming_full_disk(self._target):
            with open(self._temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(self._temporary, self._target)

    def remove(self) -> None:
        """Remove the temporary file, if the file did not get its name."""
        self._temporary.unlink(missing_ok=True)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def naming_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError about a lack of room name ``path``, the file or folder that the block writes, and nothing else.

    A copy names its source, and a write names no file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _refuse_without_room(file: Path, error: Exception) -> None:
    """Raise OSError where ``file`` cannot grow: then this was the reason of ``error``."""
    try:
        with open(file, "ab") as opened:
            opened.write(bytes(PROBE_BYTES))
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as found:
        if found.errno in NO_ROOM:
            raise found from error


class LineFile:
    """A file that gets whole lines while a program runs. Use it as a context manager.

    Each line is in the file when `write` returns. A program that is killed leaves all of them, and where there is no
    room for a line, the lines before it stay readable.

    Args:
        path: The file. It is overwritten.
        append: Keep its lines instead. The last one must be whole.
        synced: Each line is on the disk when `write` returns, so that it also survives a loss of power.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False, synced: bool = False) -> None:
        self._path, self._synced = Path(path), synced
        with naming_full_disk(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab" if append else "wb", buffering=0)  # noqa: SIM115 - `__exit__` closes it
        self._whole = os.fstat(self._file.fileno()).st_size

    @property
    def length(self) -> int:
        """The number of bytes of the lines that are in the file."""
        return self._whole

    def write(self, line: str) -> None:
        """Append a line.

        Raises:
            OSError: The line cannot be written. It names the file, which then ends with the last whole line.
        """
        content = line.encode("utf-8") + b"\n"
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            if self._synced:
                os.fsync(self._file.fileno())
        except OSError as error:
            # A device or a pipe has no length.
            with contextlib.suppress(OSError):
                self._file.truncate(self._whole)
            raise OSError(error.errno, error.strerror, os.fspath(self._path)) from error
        self._whole += len(content)

    def close(self) -> None:
        """Close the file; nothing more can be written."""
        self._file.close()

    def __enter__(self) -> LineFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def give_usual_permissions(path: Path) -> None:
    """Set the permissions that a new file normally has. Only the owner can read a new temporary file or folder."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
