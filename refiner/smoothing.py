"""Smoothing of a whole sequence, which removes the jitter that is left in refined poses.

The filter uses earlier and later frames, so it adds no delay. Streams use `refiner.runtime.streaming.smoothing`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# These values give the lowest MPJPE on the validation subject, after the bundled refiner. The window is in frames at 50
# frames/s.
WINDOW, ORDER = 17, 3


def savitzky_golay(pose: NDArray[Any], fps: float, window: int = WINDOW, order: int = ORDER) -> NDArray[Any]:
    """Smooth poses with a Savitzky-Golay filter: fit a polynomial to the window around each frame.

    The first and the last window give the frames at the ends of the sequence.

    Args:
        pose: ``(F, J, 3)`` in any unit.
        fps: The frame rate of ``pose``, frames/s.
        window: The window length in frames at 50 frames/s. At another frame rate the window has the same duration, but
            at least ``order + 2`` frames, because fewer frames would not smooth anything. A sequence that is shorter
            than the window shortens the window.
        order: The order of the polynomial.

    Returns:
        The smoothed poses ``(F, J, 3)``. A sequence of at most ``order`` frames is returned unchanged, as float64.

    Reference:
        Savitzky and Golay, Smoothing and differentiation of data by simplified least squares procedures, 1964.
    """
    length = max(order + 2, round(window * fps / 50.0)) | 1
    length = min(length, len(pose) - 1 + len(pose) % 2)
    if length <= order:
        return np.array(pose, dtype=np.float64)
    from scipy.signal import savgol_filter

    filtered: NDArray[Any] = savgol_filter(pose, length, order, axis=0, mode="interp")
    return filtered
