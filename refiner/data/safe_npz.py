"""Read .npy and .npz files, pickled object arrays included, without ever running what a file asks for.

``numpy.load(allow_pickle=True)`` runs any function that a file names. Here a pickle stream is first walked
opcode by opcode, then unpickled with every global refused but NumPy's own four and a few builtins; and even
those are stand-ins that only note the bytes down. NumPy's own state setters trust their input (a forged dtype
can make them read bytes as object pointers), so arrays are built from the notes by ``numpy.frombuffer``.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from refiner.errors import ArchiveError, UnsafeArchiveError

DEFAULT_MAX_BYTES = 8 << 30
MAX_RATIO = 200
_RATIO_EXEMPT_BYTES = (
    64 << 20
)  # a few all-zero arrays deflate 1000:1; only large members have to be plausible
_MAX_OPCODES = 5_000_000
_MAX_HEADER = 10_000
_MAX_DIMENSIONS = 32
_DTYPE_CODE = re.compile(r"(?:[bui][1248]|f[248]|[SU]\d{1,4}|O[48]?)\Z")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTIN_MODULES = ("builtins", "__builtin__")


def load_npz(path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> dict[str, Any]:
    """Every array of an .npz by name; a 0-d object array, the field's way to store a dict, as what it holds.

    ``max_bytes`` caps the uncompressed size of all members together. Raises UnsafeArchiveError, naming
    ``module.name``, where a pickle asks for anything but NumPy data, and ArchiveError for a file that is missing,
    truncated, foreign, too large, or compressed beyond what motion data can be.
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
        raise ArchiveError(
            f"{source} is not a whole .npz file ({error}); is the download complete?"
        ) from error
    except OSError as error:
        raise ArchiveError(f"cannot read {source}: {error}") from error


def load_user_array(
    path: str | os.PathLike[str], key: str | None = None, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> NDArray[Any]:
    """One numeric array of a user's .npy or .npz, C-contiguous and in native byte order.

    ``key`` names the array of an .npz that holds several. Raises ArchiveError as `load_npz` does, and where the
    name is missing or not among the arrays, or the array holds something other than numbers.
    """
    source = _regular_file(path)
    with open(source, "rb") as file:
        magic = file.read(6)
    if magic == npy_format.MAGIC_PREFIX:
        if source.stat().st_size > max_bytes:
            raise ArchiveError(
                f"{source} has {source.stat().st_size} bytes, more than the {max_bytes} allowed"
            )
        array, where = _read_npy(source.read_bytes(), str(source)), str(source)
    elif magic[:2] == b"PK":
        arrays = load_npz(source, max_bytes=max_bytes)
        names = ", ".join(sorted(arrays))
        if key is None and len(arrays) > 1:
            raise ArchiveError(f"{source} holds several arrays ({names}); say which one with its name")
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
        raise ArchiveError(
            f"{source} is {'a folder' if source.is_dir() else 'not a regular file'}, expected a file"
        )
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
    for info in members:
        if info.flag_bits & 1:
            raise ArchiveError(f"{source}: member {info.filename} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(
                f"{source}: member {info.filename} is neither stored nor deflated, as NumPy writes it"
            )
        if info.file_size > max(_RATIO_EXEMPT_BYTES, MAX_RATIO * info.compress_size):
            raise ArchiveError(
                f"{source}: member {info.filename} expands {info.compress_size} bytes to {info.file_size}, more than "
                f"{MAX_RATIO}-fold; motion data does not, so this is taken for a decompression bomb"
            )
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: Path) -> bytes:
    with archive.open(info) as member:
        content = member.read(info.file_size)
        if len(content) != info.file_size or member.read(1):
            raise ArchiveError(
                f"{source}: member {info.filename} does not have the {info.file_size} bytes it declares"
            )
    return content


def _unwrap(array: NDArray[Any]) -> Any:
    return array.item() if array.dtype == object and array.ndim == 0 else array


