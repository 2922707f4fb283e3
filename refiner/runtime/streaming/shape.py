"""The bone lengths of a person, learnt while the stream runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.shape import bone_lengths, pool_checked
from refiner.skeleton import H36M17

# Lengths are counted in bins of a millimetre, up to a metre, so that long streams take no more memory.
BIN_M, BINS = 0.001, 1000


class RunningShape:
    """Gives a person the median length of each bone over all frames so far, left and right the same."""

    def __init__(self) -> None:
        self._counts = np.zeros((17, BINS), dtype=np.int64)
        self._joints = np.arange(17)
        self._frames = 0

    def reset(self) -> None:
        """Forget the person."""
        self._counts[:] = 0
        self._frames = 0

    def apply(self, pose_3d: NDArray[np.float32]) -> NDArray[np.float32]:
        """Learn from one refined pose ``(17, 3)`` in metres, and give it the median bone lengths so far."""
        bins = np.clip(bone_lengths(pose_3d) / BIN_M, 0, BINS - 1).astype(np.intp)
        self._counts[self._joints, bins] += 1
        self._frames += 1
        return pool_checked(pose_3d[None], self.lengths()).reshape(17, 3)

    def lengths(self) -> NDArray[np.float64]:
        """The bone lengths ``(17,)`` in metres, from each joint to its parent, exact to half a bin."""
        below = np.cumsum(self._counts, axis=1)
        middle = (below * 2 >= self._frames).argmax(axis=1)
        pooled = (middle + 0.5) * BIN_M
        mirrored: NDArray[np.float64] = 0.5 * (pooled + pooled[list(H36M17.flip_order)])
        return mirrored
