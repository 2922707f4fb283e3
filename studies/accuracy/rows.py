"""The rows of a study. A row is a lifter, a refiner, or another score of the models of other rows."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from
from refiner.ranges import Between
from refiner.shape import ShapeOf

Kind = Literal["lifter", "refiner", "score"]
Method = Literal["none", "refine", "linear", "one-euro", "savitzky-golay"]
Action = Literal["", "unknown", "label"]
# The values that a field of a row can have.
Value = str | int | bool | tuple[str, ...]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a row is scored. Only rows with equal conditions are compared."""

    data: str
    pool_shape: bool
    shape_of: ShapeOf
    flip_test: bool = False
    smooth: bool = False


@dataclass(frozen=True)
class Refinement:
    """A refiner that refines the poses of a lifter, with its options. Both models are named by their rows."""

    refiner: str
    lifter: str
    data: str
    action: Action
    flip_test: bool = False
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class ScoredRow:
    """The fields of every row. A row is one line of the report.

    Attributes:
        name: Its name in the table.
        title: Its description in the report.
        group: The heading of its group in the report.
        data: The variant of the data that it is scored on.
        action: The action that a lifter with text prompts gets: "" for its own guess, "unknown" for none, or "label"
            for the archive's label.
        pool_shape: Whether all poses get one body shape (`refiner.shape`).
        shape_of: The group of poses with one body shape: a clip, all clips of a person from one camera, or all clips of
            a person from all cameras.
        detail: Whether the report also has histograms, errors by joint and by position in the window, and pictures.
    """

    kind: ClassVar[Kind]

    name: str
    title: str
    group: str
    data: str = "default"
    action: Action = ""
    pool_shape: bool = False
    shape_of: ShapeOf = "clip"
    detail: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRow(ScoredRow):
    """The fields of the rows with their own checkpoint.

    Attributes:
        config: The configuration of its training.
        set: Changes of the configuration.
        start_from: The row whose weights the training starts from.
        checkpoint: The name of a bundled model, or a file with its suffix, which replaces the training.
        keep: The checkpoint that is scored: "last" of the training, or "best" on the validation person.
    """

    config: str = ""
    set: tuple[str, ...] = ()
    start_from: str = ""
    checkpoint: str = ""
    keep: Literal["last", "best"] = "last"

    @property
    def trained(self) -> bool:
        """Whether the study trains a model for this row."""
        return not self.checkpoint

    @property
    def conditions(self) -> Conditions:
        """The conditions of its scores."""
        return Conditions(self.data, self.pool_shape, self.shape_of)


@dataclass(frozen=True, kw_only=True)
class LifterRow(ModelRow):
    """A lifter.

    Attributes:
        fold: With a fold i of 0 or more, the training leaves out every third person, starting with the i-th.
    """

    kind: ClassVar[Kind] = "lifter"

    fold: Annotated[int, Between(-1, 100)] = -1

    @property
    def lifted_by(self) -> str:
        """The row of the lifter whose poses are scored."""
        return self.name

    @property
    def refinement(self) -> Refinement | None:
        """None, because no refiner runs."""
        return None

    @property
    def models(self) -> tuple[str, ...]:
        """The rows whose checkpoints its scores depend on."""
        return (self.name,)

    def needs(self) -> list[str]:
        """The rows that must run before this one."""
        return _named(self.start_from)

    def problem(self) -> str:
        """A message about fields that contradict each other; "" if there are none."""
        return ""


@dataclass(frozen=True, kw_only=True)
class RefinerRow(ModelRow):
    """A refiner.

    Attributes:
        lifter: The row of the lifter whose poses it is trained on.
        cross_fit: Rows of lifters for cross-fitting: each lifts only the people that its training left out, and these
            poses replace those of ``lifter`` in the training.
    """

    kind: ClassVar[Kind] = "refiner"

    lifter: str = ""
    cross_fit: tuple[str, ...] = ()

    @property
    def lifted_by(self) -> str:
        """The row of the lifter whose poses are refined."""
        return self.lifter

    @property
    def refinement(self) -> Refinement | None:
        """The refinement of its lifter's poses."""
        return Refinement(self.name, self.lifter, self.data, self.action)

    @property
    def models(self) -> tuple[str, ...]:
        """The rows whose checkpoints its scores depend on."""
        return (self.name, self.lifter)

    def needs(self) -> list[str]:
        """The rows that must run before this one, without repetition."""
        return _named(self.lifter, self.start_from, *self.cross_fit)

    def problem(self) -> str:
        """A message about fields that contradict each other; "" if there are none."""
        return "" if self.lifter else "lifter: a refiner names no lifter"


