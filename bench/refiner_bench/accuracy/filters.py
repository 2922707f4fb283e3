"""Smoothing filters as a baseline, because users try them first. They are tuned on the validation person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from refiner.runtime.streaming.smoothing import OneEuro, Smoothing
from refiner.smoothing import savitzky_golay
from refiner_bench.arrays import FloatArray

# Takes poses ``(F, J, 3)`` in metres and the frames per second; returns the smoothed poses.
Filter = Callable[[FloatArray, float], FloatArray]

# The grids are so wide that the best settings are not on their border. The report shows the chosen settings.
Grid = dict[str, tuple[float, ...]]
ONE_EURO_GRID: Grid = {"min_cutoff": (0.5, 1.0, 2.0, 4.0, 8.0), "beta": (0.0, 1.0, 4.0, 16.0, 64.0)}
SAVITZKY_GOLAY_GRID: Grid = {"window": (5, 9, 13, 17, 25, 35), "order": (1, 2, 3)}


def one_euro(pose: FloatArray, fps: float, min_cutoff: float, beta: float) -> FloatArray:
    """Smooth poses with the causal `OneEuro` filter in float64.

    Args:
        pose: ``(F, J, 3)`` in metres.
        fps: Frames per second.
        min_cutoff: The cutoff frequency in hertz for a joint at rest.
        beta: The increase of the cutoff frequency with speed.

    Returns:
        The smoothed poses, ``(F, J, 3)`` in metres.
    """
    euro = OneEuro(Smoothing(min_cutoff, beta), fps)
    return np.stack([euro.apply(frame) for frame in np.asarray(pose, np.float64)])


FILTERS: dict[str, tuple[Callable[..., FloatArray], Grid]] = {
    "one-euro": (one_euro, ONE_EURO_GRID),
    "savitzky-golay": (savitzky_golay, SAVITZKY_GOLAY_GRID),
}


class Tuned(NamedTuple):
    """A filter, its chosen settings, and its frame-weighted MPJPE in millimetres."""

    filter: Filter
    settings: dict[str, float]
    error: float


def tune(name: str, sequences: Sequence[tuple[FloatArray, FloatArray, float]]) -> Tuned:
    """Choose the settings of a filter with the lowest MPJPE.

    Args:
        name: One of `FILTERS`.
        sequences: The validation sequences: lifted poses and true ones, ``(F, J, 3)`` in metres, and frames a second.

    Returns:
        The filter with its settings and its error.
    """
    function, grid = FILTERS[name]
    candidates: list[tuple[float, dict[str, float]]] = []
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        if settings.get("order", 0) >= settings.get("window", np.inf):
            continue
        total, frames = 0.0, 0
        for lifted, truth, fps in sequences:
            filtered = function(lifted, fps, **settings)
            total += float(np.linalg.norm(filtered - truth, axis=-1).mean(axis=-1).sum())
            frames += len(lifted)
        candidates.append((total / frames, settings))
    error, chosen = min(candidates, key=lambda entry: entry[0])

    def tuned(pose: FloatArray, fps: float) -> FloatArray:
        return function(pose, fps, **chosen)

    return Tuned(tuned, chosen, 1000.0 * error)
