"""Smoothing filters, which users reach for first, tuned on the validation person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.runtime.streaming.smoothing import OneEuro, Smoothing
from refiner.smoothing import savitzky_golay

Filter = Callable[[NDArray[Any], float], NDArray[Any]]

# Grids wide enough that the best lies inside; see the report for the choice.
Grid = dict[str, tuple[float, ...]]
ONE_EURO_GRID: Grid = {"min_cutoff": (0.5, 1.0, 2.0, 4.0, 8.0), "beta": (0.0, 1.0, 4.0, 16.0, 64.0)}
SAVITZKY_GOLAY_GRID: Grid = {"window": (5, 9, 13, 17, 25, 35), "order": (1, 2, 3)}


def one_euro(pose: NDArray[Any], fps: float, min_cutoff: float, beta: float) -> NDArray[Any]:
    """`OneEuro` over ``(F, J, 3)`` metres, in float64; causal."""
    euro = OneEuro(Smoothing(min_cutoff, beta), fps)
    return np.stack([euro.apply(frame) for frame in np.asarray(pose, np.float64)])


FILTERS: dict[str, tuple[Callable[..., NDArray[Any]], Grid]] = {
    "one-euro": (one_euro, ONE_EURO_GRID),
    "savitzky-golay": (savitzky_golay, SAVITZKY_GOLAY_GRID),
}


class Tuned(NamedTuple):
    """A filter with the settings that were chosen for it, and its frame-weighted MPJPE in millimetres."""

    filter: Filter
    settings: dict[str, float]
    error: float


def tune(name: str, sequences: Sequence[tuple[NDArray[Any], NDArray[Any], float]]) -> Tuned:
    """Choose the settings of a filter that has the lowest MPJPE.

    Args:
        name: One of `FILTERS`.
        sequences: The validation sequences: lifted poses and true ones, ``(F, J, 3)`` in metres, and frames a second.

    Returns:
        The filter with its settings and its error.
    """
    function, grid = FILTERS[name]
    found: list[tuple[float, dict[str, float]]] = []
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        if settings.get("order", 0) >= settings.get("window", np.inf):
            continue
        total, frames = 0.0, 0
        for lifted, truth, fps in sequences:
            filtered = function(lifted, fps, **settings)
            total += float(np.linalg.norm(filtered - truth, axis=-1).mean(axis=-1).sum())
            frames += len(lifted)
        found.append((total / frames, settings))
    error, chosen = min(found, key=lambda entry: entry[0])

    def tuned(pose: NDArray[Any], fps: float) -> NDArray[Any]:
        return function(pose, fps, **chosen)

    return Tuned(tuned, chosen, 1000.0 * error)
