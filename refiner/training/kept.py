"""Batches that are drawn and lifted once, and trained on again and again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refiner.training.windows import Sampler, Windows

Lift = Callable[[Windows], NDArray[np.float32]]


class KeptBatches:
    """The first ``number`` batches of a sampler with what the lifter makes of them, over and over.

    For lifters that cost far more than the refiner that learns from them. They stay in memory: 8 floats for each joint
    of each frame.
    """

    def __init__(self, sampler: Sampler, lift: Lift, number: int) -> None:
        self._sampler, self._lift, self._number = sampler, lift, number
        self._kept: dict[int, Windows] = {}

    def batch(self, step: int) -> Windows:
        """The batch of a step; its ``lifted`` is filled in."""
        index = step % self._number
        if index not in self._kept:
            windows = self._sampler.batch(index)
            self._kept[index] = dataclasses.replace(windows, lifted=self._lift(windows))
        return self._kept[index]


def lifted_already(windows: Windows) -> NDArray[np.float32]:
    """The lifter of windows that come with their poses."""
    assert windows.lifted is not None
    return windows.lifted