def _read_npy(content: bytes, source: str) -> NDArray[Any]:
    file = io.BytesIO(content)
    try:
        shape, fortran_order, dtype = _read_header(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArchiveError(f"{source} is not a whole .npy array: {reason}") from error
    if len(shape) > _MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise ArchiveError(f"{source} declares the impossible shape {shape}")
    count = math.prod(shape)
    if dtype.hasobject:
        if dtype != object:
            raise ArchiveError(f"{source} has the type {dtype}, expected numbers or a pickled object")
        values = _unpickle(content[file.tell() :], source)
        if not isinstance(values, np.ndarray) or values.dtype != object or values.size != count:
            raise ArchiveError(f"{source} declares an object array of shape {shape} and holds something else")
        return values.reshape(shape)
    left = len(content) - file.tell()
    if count * dtype.itemsize != left:
        raise ArchiveError(
            f"{source} declares {count} values of {dtype.itemsize} bytes (shape {shape}) and holds {left} bytes"
        )
    if left == 0:
        return np.empty(shape, dtype) if count == 0 else np.zeros(shape, dtype)
    # A copy: a view would keep the whole member alive and could not be written to.
    values = np.frombuffer(content, dtype=dtype, count=count, offset=file.tell()).copy()
    return values.reshape(shape, order="F" if fortran_order else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
    raise ValueError(f"format version {version}, expected 1.0 or 2.0")


def _unpickle(stream: bytes, source: str) -> Any:
    _check_opcodes(stream, source)
    try:
        # latin1: what Python 2 pickled as str holds raw bytes, array data among them.
        loaded = _NumpyUnpickler(io.BytesIO(stream), encoding="latin1").load()
        return _resolve(loaded, {})
    except UnsafeArchiveError as error:
        raise UnsafeArchiveError(f"{source} {error}") from error
    except ArchiveError as error:
        raise ArchiveError(f"{source}: {error}") from error
    except RecursionError as error:
        raise ArchiveError(f"{source} nests its containers too deep") from error
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
        OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise ArchiveError(f"{source} holds a damaged pickle: {error}") from error


def _check_opcodes(stream: bytes, source: str) -> None:
    """Refuse streams that make the C unpickler allocate without end before they name any global."""
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(stream)):
            count += 1
            if count > _MAX_OPCODES:
                raise ArchiveError(f"{source} holds a pickle of more than {_MAX_OPCODES} steps")
            # The C unpickler's memo is an array that grows to the index that the file names.
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument) > max(255, 2 * count):
                raise ArchiveError(f"{source} holds a pickle with the memo index {argument} at step {count}")
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ArchiveError(f"{source} holds a damaged or truncated pickle: {error}") from error


class _NumpyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _ARRAY_MODULES and name == "_reconstruct":
            return _Reconstruct()
        if module in _ARRAY_MODULES and name == "scalar":
            return _Scalar()
        if module == "numpy" and name == "ndarray":
            return _NDARRAY
        if module == "numpy" and name == "dtype":
            return _DtypeFactory()
        # Protocol 2 under Python 3 spells bytes as _codecs.encode(text, 'latin1'), and b"" as bytes().
        if module == "_codecs" and name == "encode":
            return _Latin1()
        if module in _BUILTIN_MODULES and name == "bytes":
            return _EmptyBytes()
        if module in _BUILTIN_MODULES and name in ("set", "frozenset"):
            return set if name == "set" else frozenset
        raise UnsafeArchiveError(
            f"asks to load {module}.{name}, which is not NumPy data and could run code; nothing was run. "
            "Do not open this file with other programs"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeArchiveError(
            "asks for a persistent object, which NumPy data never needs; nothing was run"
        )


# The stand-ins have no __dict__, so that a file cannot leave attributes on them.
class _NdarrayName:
    __slots__ = ()


_NDARRAY = _NdarrayName()


class _Reconstruct:
    __slots__ = ()

    def __call__(self, kind: object, shape: object, code: object) -> _ArrayRecord:
        if kind is not _NDARRAY or shape != (0,):
            raise ArchiveError("an array in the pickle is not a plain numpy.ndarray")
        return _ArrayRecord()


class _Latin1:
    __slots__ = ()

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafeArchiveError(
                f"asks to load _codecs.encode with {encoding!r}; only latin1 text is NumPy data"
            )
        return text.encode("latin1")


class _EmptyBytes:
    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _DtypeFactory:
    __slots__ = ()

    def __call__(self, code: object, align: object = False, copy: object = True) -> _DtypeRecord:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not _DTYPE_CODE.match(text):
            raise ArchiveError(f"the pickle holds values of type {code!r}, expected numbers, text or objects")
        return _DtypeRecord(text)


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: object, content: object = b"") -> Any:
        if not isinstance(dtype, _DtypeRecord) or dtype.dtype.hasobject:
            raise ArchiveError("a NumPy scalar in the pickle has no plain type")
        return _from_bytes(content, dtype.dtype, 1)[0]


