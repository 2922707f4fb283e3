"""Arrays of callers, of any library, as NumPy arrays. All public functions convert their arrays here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import DTypeError, InputError, ShapeError

# The kinds of NumPy types that hold real numbers.
REAL = "fiu"


def as_array(value: object, name: str, expected: str) -> NDArray[Any]:
    """Convert lists, arrays and PyTorch tensors to a NumPy array, which may share their memory.

    The masked entries of masked arrays become NaN. Tensors are detached from their gradients and copied from their
    device; types that NumPy lacks, such as bfloat16, become float32. A long double becomes a double.

    Args:
        value: of the caller.
        name: the name of the argument, for messages.
        expected: what is expected, for messages.

    Raises:
        ShapeError: a list is ragged.
        DTypeError: it cannot be read as an array.
    """
    try:
        array = np.asarray(_plain(value))
    except ValueError as error:  # lists of different lengths
        raise ShapeError(f"{name} cannot be read as an array ({error}); {expected}") from error
    except MemoryError:
        raise
    except Exception as error:  # other libraries raise errors of many kinds
        raise DTypeError(f"{name} cannot be read as an array ({error}); {expected}") from error
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
            array = array.astype(np.float64)
    return array


def as_numbers(value: object, name: str, expected: str) -> NDArray[np.float64]:
    """Convert to real numbers of float64. Raises InputError, also for text, switches, objects and complex numbers."""
    array = as_array(value, name, expected)
    if array.dtype.kind not in REAL:
        raise InputError(f"{name} has type {array.dtype}; {expected}")
    return array.astype(np.float64)


def _plain(value: Any) -> Any:
    """Replace masked arrays and tensors, also inside of lists, by NumPy arrays."""
    if isinstance(value, float | int):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(value)
    if hasattr(value, "detach"):
        return _from_tensor(value)
    return value


def _unmasked(value: np.ma.MaskedArray[Any, Any]) -> NDArray[Any]:
    if value.dtype.kind not in f"{REAL}b":
        return value.data
    real = value.astype(np.result_type(value.dtype, np.float32))
    filled: NDArray[Any] = np.ma.filled(real, np.nan)
    return filled


def _from_tensor(value: Any) -> NDArray[Any]:
    tensor = value.detach().cpu()
    try:
        array: NDArray[Any] = tensor.numpy()
    except TypeError:  # a type that NumPy lacks
        if not tensor.is_floating_point():
            raise
        array = tensor.float().numpy()
    return array