@dataclass(frozen=True, kw_only=True)
class ScoreRow(ScoredRow):
    """A score of the models of other rows. Nothing is trained for it.

    Attributes:
        lifter: The row of the lifter whose poses are scored.
        method: The change of these poses: none, by a refiner, by a refiner's conditional mean alone, or by a filter.
        of: The row of the refiner.
        steps: The refiner's denoising steps; 0 for the number of its training.
        flip_test: Whether the lifter and the refiner average with their mirrored passes.
        smooth: Whether refined poses are smoothed, as the option of `Refiner` does it.
    """

    kind: ClassVar[Kind] = "score"

    lifter: str = ""
    method: Method = "refine"
    of: str = ""
    steps: Annotated[int, Between(0, 1000)] = 0
    flip_test: bool = False
    smooth: bool = False

    @property
    def trained(self) -> bool:
        """False, because nothing is trained."""
        return False

    @property
    def conditions(self) -> Conditions:
        """The conditions of its scores."""
        return Conditions(self.data, self.pool_shape, self.shape_of, self.flip_test, self.smooth)

    @property
    def lifted_by(self) -> str:
        """The row of the lifter whose poses are scored."""
        return self.lifter

    @property
    def refinement(self) -> Refinement | None:
        """The refinement; None for another method."""
        if self.method != "refine":
            return None
        return Refinement(self.of, self.lifter, self.data, self.action, self.flip_test, self.steps)

    @property
    def models(self) -> tuple[str, ...]:
        """The rows whose checkpoints its scores depend on."""
        return tuple(_named(self.lifter, self.of))

    def needs(self) -> list[str]:
        """The rows that must run before this one, without repetition."""
        return _named(self.lifter, self.of)

    def problem(self) -> str:
        """A message about fields that contradict each other; "" if there are none."""
        if not self.lifter:
            return "lifter: a score needs a lifter"
        if self.method in ("refine", "linear") and not self.of:
            return "of: a score by this method needs the row `of` whose refiner it scores"
        if self.smooth and self.method != "refine":
            return "smooth is for rows that score a refiner"
        return ""


Row = LifterRow | RefinerRow | ScoreRow
TYPES: dict[Kind, type[Row]] = {"lifter": LifterRow, "refiner": RefinerRow, "score": ScoreRow}
# The names of the kinds in messages.
ROWS_OF_KIND: dict[Kind, str] = {
    "lifter": "rows of the kind lifter",
    "refiner": "rows of the kind refiner",
    "score": "rows of the kind score, rows that score a refiner or a lifter in another way",
}
# A row in a report has the fields of all kinds, in this order. Fields that its kind lacks have these values. The order
# and the values must not change, because recipes are hashes of them.
RECORD: dict[str, Value] = {
    "name": "",
    "title": "",
    "group": "",
    "kind": "",
    "config": "",
    "set": (),
    "lifter": "",
    "cross_fit": (),
    "start_from": "",
    "fold": -1,
    "of": "",
    "method": "refine",
    "steps": 0,
    "pool_shape": False,
    "shape_of": "clip",
    "flip_test": False,
    "smooth": False,
    "data": "default",
    "action": "",
    "checkpoint": "",
    "keep": "last",
    "detail": False,
}
# Fields of a table that do not affect the results.
WORDS = ("title", "group")


def record_of(row: Row) -> dict[str, Value]:
    """The row in the form of a report, with the fields of all kinds."""
    own: dict[str, Value] = {"kind": row.kind, **dataclasses.asdict(row)}
    return {name: own.get(name, default) for name, default in RECORD.items()}


def row_from(content: object, where: str) -> Row:
    """Read a row from its TOML table.

    Args:
        content: The table.
        where: The file, for messages.

    Returns:
        The row, of the type of its kind.

    Raises:
        ConfigError: A field is unknown, belongs to another kind, has a wrong type, or contradicts other fields. The
            message names the row and the field.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: a row must be a table, got {content!r}")
    where = f"{where}: row {content.get('name', '?')}"
    kind = content.get("kind")
    if kind not in TYPES:
        raise ConfigError(f"{where}: kind: expected one of {', '.join(TYPES)}, got {kind!r}")
    _check_kind(content, kind, where)
    _check_words(content, where)
    row = dataclass_from(TYPES[kind], {name: value for name, value in content.items() if name != "kind"}, where)
    problem = row.problem()
    if problem:
        raise ConfigError(f"{where}: {problem}")
    return row


def _fields(kind: Kind) -> set[str]:
    return {"kind", *(entry.name for entry in dataclasses.fields(TYPES[kind]))}


def _check_kind(content: Mapping[str, object], kind: Kind, where: str) -> None:
    """Raise ConfigError for fields that only other kinds of rows have."""
    for name in content:
        others = [ROWS_OF_KIND[other] for other in TYPES if name in _fields(other)]
        if others and name not in _fields(kind):
            raise ConfigError(f"{where}: {name} is for {' and '.join(others)}; this one is of the kind {kind}")


def _check_words(content: Mapping[str, object], where: str) -> None:
    action = content.get("action", "")
    if action not in typing.get_args(Action):
        raise ConfigError(f"{where}: action: got {action!r}; expected unknown or label")
    shape = content.get("shape_of", "clip")
    if shape not in typing.get_args(ShapeOf) or (shape != "clip" and not content.get("pool_shape")):
        shapes = ", ".join(typing.get_args(ShapeOf))
        raise ConfigError(f"{where} has shape_of {shape!r}; expected one of {shapes}, with pool_shape")


def _named(*names: str) -> list[str]:
    return list(dict.fromkeys(name for name in names if name))
