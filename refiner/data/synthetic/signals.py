"""Smooth signals over time that the synthetic motion is made of.

Each one is a function of time and of seeded numbers alone, drawn in an order that does not depend on how
long the motion is: a longer clip of the same seed starts with the shorter one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]


def child_generator(rng: np.random.Generator) -> np.random.Generator:
    """A generator of its own for a signal whose number of draws depends on the length of the motion."""
    return np.random.default_rng(int(rng.integers(2**63)))


def minimum_jerk(progress: ArrayLike) -> Array:
    """The position 0 -> 1 of the smoothest reach from rest to rest, at ``progress`` 0 -> 1 (held outside).

    Flash and Hogan (1985): 10 s^3 - 15 s^4 + 6 s^5.
    """
    s = np.clip(np.asarray(progress, np.float64), 0.0, 1.0)
    return np.asarray(s**3 * (10.0 + s * (6.0 * s - 15.0)))


def bump(progress: ArrayLike) -> Array:
    """0 -> 1 -> 0 over ``progress`` 0 -> 1, zero outside, with two continuous derivatives."""
    s = np.clip(np.asarray(progress, np.float64), 0.0, 1.0)
    return np.asarray((4.0 * s * (1.0 - s)) ** 3)


def smooth_noise(rng: np.random.Generator, times: Array, scale: float, rate: float = 0.35) -> Array:
    """Noise of standard deviation ``scale`` around ``rate`` Hz: eight sinusoids, so smooth at every order."""
    terms = 8
    frequency = rate * rng.uniform(0.2, 1.8, terms)
    phase = rng.uniform(0.0, 2.0 * np.pi, terms)
    waves = np.sin(2.0 * np.pi * times[:, None] * frequency + phase)
    return np.asarray(scale * math.sqrt(2.0 / terms) * waves.sum(axis=1))


def wandering_phase(rng: np.random.Generator, times: Array, frequency: float, wander: float = 0.25) -> Array:
    """A phase in radians that runs at ``frequency`` Hz, up to slow changes of tempo of ``wander`` radians."""
    return np.asarray(
        2.0 * np.pi * frequency * times + rng.uniform(0.0, 2.0 * np.pi) + smooth_noise(rng, times, wander, rate=0.12)
    )


class Keys:
    """Rests and minimum-jerk moves in turn, of seeded lengths; the first move begins within ``first`` s.

    Move i starts at ``starts[i]`` and takes ``lengths[i]`` seconds.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        times: Array,
        move: tuple[float, float],
        rest: tuple[float, float],
        first: float = 1.0,
    ) -> None:
        self.times = times
        self.rng = child_generator(rng)
        end = float(times[-1])
        count = math.ceil(end / (move[0] + rest[0])) + 2
        draws = np.random.default_rng(int(self.rng.integers(2**63))).uniform(size=(count, 2))
        self.lengths = move[0] + (move[1] - move[0]) * draws[:, 0]
        rests = rest[0] + (rest[1] - rest[0]) * draws[:, 1]
        gaps = np.concatenate([[rng.uniform(0.0, first)], (self.lengths + rests)[:-1]])
        self.starts = np.cumsum(gaps)
        self.count = count

    def follow(self, values: ArrayLike) -> Array:
        """The signal that rests at ``values[0]`` and moves to ``values[i + 1]`` in move i.

        ``values``: ``(count + 1, ...)``; result ``(frames, ...)``.
        """
        targets = np.asarray(values, np.float64)
        index = np.searchsorted(self.starts, self.times, side="right") - 1
        move = np.maximum(index, 0)
        done = minimum_jerk((self.times - self.starts[move]) / self.lengths[move])
        done = np.where(index < 0, 0.0, done).reshape(-1, *[1] * (targets.ndim - 1))
        return np.asarray(targets[move] + (targets[move + 1] - targets[move]) * done)

    def draw(self, low: ArrayLike, high: ArrayLike) -> Array:
        """Seeded values ``(count + 1, channels)`` between ``low`` and ``high``, one row for each key."""
        low, high = np.atleast_1d(np.asarray(low, np.float64)), np.atleast_1d(np.asarray(high, np.float64))
        draws = child_generator(self.rng).uniform(size=(self.count + 1, len(low)))
        return np.asarray(low + (high - low) * draws)


class Periodic:
    """A periodic curve through a table of (percent of the cycle, value), evaluated at a phase in radians."""

    def __init__(self, table: tuple[tuple[float, float], ...]) -> None:
        percent, value = np.array(table, np.float64).T
        percent, value = np.append(percent, percent[0] + 100.0), np.append(value, value[0])
        self._spline = CubicSpline(percent / 100.0, value, bc_type="periodic")

    def __call__(self, phase: ArrayLike) -> Array:
        return np.asarray(self._spline(np.asarray(phase) / (2.0 * np.pi)))


def fit_harmonics(phase: Array, values: Array, weights: Array, harmonics: tuple[int, ...]) -> Array:
    """Weighted least squares of ``values`` on 1 and cos, sin of ``harmonics`` x phase: the coefficients."""
    root = np.sqrt(weights)
    basis = harmonic_basis(phase, harmonics)
    return np.asarray(np.linalg.lstsq(basis * root[:, None], values * root, rcond=None)[0])


def harmonic_basis(phase: Array, harmonics: tuple[int, ...]) -> Array:
    """``(n, 1 + 2 harmonics)``: 1, then cos and sin of each harmonic of the phase."""
    waves = [wave(order * phase) for order in harmonics for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *waves], axis=-1)


def soft_clip(values: Array, low: float, high: float, width: float) -> Array:
    """``values`` held strictly between ``low`` and ``high``, bending smoothly within about ``width`` of
    them."""
    below = high - width * np.logaddexp(0.0, (high - values) / width)
    # The second bend may push a value past the first limit by far less than rounding matters.
    return np.asarray(np.minimum(low + width * np.logaddexp(0.0, (below - low) / width), high))


def soft_min(values: Array, width: float) -> Array:
    """The smallest along the last axis, or up to ``width`` x log(n) less, without kinks."""
    return np.asarray(-width * np.logaddexp.reduce(-values / width, axis=-1))
