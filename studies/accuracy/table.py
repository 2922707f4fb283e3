"""The table of a study (TOML): which models are trained, and which are scored another way.

[study]   title, seeds
[budget]  overrides for every lifter and every refiner: how long they train
[quick]   overrides that make them toys
[data.X]  a variant of the scored data: cameras, detections, noise, frame rate
[[row]]   one line of the report, see `studies.accuracy.rows`
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refiner.errors import ConfigError
from refiner.from_toml import dataclass_from
from refiner.training.config import Config, load_config
from studies.accuracy.clips import Variant
from studies.accuracy.rows import RECORD, WORDS, LifterRow, ModelRow, RefinerRow, Row, record_of, row_from

TABLE = Path(__file__).with_name("study.toml")


@dataclass(frozen=True)
class Head:
    """The section [study]."""

    title: str = "Accuracy study"
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Overrides:
    """Changes of the configurations of all lifters and of all refiners, as ``section.key=value``."""

    lifter: tuple[str, ...] = ()
    refiner: tuple[str, ...] = ()

    def of(self, row: ModelRow) -> tuple[str, ...]:
        """Those of a row's kind."""
        return self.lifter if row.kind == "lifter" else self.refiner


@dataclass(frozen=True)
class Table:
    """A whole study; ``budget`` and ``toy`` are overrides, before and after a row's own."""

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
        """The row of that name, which has a model. Raises ConfigError for a row that scores another's."""
        row = self.row(name)
        if not isinstance(row, ModelRow):
            raise ConfigError(f"the row {name} has no model of its own")
        return row

    def overrides(self, row: ModelRow) -> list[str]:
        """The changes of a trained row's configuration, of which the last one counts."""
        return [*self.budget.of(row), *row.set, *self.toy.of(row)]

    def recipe(self, row: Row) -> dict[str, object]:
        """Everything that a row's figures follow from, as far as a table and its configurations say.

        It holds the rows that the row needs, and values that differ from the defaults alone, so that a new field
        changes no old recipe.
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
            usual = dataclasses.asdict(Config(config.kind))
            facts["config"] = _unlike(dataclasses.asdict(config), usual)
        return facts

    def select(self, names: Collection[str]) -> list[Row]:
        """The rows of those names and the rows that they need, in an order in which they can run; no name means all.

        Raises ConfigError for an unknown name, and for rows that need each other in a circle.
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


def _unlike(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not as usual, in sections, too."""
    return {
        name: _unlike(value, usual[name]) if isinstance(value, dict) and isinstance(usual.get(name), dict) else value
        for name, value in values.items()
        if value != usual.get(name)
    }


def load_table(path: Path = TABLE, quick: bool = False) -> Table:
    """Read a study.

    Args:
        path: The TOML file.
        quick: Whether the overrides of [quick] come after all others: the same rows at toy size.

    Returns:
        The study.

    Raises:
        ConfigError: The file cannot be read, a row or a section has a wrong field, or a row names another that is not
            there; the message names the row and the field.
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
    """Refuse rows that do not go together with the rest of the table."""
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
    """Whether a row's lifter takes actions, as far as the table says: a file may hold anything."""
    return bool(lifter.checkpoint) or load_config(lifter.config).model.architecture == "finepose"
