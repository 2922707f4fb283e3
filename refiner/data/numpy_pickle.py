"""Unpickling of NumPy data without running any code that the pickle names.

The loader first checks the stream opcode by opcode. Then it unpickles the stream and refuses every global except
NumPy's four and a few builtins. Even these are replaced by classes that only record the bytes. NumPy's own
``__setstate__`` methods trust their input (a forged dtype can make them read bytes as object pointers), so
``numpy.frombuffer`` builds the arrays from the recorded bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ArchiveError, UnsafeArchiveError

MAX_DIMENSIONS = 32
_MAX_OPCODES = 5_000_000
_DTYPE_CODE = re.compile(r"(?:[bui][1248]|f[248]|[SU]\d{1,4}|O[48]?)\Z")
_BYTE_ORDERS: dict[object, Literal["<", ">", "=", "|"]] = {"<": "<", ">": ">", "=": "=", "|": "|"}
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUILTIN_MODULES = ("builtins", "__builtin__")
_PENDING = object()


def load_numpy_pickle(stream: bytes, source: str) -> Any:
    """Load a pickle of NumPy arrays, scalars, text, numbers and builtin containers.

    Args:
        stream: The pickle.
        source: The name of the file, for messages.

    Returns:
        The content of the pickle.

    Raises:
        UnsafeArchiveError: The pickle names anything else; the message has its ``module.name``.
        ArchiveError: The pickle is damaged or truncated, or it declares more data than it holds.
    """
    _check_opcodes(stream, source)
    try:
        # latin1, because Python 2 pickled raw bytes, such as the data of arrays, as str.
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
    """Refuse streams that would make the C unpickler allocate huge memory before they name a global."""
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(stream)):
            count += 1
            if count > _MAX_OPCODES:
                raise ArchiveError(f"{source} holds a pickle of more than {_MAX_OPCODES} steps")
            # The memo of the C unpickler is an array, which grows to the largest index in the file.
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > max(255, 2 * count):
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
        # Python 3 with protocol 2 writes bytes as _codecs.encode(text, 'latin1'), and b"" as bytes().
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
        raise UnsafeArchiveError("asks for a persistent object, which NumPy data never needs; nothing was run")


# These replacement classes have no __dict__, so that a file cannot set attributes on them.
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
            raise UnsafeArchiveError(f"asks to load _codecs.encode with {encoding!r}; only latin1 text is NumPy data")
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
        # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata]). The type code determines
        # the last fields, so the values in the file are not used.
        if not isinstance(state, tuple) or len(state) not in (8, 9) or any(part is not None for part in state[2:5]):
            raise ArchiveError("a type in the pickle is structured, expected plain numbers, text or objects")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in _BYTE_ORDERS:
            raise ArchiveError(f"a type in the pickle has the byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(_BYTE_ORDERS[order])


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
            or len(shape) > MAX_DIMENSIONS
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
        order: Literal["F", "C"] = "F" if self.fortran_order else "C"
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
        actual = f"{len(raw)} bytes" if isinstance(raw, bytes) else type(raw).__name__
        raise ArchiveError(f"an array in the pickle declares {count} values of type {dtype} and holds {actual}")
    if not raw:
        return np.zeros(count, dtype=dtype)
    return np.frombuffer(raw, dtype=dtype).copy()


def _resolve(value: Any, memo: dict[int, Any]) -> Any:
    """Replace the records inside ``value`` with arrays. An object that occurs twice stays one object."""
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
