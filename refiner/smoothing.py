"""A whole sequence smoothed: what still trembles in refined poses, without delay since later frames are there too.

Streams have `refiner.runtime.streaming.smoothing` instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Chosen behind the bundled refiner, on the validation person: the lowest MPJPE. Frames at 50 per second.
WINDOW, ORDER = 17, 3


def savitzky_golay(pose: NDArray[Any], fps: float, window: int = WINDOW, order: int = ORDER) -> NDArray[Any]:
    """The polynomial of ``order`` through the ``window`` frames around each: ``(F, J, 3)`` -> the same shape.

    ``window`` is in frames at 50 per second, and covers as long a time at ``fps``, or ``order`` + 2 frames if those
    last longer: fewer would smooth nothing. A shorter sequence has a shorter window, and one of ``order`` frames or
    fewer comes back as it is. SciPy's filter (Savitzky and Golay, 1964), at the ends the polynomial of the first and
    the last window.
    """
    length = max(order + 2, round(window * fps / 50.0)) | 1
    length = min(length, len(pose) - 1 + len(pose) % 2)
    if length <= order:
        return np.array(pose, dtype=np.float64)
    from scipy.signal import savgol_filter

    filtered: NDArray[Any] = savgol_filter(pose, length, order, axis=0, mode="interp")
    return filtered
