"""Smooth signals over time, from which the synthetic motion is built.

Each signal depends only on time and on random numbers. The order of the draws does not depend on the length of the
motion, so that a longer clip of the same seed begins with the shorter clip.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]


def child_generator(rng: np.random.Generator) -> np.random.Generator:
    """Make a separate generator for a signal whose number of draws depends on the length of the motion."""
    return np.random.default_rng(int(rng.integers(2**63)))


def minimum_jerk(progress: ArrayLike) -> Array:
    """Return the position, from 0 to 1, of the smoothest reach from rest to rest: 10 s^3 - 15 s^4 + 6 s^5.

    ``progress`` s runs from 0 to 1; outside, the position stays constant.

    Reference:
        Flash and Hogan, The coordination of arm movements, 1985.
    """
    s = np.clip(np.asarray(progress, np.float64), 0.0, 1.0)
    return np.asarray(s**3 * (10.0 + s * (6.0 * s - 15.0)))


def bump(progress: ArrayLike) -> Array:
    """Return a bump that rises from 0 to 1 and falls to 0 while ``progress`` runs from 0 to 1.

    It is 0 outside and has two continuous derivatives.
    """
    s = np.clip(np.asarray(progress, np.float64), 0.0, 1.0)
    return np.asarray((4.0 * s * (1.0 - s)) ** 3)


def smooth_noise(rng: np.random.Generator, times: Array, scale: float, rate: float = 0.35) -> Array:
    """Draw noise with standard deviation ``scale`` around ``rate`` Hz.

    It is a sum of eight sinusoids, so all its derivatives are continuous.
    """
    terms = 8
    frequency = rate * rng.uniform(0.2, 1.8, terms)
    phase = rng.uniform(0.0, 2.0 * np.pi, terms)
    waves = np.sin(2.0 * np.pi * times[:, None] * frequency + phase)
    return np.asarray(scale * math.sqrt(2.0 / terms) * waves.sum(axis=1))


def wandering_phase(rng: np.random.Generator, times: Array, frequency: float, wander: float = 0.25) -> Array:
    """Draw a phase in radians that runs at ``frequency`` Hz, with slow deviations of ``wander`` radians."""
    return np.asarray(
        2.0 * np.pi * frequency * times + rng.uniform(0.0, 2.0 * np.pi) + smooth_noise(rng, times, wander, rate=0.12)
    )


class Keys:
    """Alternating rests and minimum-jerk moves of random lengths.

    Move i starts at ``starts[i]`` and takes ``lengths[i]`` seconds; ``count`` is the number of moves.

    Args:
        rng: The random generator.
        times: The times of the frames in seconds, ``(F,)``.
        move: The shortest and the longest move in seconds.
        rest: The shortest and the longest rest in seconds.
        first: The latest start of the first move in seconds.
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
        """Return the signal that starts at ``values[0]`` and moves to ``values[i + 1]`` in move i.

        Args:
            values: ``(count + 1, ...)``.

        Returns:
            ``(F, ...)``.
        """
        targets = np.asarray(values, np.float64)
        index = np.searchsorted(self.starts, self.times, side="right") - 1
        move = np.maximum(index, 0)
        done = minimum_jerk((self.times - self.starts[move]) / self.lengths[move])
        done = np.where(index < 0, 0.0, done).reshape(-1, *[1] * (targets.ndim - 1))
        return np.asarray(targets[move] + (targets[move + 1] - targets[move]) * done)

    def draw(self, low: ArrayLike, high: ArrayLike) -> Array:
        """Draw uniform values ``(count + 1, channels)`` between ``low`` and ``high``, one row per rest."""
        low, high = np.atleast_1d(np.asarray(low, np.float64)), np.atleast_1d(np.asarray(high, np.float64))
        draws = child_generator(self.rng).uniform(size=(self.count + 1, len(low)))
        return np.asarray(low + (high - low) * draws)


class Periodic:
    """A periodic spline through a table of pairs (percent of the cycle, value), evaluated at a phase in radians."""

    def __init__(self, table: tuple[tuple[float, float], ...]) -> None:
        percent, value = np.array(table, np.float64).T
        percent, value = np.append(percent, percent[0] + 100.0), np.append(value, value[0])
        self._spline = CubicSpline(percent / 100.0, value, bc_type="periodic")

    def __call__(self, phase: ArrayLike) -> Array:
        return np.asarray(self._spline(np.asarray(phase) / (2.0 * np.pi)))


def fit_harmonics(phase: Array, values: Array, weights: Array, harmonics: tuple[int, ...]) -> Array:
    """Fit ``values`` by weighted least squares with the functions of `harmonic_basis`; return the coefficients."""
    root = np.sqrt(weights)
    basis = harmonic_basis(phase, harmonics)
    return np.asarray(np.linalg.lstsq(basis * root[:, None], values * root, rcond=None)[0])


def harmonic_basis(phase: Array, harmonics: tuple[int, ...]) -> Array:
    """Return the functions 1, then cos and sin of each harmonic of the phase: ``(n, 1 + 2 * len(harmonics))``."""
    waves = [wave(order * phase) for order in harmonics for wave in (np.cos, np.sin)]
    return np.stack([np.ones_like(phase), *waves], axis=-1)


def soft_clip(values: Array, low: float, high: float, width: float) -> Array:
    """Limit ``values`` to the range from ``low`` to ``high``, with a smooth transition of about ``width``."""
    below = high - width * np.logaddexp(0.0, (high - values) / width)
    # The second transition can push a value above ``high`` by a negligible amount.
    return np.asarray(np.minimum(low + width * np.logaddexp(0.0, (below - low) / width), high))


def soft_min(values: Array, width: float) -> Array:
    """Return a smooth minimum along the last axis. It is at most ``width`` x log(n) below the true minimum."""
    return np.asarray(-width * np.logaddexp.reduce(-values / width, axis=-1))
