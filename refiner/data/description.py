"""The file ``clips.json``, which describes a folder of motion: frame rate, split, and the use of its archives.

The split never follows from the names of the subjects, because S9 is a test subject of Human3.6M and a training subject
of CMU's data. The file is one JSON object; docs/data.md shows a complete example::

    fps       number     the frame rate of every clip in the folder, frames/s
    split     object     train, test: lists of subject names; validation: a list, optional
    archives  object     optional; maps a file name (data_3d_x.npz) to an object with two optional keys:
                         cameras: "fixed", or "random" if no fixed camera sees the whole motion
                         weight: how often training draws its frames, relative to other archives

An archive without an entry has weight 1. It has fixed cameras, unless its name ends with ``_free``. Without
``validation`` the validation subject is S5, if S5 is a training subject. Other keys are not read. The first folder of a
training set needs ``fps`` and ``split``; a further folder needs no clips.json.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import ArchiveError, ConfigError
from refiner.json_text import parse_json

DEFAULT_VALIDATION = "S5"
# The names of archives for random cameras end with this: their motion may leave the image of a fixed camera.
FREE_SUFFIX = "_free"


@dataclass(frozen=True)
class ArchiveUse:
    """The use of an archive: whether only random cameras see it, and its weight in training."""

    random_cameras: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class FolderDescription:
    """The content of a folder's clips.json except the training and validation subjects.

    Attributes:
        fps: The frame rate, frames/s; None if the file does not state it.
        test: The test subjects of the folder's own split.
        archives: The use of each archive that the file names, by file name.
    """

    fps: float | None = None
    test: tuple[str, ...] = ()
    archives: Mapping[str, ArchiveUse] = field(default_factory=dict)

    def use_of(self, name: str) -> ArchiveUse:
        """Return the use of an archive, by its file name."""
        return self.archives.get(name, ArchiveUse(_is_free(name)))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> FolderDescription:
        """Read a clips.json. If the file does not exist, return the defaults.

        Raises ArchiveError if the file has another layout; the message names the key.
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
    """The frame rate and the split of an archive.

    Attributes:
        name: The name of the file or the dataset, for messages.
        fps: The frame rate, frames/s.
        train: The training subjects, without the validation subjects.
        validation: The validation subjects.
        test: The test subjects.

    Raises:
        ArchiveError: The frame rate is impossible, a subject is in two parts, or there is no training subject.
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
        """All subjects: training, validation and test."""
        return (*self.train, *self.validation, *self.test)

    @classmethod
    def from_json(
        cls, path: str | os.PathLike[str], validation: str | Collection[str] | None = "default"
    ) -> ArchiveDescription:
        """Read ``{"fps": .., "split": {"train": [..], "test": [..], "validation": [..] (optional)}}``.

        Args:
            path: The file clips.json.
            validation: The subjects that are held out of the training subjects: one name, several names, or None for
                nobody. "default": the file's own validation subjects; if the file names none, S5 if S5 is a training
                subject.

        Raises:
            ArchiveError: The file has another layout.
            ConfigError: A validation subject is not a training subject.
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
        """Return Human3.6M's usual split for lifters: train S1 S5 S6 S7 S8, test S9 S11, 50 frames/s.

        ``validation`` is described in `from_json`; the default is no validation subject.
        """
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
        held_out = (validation,) if isinstance(validation, str) else tuple(dict.fromkeys(validation or ()))
        unknown = [person for person in held_out if person not in train]
        if unknown:
            raise ConfigError(
                f"{name}: the validation person {', '.join(unknown)} is not a training person; "
                f"choose among {', '.join(train)}"
            )
        return cls(name, fps, tuple(person for person in train if person not in held_out), held_out, test)


def _people(split: Mapping[str, Any], part: str, path: str | os.PathLike[str]) -> tuple[str, ...]:
    people = split.get(part)
    if not isinstance(people, list) or not all(isinstance(person, str) for person in people):
        raise ArchiveError(f"{path}: split.{part} is {people!r}, expected a list of subject names")
    return tuple(people)


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        content = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise ArchiveError(f"cannot read the archive's description {path}: {error.strerror}") from error
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise ArchiveError(f"{path} is no archive description: expected an object with 'fps' and 'split'")
    return content


def _use(name: str, entry: object, path: str | os.PathLike[str]) -> ArchiveUse:
    unknown = sorted(set(entry) - {"cameras", "weight"}) if isinstance(entry, Mapping) else [repr(entry)]
    if unknown or not isinstance(entry, Mapping):
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


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArchiveError(f"{where} is {value!r}, expected a number")
    return float(value)
