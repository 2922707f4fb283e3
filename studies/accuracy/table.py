"""The table of a study (TOML): the models to train, and further scores of models.

[study]   title and seeds
[budget]  changes of the configuration of every lifter and every refiner, for the length of their training
[quick]   changes that turn the models into toys
[data.X]  a variant of the scored data: cameras, detections, noise, frame rate
[[row]]   one line of the report, see `studies.accuracy.rows`
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from
from refiner.ranges import SEED
from refiner.training.config import Config, load_config
from studies.accuracy.clips import Variant
from studies.accuracy.rows import RECORD, WORDS, LifterRow, ModelRow, RefinerRow, Row, record_of, row_from

TABLE = Path(__file__).with_name("study.toml")


@dataclass(frozen=True)
class Head:
    """The section [study]."""

    title: str = "Accuracy study"
    seeds: tuple[Annotated[int, SEED], ...] = (0,)


@dataclass(frozen=True)
class Overrides:
    """Changes of the configurations of all lifters and of all refiners, as ``section.key=value``."""

    lifter: tuple[str, ...] = ()
    refiner: tuple[str, ...] = ()

    def of(self, row: ModelRow) -> tuple[str, ...]:
        """The changes for the kind of a row."""
        return self.lifter if row.kind == "lifter" else self.refiner


@dataclass(frozen=True)
class Table:
    """A whole study.

    Attributes:
        title: The title of the report.
        seeds: The default seeds.
        budget: Changes of the configurations, which come before the changes of a row.
        toy: Changes of the configurations, which come after the changes of a row.
        variants: The variants of the scored data by name.
        rows: The rows.
    """

    title: str
    seeds: tuple[int, ...]
    budget: Overrides
    toy: Overrides
    variants: dict[str, Variant]
    rows: tuple[Row, ...] = field(repr=False)

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def model(self, name: str) -> LifterRow | RefinerRow:
        """The row of that name. Raises ConfigError for a row without its own model."""
        row = self.row(name)
        if not isinstance(row, ModelRow):
            raise ConfigError(f"the row {name} has no model of its own")
        return row

    def overrides(self, row: ModelRow) -> list[str]:
        """The changes of a trained row's configuration. Later changes replace earlier ones of the same key."""
        return [*self.budget.of(row), *row.set, *self.toy.of(row)]

    def recipe(self, row: Row) -> dict[str, object]:
        """Everything in the table and its configurations that a row's figures depend on.

        It includes the rows that the row needs. It contains only values that differ from the defaults, so that a new
        field does not change old recipes.
        """
        facts: dict[str, object] = {
            "row": {
                name: value for name, value in record_of(row).items() if name not in WORDS and value != RECORD[name]
            },
            "data": dataclasses.asdict(self.variants[row.data]),
            "needs": [self.recipe(self.row(name)) for name in row.needs()],
        }
        if isinstance(row, ModelRow) and row.trained:
            config = load_config(row.config, self.overrides(row))
            defaults = dataclasses.asdict(Config(config.kind))
            facts["config"] = _changed(dataclasses.asdict(config), defaults)
        return facts

    def select(self, names: Collection[str]) -> list[Row]:
        """Select rows and the rows that they need.

        Args:
            names: The names of rows; all rows if it is empty.

        Returns:
            The rows in an order in which they can run.

        Raises:
            ConfigError: A name is unknown, or rows need each other in a circle.
        """
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


def _changed(values: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """The entries that differ from the defaults; in a section only its entries that differ."""
    changed: dict[str, object] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if value == default:
            continue
        changed[name] = _changed(value, default) if isinstance(value, dict) and isinstance(default, dict) else value
    return changed


def load_table(path: Path = TABLE, quick: bool = False) -> Table:
    """Read a study.

    Args:
        path: The TOML file.
        quick: Whether to apply the changes of [quick] after all others, which gives the same rows at toy size.

    Returns:
        The study.

    Raises:
        ConfigError: The file cannot be read, a row or a section has a wrong field, or a row names a row that does not
            exist. The message names the row and the field.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the study {path}: {error}") from error
    variants = {"default": Variant()}
    variants |= {
        name: dataclass_from(Variant, value, f"{path}: data.{name}") for name, value in content.get("data", {}).items()
    }
    head = dataclass_from(Head, content.get("study", {}), f"{path}: study")
    budget, toy = (
        dataclass_from(Overrides, content.get(section, {}), f"{path}: {section}") for section in ("budget", "quick")
    )
    rows = tuple(row_from(value, str(path)) for value in content.get("row", []))
    table = Table(head.title, head.seeds, budget, toy if quick else Overrides(), variants, rows)
    _check(table, path)
    return table


def _check(table: Table, path: Path) -> None:
    """Raise ConfigError for a row that does not fit the rest of the table."""
    names = [row.name for row in table.rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise ConfigError(f"{path}: " + (f"rows named twice: {', '.join(twice)}" if twice else "no rows"))
    for row in table.rows:
        where = f"{path}: row {row.name}"
        missing = [name for name in row.needs() if name not in names]
        if missing:
            raise ConfigError(f"{where} needs {', '.join(missing)}, which is not in the table")
        without = [name for name in row.needs() if not isinstance(table.row(name), ModelRow)]
        if without:
            raise ConfigError(f"{where} needs {', '.join(without)}, which has no model of its own")
        if row.action and not _has_prompts(table.model(row.lifted_by)):
            raise ConfigError(f"{where}: action: the row has one, and its lifter no prompts (finepose)")
        if isinstance(row, ModelRow) and row.start_from:
            started = table.row(row.start_from)
            if not row.trained or started.kind != row.kind:
                raise ConfigError(
                    f"{where}: start_from: got {row.start_from}; expected a row to train, and one of its kind"
                )
        if row.data not in table.variants:
            raise ConfigError(f"{where}: data: the variant {row.data!r} is not there")


def _has_prompts(lifter: ModelRow) -> bool:
    """Whether a lifter may support text prompts. A checkpoint file may contain any lifter, so it counts as one."""
    return bool(lifter.checkpoint) or load_config(lifter.config).model.architecture == "finepose"
