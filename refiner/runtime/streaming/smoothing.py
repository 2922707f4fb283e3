"""The One-Euro filter behind a refiner: what still trembles from frame to frame, without delay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError

Float = TypeVar("Float", np.float32, np.float64)


@dataclass(frozen=True)
class Smoothing:
    """Settings of `OneEuro`: ``min_cutoff`` and ``speed_cutoff`` in Hz, ``beta`` in Hz per m/s.

    The defaults are the calmest that cost the bundled causal refiner less than half a percent of MPJPE on the
    validation person (`refiner-bench streaming`). Raises ConfigError for a cut-off that is not above 0 and for a
    ``beta`` below 0.
    """

    min_cutoff: float = 4.0
    beta: float = 16.0
    speed_cutoff: float = 1.0

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (self.min_cutoff, self.beta, self.speed_cutoff))
        if not finite or min(self.min_cutoff, self.speed_cutoff) <= 0 or self.beta < 0:
            raise ConfigError(f"expected cut-offs above 0 and beta of 0 or more, got {self}")


class OneEuro:
    """The One-Euro filter (Casiez et al., CHI 2012) on every coordinate of one person's poses, at a constant rate.

    Args:
        fps: frames/s of the poses that `apply` gets.
    """

    def __init__(self, settings: Smoothing, fps: float) -> None:
        self._settings, self._fps = settings, fps
        self.reset()

    def reset(self) -> None:
        """The next pose is the first one."""
        self._filtered: NDArray[np.float64] | None = None

    def apply(self, pose: NDArray[Float]) -> NDArray[Float]:
        """``(J, 3)`` metres, the next frame -> the same, smoothed; the first one is its own answer."""
        if self._filtered is None:
            self._filtered, self._speed = pose.astype(np.float64), np.zeros(pose.shape)
            return pose
        settings = self._settings
        step = pose - self._filtered
        self._speed += self._weight(settings.speed_cutoff) * (step * self._fps - self._speed)
        self._filtered += self._weight(settings.min_cutoff + settings.beta * np.abs(self._speed)) * step
        return self._filtered.astype(pose.dtype)

    def _weight(self, cutoff: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        return 1.0 / (1.0 + self._fps / (2.0 * np.pi * cutoff))
