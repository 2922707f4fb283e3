"""Checks of single values that a caller gives: whole numbers, numbers, switches and names.

Each check returns a plain Python value, or raises UsageError with the wrong value and the expected ones. Checks of
arrays are in `refiner.data.inputs`.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from pathlib import Path

from refiner.errors import UsageError

# Error messages show at most this many characters of a value.
LONGEST_VALUE = 80
# More threads than processors make no call faster. This many for each processor leaves room for containers that report
# fewer processors than they have; far more of them end the process where the system refuses a thread.
THREADS_PER_PROCESSOR = 4
LEAST_LIMIT_OF_THREADS = 64


def shown(value: object) -> str:
    """The value as it stands in error messages, shortened where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def check_whole(value: object, name: str, least: int, most: int) -> int:
    """Check a whole number from ``least`` to ``most``.

    Integers of other libraries are accepted. True, 2.0 and "2" are not: a caller who passes them means something else.
    Raises UsageError.
    """
    if not _is_flag(value):
        try:
            number = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if least <= number <= most:
                return number
    raise UsageError(f"{name} is {shown(value)}; expected a whole number from {least} to {most}")


def check_number(value: object, name: str, least: float, most: float = math.inf, unit: str = "") -> float:
    """Check a finite number from ``least`` to ``most``. Text and switches are refused. Raises UsageError."""
    number = math.nan
    # A masked number, and arrays of several numbers, are no number.
    single = getattr(value, "shape", ()) == () and not hasattr(value, "mask")
    if single and not _is_flag(value) and not isinstance(value, str | bytes | bytearray):
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several numbers
            number = math.nan
    if not least <= number <= most or math.isinf(number):
        upper = "" if math.isinf(most) else f" to {most:g}"
        kind = f"{unit}, a number" if unit else "a number"
        raise UsageError(f"{name} is {shown(value)}; expected {kind} from {least:g}{upper or ' on'}")
    return number


def check_flag(value: object, name: str) -> bool:
    """Check a switch: True or False, also of NumPy. Raises UsageError for anything else, such as "no" or 0."""
    if _is_flag(value):
        return bool(value)
    raise UsageError(f"{name} is {shown(value)}; expected True or False")


def _is_flag(value: object) -> bool:
    # NumPy's own type is compared by name, because commands must show their help without NumPy.
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def check_choice(value: object, name: str, choices: Iterable[str]) -> str:
    """Check the name of one of several things. Raises UsageError."""
    allowed = tuple(choices)
    if isinstance(value, str) and value in allowed:
        return value
    raise UsageError(f"there is no {name} {shown(value)}; choose one of {', '.join(allowed)}")


def most_threads() -> int:
    """The largest number of threads on this machine: 4 for each logical processor, and no less than 64."""
    return max(LEAST_LIMIT_OF_THREADS, THREADS_PER_PROCESSOR * (os.cpu_count() or 1))


def check_threads(threads: object, least: int = 1) -> int:
    """Check a number of threads, from ``least`` to `most_threads`. Raises UsageError."""
    return check_whole(threads, "threads", least, most_threads())


def check_path(path: object, name: str = "path") -> Path:
    """Check the name of a file. Raises UsageError for anything but text and path objects."""
    if isinstance(path, str | os.PathLike):
        text = os.fspath(path)
        if isinstance(text, str) and "\0" not in text:
            return Path(text)
    raise UsageError(f"{name} is {shown(path)}; expected the name of a file")
