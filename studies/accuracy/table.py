"""The table of a study (TOML): which models are trained, and which are scored another way.

[study]   title, seeds
[budget]  overrides for every lifter and every refiner: how long they train
[quick]   overrides that make them toys
[data.X]  a variant of the scored data: cameras, detections, noise, frame rate
[[row]]   one line of the report, see `Row`
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refiner.errors import ConfigError
from refiner.shape import ShapeOf
from refiner.training.config import Config, load_config

TABLE = Path(__file__).with_name("study.toml")
QUICK_TABLE_SECTION = "quick"

Kind = Literal["lifter", "refiner", "score"]
Method = Literal["none", "refine", "linear", "one-euro", "savitzky-golay"]


@dataclass(frozen=True)
class Variant:
    """Scored data: the archive's cameras or ones that nobody saw; ``noise`` multiplies the simulated detector's."""

    detections: Literal["simulated", "ground-truth"] = "simulated"
    noise: float = 1.0
    cameras: Literal["archive", "random"] = "archive"
    fps: float = 0.0  # 0: the archive's


@dataclass(frozen=True)
class Row:
    """One run or one way of scoring.

    ``lifter``: trained by ``config`` with the overrides ``set``; ``fold`` i leaves every third person out, from the
    i-th on. ``refiner``: trained on the outputs of the row ``lifter``, or of the rows ``cross_fit``. ``score``: the
    refiner of the row ``of`` (or a filter) on the outputs of ``lifter``, on the data variant ``data``.
    """

    name: str
    title: str
    group: str
    kind: Kind
    config: str = ""
    set: tuple[str, ...] = ()
    lifter: str = ""
    cross_fit: tuple[str, ...] = ()
    # The row whose weights the training begins with.
    start_from: str = ""
    fold: int = -1
    of: str = ""
    method: Method = "refine"
    steps: int = 0
    # One body shape a clip (`refiner.shape`), whatever the method.
    pool_shape: bool = False
    # Of that shape: of a clip, of all clips of a person by one camera, or by every camera.
    shape_of: ShapeOf = "clip"
    # Of a score: the lifter and the refiner average with their mirrored passes.
    flip_test: bool = False
    # Of a refiner that is scored: smoothed as `Refiner` does it.
    smooth: bool = False
    data: str = "default"
    # What a lifter with prompts is told: by default what it guesses; that the action is unknown; the archive's label.
    action: Literal["", "unknown", "label"] = ""
    # A bundled model's name or a file (with its suffix) instead of training.
    checkpoint: str = ""
    # Which checkpoint counts: the end of the schedule, or the best on the validation person.
    keep: Literal["last", "best"] = "last"
    # Also histograms, errors by joint and by position in the window, and pictures.
    detail: bool = False

    @property
    def trained(self) -> bool:
        """Whether there is something to train."""
        return self.kind != "score" and not self.checkpoint

    def needs(self) -> list[str]:
        """The rows that must be there before this one, without repetition."""
        return list(dict.fromkeys(name for name in (self.lifter, self.of, self.start_from, *self.cross_fit) if name))


@dataclass(frozen=True)
class Table:
    """A whole study; ``budget`` and ``toy`` are overrides by kind, before and after a row's own."""

    title: str
    seeds: tuple[int, ...]
    budget: dict[str, tuple[str, ...]]
    toy: dict[str, tuple[str, ...]]
    variants: dict[str, Variant]
    rows: tuple[Row, ...] = field(repr=False)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def overrides(self, row: Row) -> list[str]:
        """What a trained row changes in its configuration, the last one counting."""
        return [*self.budget.get(row.kind, ()), *row.set, *self.toy.get(row.kind, ())]

    def recipe(self, row: Row) -> dict[str, Any]:
        """All that a row's figures follow from, as far as a table and its configurations say, the rows that it needs
        included: what differs from the defaults, so that a new field changes no old recipe."""
        facts: dict[str, Any] = {
            "row": {
                entry.name: value
                for entry in dataclasses.fields(row)
                if entry.name not in ("title", "group") and (value := getattr(row, entry.name)) != entry.default
            },
            "data": dataclasses.asdict(self.variants[row.data]),
            "needs": [self.recipe(self.row(name)) for name in row.needs()],
        }
        if row.trained:
            config = load_config(row.config, self.overrides(row))
            usual = dataclasses.asdict(Config(config.kind))
            facts["config"] = _unlike(dataclasses.asdict(config), usual)
        return facts

    def select(self, names: Collection[str]) -> list[Row]:
        """The rows of those names and what they need, in an order in which they can run; no name means all."""
        known = [row.name for row in self.rows]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigError(f"the study has no row {', '.join(unknown)}; its rows: {', '.join(known)}")
        chosen: dict[str, Row] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ConfigError(f"rows need each other in a circle: {' -> '.join((*path, name))}")
            if name in chosen:
                return
            row = self.row(name)
            for needed in row.needs():
                visit(needed, (*path, name))
            chosen[name] = row

        for name in names or known:
            visit(name, ())
        return list(chosen.values())


