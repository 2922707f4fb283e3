"""How long the last answers of a server took, in a fixed amount of memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEPT = 16_384
PERCENTILES = (50, 95, 99)


class AnswerTimes:
    """The times of the last answers, from the receipt of a message to the sending of its last answer.

    Args:
        kept: the number of answers that are remembered.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._seconds = np.zeros(kept)
        self._came = np.zeros(kept)
        self._number = 0

    def __len__(self) -> int:
        return min(self._number, len(self._seconds))

    def add(self, received: float, sent: float) -> None:
        """Note an answer.

        Args:
            received: when its message came, seconds by any clock that runs forward.
            sent: when it was sent, by the same clock.
        """
        place = self._number % len(self._seconds)
        self._seconds[place], self._came[place] = sent - received, received
        self._number += 1

    def percentiles_ms(self) -> dict[str, float]:
        """The percentiles of `PERCENTILES` in milliseconds, by names like "p99"; empty before the first answer."""
        if not len(self):
            return {}
        values = 1000.0 * np.percentile(self._seconds[: len(self)], PERCENTILES)
        return {f"p{name}": round(float(value), 3) for name, value in zip(PERCENTILES, values, strict=True)}

    def late(self, since: float, seconds: float) -> float:
        """The share of answers to messages received after ``since`` that took longer than ``seconds``.

        It is 0 where there is none.
        """
        recent: NDArray[np.bool_] = self._came[: len(self)] > since
        number = np.count_nonzero(recent)
        return float(np.count_nonzero(recent & (self._seconds[: len(self)] > seconds)) / number) if number else 0.0
