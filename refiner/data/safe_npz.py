"""Reading of .npy and .npz files, including pickled object arrays, without running code from a file.

``numpy.load(allow_pickle=True)`` runs any function that a file names, and a small file can make it allocate huge
memory. This module checks the sizes before it reads data, and loads pickles with `refiner.data.numpy_pickle`.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from refiner.data.numpy_pickle import MAX_DIMENSIONS, load_numpy_pickle
from refiner.errors import ArchiveError

DEFAULT_MAX_BYTES = 8 << 30
MAX_RATIO = 200
# A small array of zeros compresses 1000:1, so the ratio is checked only for larger sizes.
_RATIO_EXEMPT_BYTES = 64 << 20
_MAX_HEADER = 10_000


def load_npz(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, Any]:
    """Read all arrays of an .npz file.

    Pose archives store a dict as a 0-d object array. Such an array is replaced by its content.

    Args:
        path: The file.
        max_bytes: The largest accepted uncompressed size of all members together.

    Returns:
        The arrays by name.

    Raises:
        UnsafeArchiveError: A pickle names something other than NumPy data; the message has its ``module.name``.
        ArchiveError: The file is missing, truncated, of another format, too large, or compressed more than motion data
            can be.
    """
    source = _regular_file(path)
    try:
        with zipfile.ZipFile(source) as archive:
            members = _checked_members(archive, source, max_bytes)
            return {
                info.filename.removesuffix(".npy"): _unwrap(
                    _read_npy(_read_member(archive, info, source), f"{source}, {info.filename}")
                )
                for info in members
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"{source} is not a whole .npz file ({error}); is the download complete?") from error
    except OSError as error:
        raise ArchiveError(f"cannot read {source}: {error}") from error


def is_npz(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an .npz file does, which is a ZIP file. Raises ArchiveError if it cannot be read."""
    with open(_regular_file(path), "rb") as file:
        return file.read(2) == b"PK"


def load_user_array(
    path: str | os.PathLike[str],
    key: str | None = None,
    *,
    usual: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> NDArray[Any]:
    """Read one numeric array of a user's .npy or .npz file.

    Args:
        path: The file.
        key: The name of the array, for an .npz file with several arrays.
        usual: The array that is taken where there are several and none is named, if the file has it.
        max_bytes: See `load_npz`.

    Returns:
        The array, C-contiguous and in native byte order.

    Raises:
        ArchiveError: The file cannot be read (see `load_npz`), the name is missing or unknown, or the array does not
            hold numbers.
    """
    source = _regular_file(path)
    with open(source, "rb") as file:
        magic = file.read(6)
    if magic == npy_format.MAGIC_PREFIX:
        if source.stat().st_size > max_bytes:
            raise ArchiveError(f"{source} has {source.stat().st_size} bytes, more than the {max_bytes} allowed")
        array, where = _read_npy(source.read_bytes(), str(source)), str(source)
    elif magic[:2] == b"PK":
        arrays = load_npz(source, max_bytes=max_bytes)
        names = ", ".join(sorted(arrays))
        if key is None and usual in arrays:
            key = usual
        if key is None and len(arrays) > 1:
            raise ArchiveError(f"{source} holds several arrays ({names}); give the name of one")
        if key is not None and key not in arrays:
            raise ArchiveError(f"{source} has no array {key!r}; it holds: {names}")
        name = next(iter(arrays)) if key is None else key
        array, where = arrays[name], f"{source}, {name}"
    else:
        raise ArchiveError(f"{source} is neither .npy nor .npz (it starts with {magic!r})")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ArchiveError(f"{where} holds {kind}, expected one array of numbers")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _regular_file(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    if not source.exists():
        raise ArchiveError(f"there is no file {source}")
    if not source.is_file():
        raise ArchiveError(f"{source} is {'a folder' if source.is_dir() else 'not a regular file'}, expected a file")
    if source.stat().st_size == 0:
        raise ArchiveError(f"{source} is empty (0 bytes); is the download complete?")
    return source


def _checked_members(archive: zipfile.ZipFile, source: Path, max_bytes: int) -> list[zipfile.ZipInfo]:
    members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if not members:
        raise ArchiveError(f"{source} holds no .npy members; it is not a NumPy archive")
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArchiveError(f"{source} holds {twice} twice")
    total = sum(info.file_size for info in members)
    if total > max_bytes:
        raise ArchiveError(f"{source} expands to {total} bytes, more than the {max_bytes} allowed")
    # Compare with the size of the file, not with the declared sizes: members may overlap, and small members add up.
    if total > max(_RATIO_EXEMPT_BYTES, MAX_RATIO * source.stat().st_size):
        raise ArchiveError(
            f"{source} expands {source.stat().st_size} bytes to {total}, more than {MAX_RATIO}-fold; motion "
            "data does not: refused as a possible decompression bomb"
        )
    for info in members:
        if info.flag_bits & 1:
            raise ArchiveError(f"{source}: member {info.filename} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(f"{source}: member {info.filename} is neither stored nor deflated, as NumPy writes it")
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> bytes:
    with archive.open(info) as member:
        content = member.read(info.file_size)
        if len(content) != info.file_size or member.read(1):
            raise ArchiveError(f"{source}: member {info.filename} does not have the {info.file_size} bytes it declares")
    return content


def _unwrap(array: NDArray[Any]) -> Any:
    return array.item() if array.dtype == object and array.ndim == 0 else array


def _read_npy(content: bytes, source: str) -> NDArray[Any]:
    file = io.BytesIO(content)
    try:
        shape, fortran_order, dtype = _read_header(file)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArchiveError(f"{source} is not a whole .npy array: {reason}") from error
    if len(shape) > MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise ArchiveError(f"{source} declares the impossible shape {shape}")
    count = math.prod(shape)
    if dtype.hasobject:
        if dtype.kind != "O":
            raise ArchiveError(f"{source} has the type {dtype}, expected numbers or a pickled object")
        values = load_numpy_pickle(content[file.tell() :], source)
        if not isinstance(values, np.ndarray) or values.dtype != object or values.size != count:
            raise ArchiveError(f"{source} declares an object array of shape {shape} and holds something else")
        return values.reshape(shape)
    remaining = len(content) - file.tell()
    if count * dtype.itemsize != remaining:
        raise ArchiveError(
            f"{source} declares {count} values of {dtype.itemsize} bytes (shape {shape}) and holds {remaining} "
            "bytes; is the file whole?"
        )
    if remaining == 0:
        return np.empty(shape, dtype) if count == 0 else np.zeros(shape, dtype)
    # Copy the array: a view would keep the whole member in memory and would be read-only.
    values = np.frombuffer(content, dtype=dtype, count=count, offset=file.tell()).copy()
    return values.reshape(shape, order="F" if fortran_order else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
    raise ValueError(f"format version {version}, expected 1.0 or 2.0")
