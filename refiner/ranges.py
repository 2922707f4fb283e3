"""Ranges of numbers, declared beside the fields of dataclasses: ``rate: Annotated[float, Between(0.0, 1.0)] = 0.5``.

`refiner.from_toml` reads them. Every number must also be finite, and booleans are no numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

# The largest integer that every library takes as a seed.
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Between:
    """The values that a number can have.

    Attributes:
        least: The smallest value.
        most: The largest value.
        above: Whether ``least`` itself is excluded.
        whole: Whether only integers are meant, for values whose type nobody else checks.
    """

    least: float
    most: float = math.inf
    above: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value is a finite number in this range."""
        # NumPy's numbers are numbers, too.
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        # An integer can be too large for a float, which math.isfinite would convert it to.
        if not isinstance(value, Integral) and not math.isfinite(value):
            return False
        number: Any = value
        return bool(self.least <= number <= self.most and not (self.above and number == self.least))

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.least:g} to {self.most:g}"
        if math.isinf(self.most):
            return f"{'above' if self.above else 'at least'} {self.least:g}"
        if self.above:
            return f"above {self.least:g}, at most {self.most:g}"
        return f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class Pair:
    """A tuple of two numbers, such as the ends of a range.

    Attributes:
        each: The range of both.
        rising: Whether the first must not be larger than the second.
    """

    each: Between
    rising: bool = True

    def holds(self, values: object) -> bool:
        """Whether the values are such a pair."""
        if not isinstance(values, list | tuple) or len(values) != 2 or not all(map(self.each.holds, values)):
            return False
        return not self.rising or values[0] <= values[1]

    def __str__(self) -> str:
        return f"two numbers, each {self.each}" + (", the smaller one first" if self.rising else "")


SHARE = Between(0.0, 1.0)
SEED = Between(0, LARGEST_SEED)
# Frames per second of models and recordings.
FRAME_RATES = Between(1.0, 1000.0)
AT_LEAST_ONE = Between(1, 10**9)
FROM_ZERO = Between(0, 10**9)
# A spread of 1 on a logarithmic scale multiplies a length by 2.7.
SPREAD = Between(0.0, 1.0)
