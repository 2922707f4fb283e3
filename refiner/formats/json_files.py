"""JSON files of unknown origin: read whole or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError
from refiner.json_text import JsonError, parse_json

# The keypoints of an hour at 60 frames/s with a few people are below this.
LARGEST_BYTES = 2 << 30


def read_json(file: Path, largest: int = LARGEST_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ArchiveError: the file is missing, too large, or no JSON.
    """
    try:
        if file.stat().st_size > largest:
            raise ArchiveError(f"{file} has more than {largest} bytes; split it into several files")
        return parse_json(file.read_bytes())
    except OSError as error:
        raise ArchiveError(f"cannot read {file}: {error.strerror or error}") from error
    except JsonError as error:
        raise ArchiveError(f"{file} is no JSON: {str(error)[:200]}") from error


def entry(content: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """``content[name]`` of the type ``kind``.

    Raises:
        ArchiveError: ``content`` is no object, the entry is missing or of another type.
    """
    if not isinstance(content, dict) or name not in content:
        raise ArchiveError(f"{where}: there is no {name!r}")
    value = content[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        names = kind.__name__ if isinstance(kind, type) else " or ".join(part.__name__ for part in kind)
        raise ArchiveError(f"{where}: {name!r} is {type(value).__name__}, expected {names}")
    return value


def whole_number(value: Any) -> int | None:
    """A number that a tracker gave to a person: an integer of at most 18 digits, perhaps in a list; None otherwise."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18
    return value if usable else None


def triples(values: Any, where: str) -> tuple[list[list[float]], list[float]]:
    """``[x, y, c, x, y, c, ...]`` -> pairs and confidences.

    Raises:
        ArchiveError: the list does not consist of triples.
    """
    if not isinstance(values, list) or len(values) % 3 or not values:
        raise ArchiveError(f"{where}: expected a list of x, y, confidence for each joint")
    return [values[index : index + 2] for index in range(0, len(values), 3)], values[2::3]