class _DtypeRecord:
    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        self.dtype: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata]); the size, alignment
        # and flags follow from the code, so the file's own are not used.
        if (
            not isinstance(state, tuple)
            or len(state) not in (8, 9)
            or any(part is not None for part in state[2:5])
        ):
            raise ArchiveError("a type in the pickle is structured, expected plain numbers, text or objects")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|"):
            raise ArchiveError(f"a type in the pickle has the byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _ArrayRecord:
    __slots__ = ("content", "dtype", "fortran_order", "shape")

    shape: tuple[int, ...] | None

    def __init__(self) -> None:
        self.shape = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ArchiveError("an array in the pickle has a state that NumPy does not write")
        _, shape, dtype, fortran_order, content = state
        if (
            not isinstance(shape, tuple)
            or len(shape) > _MAX_DIMENSIONS
            or any(not isinstance(size, int) or size < 0 for size in shape)
        ):
            raise ArchiveError(f"an array in the pickle declares the impossible shape {shape}")
        if not isinstance(dtype, _DtypeRecord):
            raise ArchiveError("an array in the pickle has no type")
        self.shape, self.dtype, self.fortran_order, self.content = (
            shape,
            dtype.dtype,
            bool(fortran_order),
            content,
        )

    def build(self, memo: dict[int, Any]) -> NDArray[Any]:
        if self.shape is None:
            raise ArchiveError("an array in the pickle has no content")
        count = math.prod(self.shape)
        order = "F" if self.fortran_order else "C"
        if not self.dtype.hasobject:
            return _from_bytes(self.content, self.dtype, count).reshape(self.shape, order=order)
        if not isinstance(self.content, list) or len(self.content) != count:
            raise ArchiveError(f"an object array in the pickle does not hold the {count} entries it declares")
        values = np.empty(count, dtype=object)
        for index, value in enumerate(self.content):
            values[index] = _resolve(value, memo)
        return values.reshape(self.shape, order=order)


def _from_bytes(content: object, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    raw = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(raw, bytes) or len(raw) != count * dtype.itemsize:
        found = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
        raise ArchiveError(
            f"an array in the pickle declares {count} values of type {dtype} and holds {found}"
        )
    if not raw:
        return np.zeros(count, dtype=dtype)
    return np.frombuffer(raw, dtype=dtype).copy()


def _resolve(value: Any, memo: dict[int, Any]) -> Any:
    """Replace the records inside ``value`` by arrays; objects that occur twice stay one object."""
    if not isinstance(value, (_ArrayRecord, _DtypeRecord, _NdarrayName, dict, list, tuple)):
        return value
    if id(value) in memo:
        resolved = memo[id(value)]
        if resolved is _PENDING:
            raise ArchiveError("the pickle holds a container that contains itself")
        return resolved
    memo[id(value)] = _PENDING
    result: Any
    if isinstance(value, _ArrayRecord):
        result = value.build(memo)
    elif isinstance(value, dict):
        result = {key: _resolve(entry, memo) for key, entry in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_resolve(entry, memo) for entry in value)
    else:
        raise ArchiveError("the pickle holds a NumPy type where data is expected")
    memo[id(value)] = result
    return result


_PENDING = object()
