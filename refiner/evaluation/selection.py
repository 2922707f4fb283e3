"""Selection of the subjects and clips of an archive that are scored, and its description in a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from refiner.errors import UsageError

# The words for the values of the setting ``shape_of``.
SHAPES = {"clip": "a clip", "camera": "a person and camera", "person": "a person"}

Positions = Mapping[str, Mapping[str, NDArray[Any]]]

CMU_ACKNOWLEDGEMENT = (
    "The data used in this project was obtained from mocap.cs.cmu.edu. "
    "The database was created with funding from NSF EIA-0196217."
)


def describe_archive(name: str) -> str:
    """Describe an archive by its file name, with the note that must stand beside its figures."""
    return f"{name} (CMU motion capture; not comparable with Human3.6M's tables)" if _is_cmu(name) else name


def acknowledgement_of(name: str) -> str | None:
    """Return the acknowledgement that an archive requires, by its file name; None if it requires none."""
    return CMU_ACKNOWLEDGEMENT if _is_cmu(name) else None


def _is_cmu(name: str) -> bool:
    return name.startswith("data_3d_cmu")


def select_people(choice: str, split: Mapping[str, Sequence[str]], positions: Positions) -> list[str]:
    """Return the subjects that the option ``--subjects`` names.

    Args:
        choice: A part of the split (train, validation, test), or names separated by commas.
        split: The subjects of each part.
        positions: The 3D poses of the archive.

    Raises:
        UsageError: A subject does not exist, or the part of the split is empty.
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
    """Describe subjects by part of the split, for example ``test people S2, S14``; training subjects are marked."""
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
    """Return the clips of some subjects, at most ``limit`` of them, spread evenly over the order of the archive.

    Raises UsageError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit-clips: expected at least 1, got {limit}")
    clips = [(person, key) for person in people for key in positions[person]]
    if limit is not None and limit < len(clips):
        clips = [clips[index * len(clips) // limit] for index in range(limit)]
    selected: dict[str, dict[str, NDArray[Any]]] = {}
    for person, key in clips:
        selected.setdefault(person, {})[key] = positions[person][key]
    return selected


def describe_settings(settings: Mapping[str, Any]) -> list[str]:
    """Describe the settings of a report that change the scored poses or clips."""
    phrases = []
    if settings.get("flip_test"):
        phrases.append("averaged with the mirrored pass")
    if settings.get("smoothing"):
        phrases.append("refined poses smoothed")
    if settings.get("pool_shape"):
        phrases.append(f"refined poses with one body shape {SHAPES[settings.get('shape_of', 'clip')]}")
    if settings.get("limit_clips"):
        phrases.append("a few of the archive's clips alone")
    return phrases
