"""What an archive says of itself: its frame rate and its split into training, validation and test people.

The split never follows from subject names: S9 is a test person of Human3.6M and a training person of CMU's
data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError, ConfigError

DEFAULT_VALIDATION = "S5"


@dataclass(frozen=True)
class ArchiveDescription:
    """Frame rate (1/s) and the people of each part; ``train`` no longer holds the validation people.

    Raises ArchiveError where a person is in two parts, or a part that is needed is empty.
    """

    name: str
    fps: float
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < self.fps < 10_000:
            raise ArchiveError(f"{self.name}: the frame rate is {self.fps}, expected frames per second")
        people = (*self.train, *self.validation, *self.test)
        twice = sorted({person for person in people if people.count(person) > 1})
        if twice:
            raise ArchiveError(f"{self.name}: {', '.join(twice)} would be in two parts of the split")
        if not self.train:
            raise ArchiveError(f"{self.name}: no training person is left")

    @property
    def subjects(self) -> tuple[str, ...]:
        """Everybody: training, validation and test people."""
        return (*self.train, *self.validation, *self.test)

    @classmethod
    def from_json(
        cls, path: str | os.PathLike[str], validation: str | Collection[str] | None = "default"
    ) -> ArchiveDescription:
        """Read ``{"fps": .., "split": {"train": [..], "test": [..], "validation": [..] (optional)}}``.

        ``validation`` names the people held out of the training people: one, several, None for nobody. By
        default they are the file's own, or S5 where it names none and S5 is a training person. Raises
        ArchiveError for another layout and ConfigError for a validation person who is not a training
        person.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ArchiveError(f"cannot read the archive's description {path}: {error.strerror}") from error
        except ValueError as error:
            raise ArchiveError(f"{path} is not JSON: {error}") from error
        split = content.get("split") if isinstance(content, Mapping) else None
        fps = content.get("fps") if isinstance(content, Mapping) else None
        if not isinstance(split, Mapping) or isinstance(fps, bool) or not isinstance(fps, (int, float)):
            raise ArchiveError(f"{path} is no archive description: expected 'fps' and 'split' with 'train' and 'test'")
        train, test = _people(split, "train", path), _people(split, "test", path)
        own = _people(split, "validation", path) if "validation" in split else None
        if validation == "default" and own is None:
            validation = DEFAULT_VALIDATION if DEFAULT_VALIDATION in train else None
        elif validation == "default":
            validation = own
        return cls._split(Path(path).name, float(fps), (*train, *(own or ())), test, validation)

    @classmethod
    def human36m(cls, validation: str | Collection[str] | None = None) -> ArchiveDescription:
        """Human3.6M's protocol 1 as lifters use it: train S1 S5 S6 S7 S8, test S9 S11, 50 frames/s."""
        if validation == "default":
            validation = None
        return cls._split("Human3.6M", 50.0, ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11"), validation)

    @classmethod
    def _split(
        cls,
        name: str,
        fps: float,
        train: tuple[str, ...],
        test: tuple[str, ...],
        validation: str | Collection[str] | None,
    ) -> ArchiveDescription:
        train = tuple(dict.fromkeys(train))
        held = (validation,) if isinstance(validation, str) else tuple(dict.fromkeys(validation or ()))
        unknown = [person for person in held if person not in train]
        if unknown:
            raise ConfigError(
                f"{name}: the validation person {', '.join(unknown)} is not a training person; "
                f"choose among {', '.join(train)}"
            )
        return cls(name, fps, tuple(person for person in train if person not in held), held, test)


def _people(split: Mapping[str, Any], part: str, path: str | os.PathLike[str]) -> tuple[str, ...]:
    people = split.get(part)
    if not isinstance(people, list) or not all(isinstance(person, str) for person in people):
        raise ArchiveError(f"{path}: split.{part} is {people!r}, expected a list of subject names")
    return tuple(people)