def _unlike(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """The entries that are not as usual, in sections, too."""
    return {
        name: _unlike(value, usual[name]) if isinstance(value, dict) and isinstance(usual.get(name), dict) else value
        for name, value in values.items()
        if value != usual.get(name)
    }


def load_table(path: Path = TABLE, quick: bool = False) -> Table:
    """Read a study. ``quick`` puts the overrides of [quick] after all others: the same rows at toy size.

    Raises ConfigError for what cannot be read, unknown keys and rows that name others that are not there.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the study {path}: {error}") from error
    variants = {"default": Variant()}
    variants |= {name: _build(Variant, value, f"data.{name}") for name, value in content.get("data", {}).items()}
    rows = tuple(_build(Row, value, f"row {value.get('name', '?')}") for value in content.get("row", []))
    study = content.get("study", {})
    title, seeds = str(study.get("title", "Accuracy study")), tuple(study.get("seeds", [0]))
    budget, toy = (
        {kind: tuple(values) for kind, values in content.get(section, {}).items()}
        for section in ("budget", QUICK_TABLE_SECTION)
    )
    table = Table(title, seeds, budget, toy if quick else {}, variants, rows)
    _check(table, path)
    return table


def _build(kind: Any, value: dict[str, Any], where: str) -> Any:
    known = {entry.name for entry in dataclasses.fields(kind)}
    unknown = sorted(set(value) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check(table: Table, path: Path) -> None:
    names = [row.name for row in table.rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise ConfigError(f"{path}: " + (f"rows named twice: {', '.join(twice)}" if twice else "no rows"))
    for row in table.rows:
        missing = [name for name in row.needs() if name not in names]
        if missing:
            raise ConfigError(f"{path}: row {row.name} needs {', '.join(missing)}, which is not in the table")
        if row.action not in typing.get_args(typing.get_type_hints(Row)["action"]):
            raise ConfigError(f"{path}: row {row.name} has the action {row.action!r}; expected unknown or label")
        if row.action and not _has_prompts(table.row(row.lifter or row.name)):
            raise ConfigError(f"{path}: row {row.name} has an action, and its lifter no prompts (finepose)")
        if row.start_from and (not row.trained or table.row(row.start_from).kind != row.kind):
            raise ConfigError(
                f"{path}: row {row.name} starts from {row.start_from}; expected a row to train, and one of its kind"
            )
        if row.flip_test and row.kind != "score":
            raise ConfigError(f"{path}: row {row.name} has flip_test, which is for rows of the kind score")
        if row.smooth and (row.kind != "score" or row.method != "refine"):
            raise ConfigError(f"{path}: row {row.name} has smooth, which is for rows that score a refiner")
        if row.shape_of not in typing.get_args(ShapeOf) or (row.shape_of != "clip" and not row.pool_shape):
            shapes = ", ".join(typing.get_args(ShapeOf))
            raise ConfigError(
                f"{path}: row {row.name} has shape_of {row.shape_of!r}; expected one of {shapes}, with pool_shape"
            )
        if row.data not in table.variants:
            raise ConfigError(f"{path}: row {row.name} has the data variant {row.data!r}, which is not there")
        if row.kind == "refiner" and not row.lifter:
            raise ConfigError(f"{path}: row {row.name} is a refiner and names no lifter")
        if row.kind == "score" and (not row.lifter or (row.method in ("refine", "linear") and not row.of)):
            raise ConfigError(f"{path}: row {row.name} needs a lifter, and the row `of` whose refiner it scores")


def _has_prompts(lifter: Row) -> bool:
    """Whether a row's lifter takes actions, as far as the table says: a file may hold anything."""
    return bool(lifter.checkpoint) or load_config(lifter.config).model.architecture == "finepose"
