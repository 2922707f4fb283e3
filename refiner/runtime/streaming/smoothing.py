"""The One-Euro filter after a refiner. It reduces the jitter from frame to frame without delay."""

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
    """Settings of `OneEuro`.

    The defaults smooth most among the settings that cost the bundled causal refiner less than half a percent of MPJPE
    on the validation person (`refiner-bench streaming`).

    Attributes:
        min_cutoff: the cut-off frequency of a joint at rest, in Hz.
        beta: how much the cut-off frequency rises with the speed of a joint, in Hz per m/s.
        speed_cutoff: the cut-off frequency of the filter for the speed, in Hz.

    Raises:
        ConfigError: a cut-off frequency is not above 0, or ``beta`` is below 0.
    """

    min_cutoff: float = 4.0
    beta: float = 16.0
    speed_cutoff: float = 1.0

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (self.min_cutoff, self.beta, self.speed_cutoff))
        if not finite or min(self.min_cutoff, self.speed_cutoff) <= 0 or self.beta < 0:
            raise ConfigError(f"expected cut-offs above 0 and beta of 0 or more, got {self}")


class OneEuro:
    """The One-Euro filter on every coordinate of one person's poses, at a constant frame rate.

    Args:
        settings: the cut-off frequencies.
        fps: the frame rate of the poses that `apply` gets.

    Reference:
        Casiez et al., 1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems, CHI
        2012.
    """

    def __init__(self, settings: Smoothing, fps: float) -> None:
        self._settings, self._fps = settings, fps
        self.reset()

    def reset(self) -> None:
        """Make the next pose the first one."""
        self._filtered: NDArray[np.float64] | None = None

    def apply(self, pose: NDArray[Float]) -> NDArray[Float]:
        """Smooth the next pose, ``(J, 3)`` metres. The first pose stays as it is."""
        if self._filtered is None:
            self._filtered, self._speed = pose.astype(np.float64), np.zeros(pose.shape)
            return pose
        settings = self._settings
        change = pose - self._filtered
        self._speed += self._weight(settings.speed_cutoff) * (change * self._fps - self._speed)
        self._filtered += self._weight(settings.min_cutoff + settings.beta * np.abs(self._speed)) * change
        return self._filtered.astype(pose.dtype)

    def _weight(self, cutoff: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """The weight of the new value in an exponential mean with this cut-off frequency."""
        return 1.0 / (1.0 + self._fps / (2.0 * np.pi * cutoff))
