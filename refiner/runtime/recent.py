"""A bounded number of prepared things, such as one execution context for each batch size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values that were used most recently. One thread at a time may use it.

    Args:
        size: how many values are kept, at least 1.
        drop: called with a value that is dropped because another one came, or by `clear`.
    """

    def __init__(self, size: int, drop: Callable[[Value], object] = lambda value: None) -> None:
        self._size, self._drop = size, drop
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Key]:
        """The keys; the one that was not used for the longest time comes first."""
        return iter(self._values)

    def get(self, key: Key) -> Value | None:
        """The value of a key, which counts as a use; None where there is none."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value. Where there are too many now, the one that was not used for the longest time is dropped."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._drop(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all values."""
        while self._values:
            self._drop(self._values.popitem(last=False)[1])
