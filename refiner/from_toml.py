"""Conversion of TOML tables to frozen dataclasses. Each value is checked against the type and range of its field."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from refiner.arguments import shown
from refiner.errors import ConfigError

T = TypeVar("T")


def dataclass_from(kind: type[T], content: object, where: str) -> T:
    """Build a dataclass from a table. This is the inverse of `dataclasses.asdict`.

    Args:
        kind: The dataclass. Its fields are strings, numbers, booleans, literals, tuples or dataclasses. A number, or a
            tuple of numbers, can have a range (`refiner.ranges`).
        content: The table.
        where: The position of the table in the file, for error messages.

    Returns:
        An instance of ``kind``.

    Raises:
        ConfigError: The table has an unknown field, a field is missing, or a value has another type or lies outside of
            its range. The message names the field and the range.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} must be a table, got {content!r}")
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(fields))}")
    missing = [
        name
        for name, entry in fields.items()
        if name not in content and entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in content.items()})


def _value(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint):
        return dataclass_from(typing.cast(type[object], hint), value, where)
    origin = typing.get_origin(hint)
    if origin is Annotated:
        plain, *ranges = typing.get_args(hint)
        checked = _value(plain, value, where)
        for entry in ranges:
            if not entry.holds(checked):
                raise ConfigError(f"{where}: expected {entry}, got {shown(value)}")
        return checked
    if origin is Literal:
        if not isinstance(value, str) or value not in typing.get_args(hint):
            raise ConfigError(f"{where}: expected one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if origin is tuple:
        kind = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_value(kind, entry, where) for entry in value)
    if isinstance(hint, types.UnionType):
        raise ConfigError(f"{where}: fields with several types are not supported")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: expected a number, got {shown(value)}") from None
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value}")
    return value
