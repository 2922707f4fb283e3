"""JSON of unknown origin: parsed to plain values, or refused with one error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

# Sign and digits of a 64-bit integer. A longer one fits no array, and Python refuses thousands of digits by itself.
MOST_DIGITS = 20
_NUMBERS = {int, float, type(None)}


class JsonError(ValueError):
    """A text is no JSON, or JSON that no program of ours should guess at; the message names the reason."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    NaN and Infinity, which Python's own writer emits, are read as numbers.

    Args:
        text: A text, or its bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        JsonError: The text is no JSON, is nested too deeply, has an integer of more than 64 bits, or gives an object
            the same name twice.
    """
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except JsonError:
        raise
    except RecursionError as error:
        raise JsonError("it is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError, too
        raise JsonError(str(error)) from error


def other_than_number(values: object) -> object | None:
    """The first value in nested lists that is neither a number nor null; None where there is none.

    NumPy would convert strings and booleans without a word.
    """
    if _are_rows_of_numbers(values):
        return None
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting.extend(reversed(value))
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return value
    return None


def _are_rows_of_numbers(values: object) -> bool:
    """Whether values are a list of lists of numbers and null, as nearly all are. This is much faster than a walk."""
    if type(values) is not list or not all(type(row) is list for row in values):
        return False
    return {type(value) for row in values for value in row} <= _NUMBERS


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError(f"it has an integer of {len(digits.lstrip('-'))} digits; expected 64 bits at most")
    return int(digits)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"it has the name {twice[:40]!r} twice in one object")
    return content
