"""Batches that are drawn and lifted once, and then repeated throughout the training."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from refiner.training.windows import Lift, Sampler, Windows


class RepeatedBatches:
    """Repeats the first ``number`` batches of a sampler, together with the lifter's poses for them.

    This is for lifters that cost far more than the refiner that is trained on them. The batches stay in memory: 8
    floats for each joint of each frame.
    """

    def __init__(self, sampler: Sampler, lift: Lift, number: int) -> None:
        self._sampler, self._lift, self._number = sampler, lift, number
        self._batches: dict[int, Windows] = {}

    def batch(self, step: int) -> Windows:
        """The batch of a step, with its ``lifted`` poses."""
        index = step % self._number
        if index not in self._batches:
            windows = self._sampler.batch(index)
            self._batches[index] = dataclasses.replace(windows, lifted=self._lift(windows))
        return self._batches[index]


def stored_poses(windows: Windows) -> NDArray[np.float32]:
    """The poses that the windows already contain; takes the place of a lifter."""
    assert windows.lifted is not None
    return windows.lifted
