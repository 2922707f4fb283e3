"""What a folder of motion says of itself, in ``clips.json``: frame rate, split, and how its archives are used.

The split never follows from subject names: S9 is a test person of Human3.6M and a training person of CMU's
data. The file is one JSON object; docs/data.md shows a whole one::

    fps       number     frames per second of every clip in the folder
    split     object     train, test: lists of subject names; validation: a list, optional
    archives  object     optional; by file name (data_3d_x.npz) an object with, both optional,
                         cameras: "fixed", or "random" where no fixed camera sees the whole of it
                         weight: how often its frames are drawn in training beside those of other archives

Without an entry an archive has weight 1 and, where its name does not end with ``_free``, fixed cameras. Without
``validation`` the validation person is S5, where S5 is a training person. Keys that are not named here are for people,
and not read. The first folder of a training set needs ``fps`` and ``split``; a further one needs no clips.json at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError, ConfigError

DEFAULT_VALIDATION = "S5"
# Archives whose motion is not cut to stay inside of fixed images.
FREE_SUFFIX = "_free"


@dataclass(frozen=True)
class ArchiveUse:
    """How an archive is used: seen by random cameras alone or by fixed ones, and its weight in training."""

    random_cameras: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class FolderDescription:
    """What a folder's clips.json says beside the split; ``fps`` None where it says none.

    ``test``: whom its own split keeps for test. ``archives``: by file name, those that it tells of.
    """

    fps: float | None = None
    test: tuple[str, ...] = ()
    archives: Mapping[str, ArchiveUse] = field(default_factory=dict)

    def use_of(self, name: str) -> ArchiveUse:
        """That of the archive of a file name."""
        return self.archives.get(name, ArchiveUse(_is_free(name)))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> FolderDescription:
        """Read a clips.json; a file that does not exist says nothing.

        Raises ArchiveError for another layout, naming the key.
        """
        if not Path(path).exists():
            return cls()
        content = _read(path)
        fps, split = content.get("fps"), content.get("split")
        archives = content.get("archives", {})
        if not isinstance(archives, Mapping):
            raise ArchiveError(f"{path}: archives is {archives!r}, expected an object by file name")
        return cls(
            None if fps is None else _number(fps, f"{path}: fps"),
            _people(split, "test", path) if isinstance(split, Mapping) and "test" in split else (),
            {str(name): _use(str(name), entry, path) for name, entry in archives.items()},
        )


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
        content = _read(path)
        split, fps = content.get("split"), content.get("fps")
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


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchiveError(f"cannot read the archive's description {path}: {error.strerror}") from error
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ArchiveError(f"{path} is no archive description: expected an object with 'fps' and 'split'")
    return content


def _use(name: str, entry: Any, path: str | os.PathLike[str]) -> ArchiveUse:
    unknown = sorted(set(entry) - {"cameras", "weight"}) if isinstance(entry, Mapping) else [repr(entry)]
    if unknown:
        raise ArchiveError(f"{path}: archives.{name} holds {', '.join(unknown)}; expected cameras and weight")
    cameras = entry.get("cameras", "random" if _is_free(name) else "fixed")
    if cameras not in ("fixed", "random"):
        raise ArchiveError(f"{path}: archives.{name}.cameras is {cameras!r}, expected 'fixed' or 'random'")
    weight = _number(entry.get("weight", 1.0), f"{path}: archives.{name}.weight")
    if not 0 < weight < float("inf"):
        raise ArchiveError(f"{path}: archives.{name}.weight is {weight:g}, expected a number above 0")
    return ArchiveUse(cameras == "random", weight)


def _is_free(name: str) -> bool:
    return Path(name).stem.endswith(FREE_SUFFIX)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArchiveError(f"{where} is {value!r}, expected a number")
    return float(value)
