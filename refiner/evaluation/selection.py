"""Which people and clips of an archive are scored, and the words for it in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from refiner.errors import UsageError

# Whose body shape, by the setting ``shape_of``.
SHAPES = {"clip": "a clip", "camera": "a person and camera", "person": "a person"}

Positions = Mapping[str, Mapping[str, NDArray[Any]]]

CMU_ACKNOWLEDGEMENT = (
    "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217."
)


def describe_archive(name: str) -> str:
    """An archive's file by name, and what must be said of it wherever its figures stand."""
    return f"{name} (CMU motion capture; not comparable with Human3.6M's tables)" if _is_cmu(name) else name


def acknowledgement_of(name: str) -> str | None:
    """Whom to thank for an archive, by its file's name."""
    return CMU_ACKNOWLEDGEMENT if _is_cmu(name) else None


def _is_cmu(name: str) -> bool:
    return name.startswith("data_3d_cmu")


def select_people(choice: str, split: Mapping[str, Sequence[str]], positions: Positions) -> list[str]:
    """The people that ``choice`` names: a key of ``split`` (train, validation, test) or names with commas.

    Raises UsageError when there is nobody of that name, or nobody in that part of the split.
    """
    if choice in split:
        people = list(split[choice])
        if not people:
            raise UsageError(f"--subjects {choice}: the archive's description names nobody for {choice}")
    else:
        people = list(dict.fromkeys(name.strip() for name in choice.split(",") if name.strip()))
    missing = [name for name in people if name not in positions]
    if missing or not people:
        raise UsageError(
            f"--subjects {choice}: no {', '.join(missing) or 'name given'}; "
            f"expected {', '.join(split)} or people of the archive: {', '.join(positions)}"
        )
    return people


def describe_people(people: Sequence[str], split: Mapping[str, Sequence[str]]) -> str:
    """``people`` by part of the split, the training people marked: ``test people S2, S14``."""
    parts = []
    for part, members in split.items():
        chosen = [name for name in people if name in members]
        if chosen:
            warning = " (seen in training)" if part == "train" else ""
            parts.append(f"{part} people {', '.join(chosen)}{warning}")
    known = {name for members in split.values() for name in members}
    others = [name for name in people if name not in known]
    if others:
        parts.append(f"people outside the split {', '.join(others)}")
    return "; ".join(parts)


def limit_clips(positions: Positions, people: Sequence[str], limit: int | None) -> dict[str, dict[str, NDArray[Any]]]:
    """The clips of ``people``; at most ``limit`` of them, spread evenly over the archive's order.

    Raises UsageError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit-clips: expected at least 1, got {limit}")
    clips = [(person, key) for person in people for key in positions[person]]
    if limit is not None and limit < len(clips):
        clips = [clips[index * len(clips) // limit] for index in range(limit)]
    kept: dict[str, dict[str, NDArray[Any]]] = {}
    for person, key in clips:
        kept.setdefault(person, {})[key] = positions[person][key]
    return kept


def told_settings(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a report that change what is scored, in words."""
    told = []
    if settings.get("flip_test"):
        told.append("averaged with the mirrored pass")
    if settings.get("smoothing"):
        told.append("refined poses smoothed")
    if settings.get("pool_shape"):
        told.append(f"refined poses with one body shape {SHAPES[settings.get('shape_of', 'clip')]}")
    if settings.get("limit_clips"):
        told.append("a few of the archive's clips alone")
    return told
