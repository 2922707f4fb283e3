"""The forward process, eq. 8: y_t = (sqrt(abar_t) + sqrt(1 - abar_t)) y0 + sqrt(1 - abar_t) e.

It is eq. 3 with eq. 4 (eps := y0 + e) put in. One e serves every t of a sample: a definition, not a chain.
The fused kernel (`refiner.native.diffuse`) does the same together with the draw of e.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.schedule import Terminal, cosine_schedule, schedule_coefficients


def forward_coefficients(
    timesteps: int = 50, terminal: Terminal = "zero", offset: float = 0.008
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factors of y0 and of e in eq. 8 for every t, each ``(timesteps,)`` float64."""
    signal, noise = schedule_coefficients(cosine_schedule(timesteps, offset), terminal)
    return signal + noise, noise


def correlate_in_time(white: NDArray[np.float32], frames: int, correlation: float) -> NDArray[np.float32]:
    """Independent draws ``(windows x frames, D)`` as an AR(1) process in each window, with the same covariance.

    Each frame's deviation is ``correlation`` times the one before plus a new draw; the first is drawn as it is, so the
    process is stationary. The paper draws frame by frame (correlation 0); the real error lasts longer.
    """
    # Imported here: scipy.signal is slow to import, and only training needs it.
    from scipy.signal import lfilter

    drive = white.reshape(-1, frames, white.shape[-1]).copy()
    drive[:, 1:] *= np.float32(np.sqrt(1.0 - correlation**2))
    filtered = lfilter(np.ones(1, drive.dtype), np.array([1.0, -correlation], drive.dtype), drive, axis=1)
    correlated: NDArray[np.float32] = filtered.reshape(white.shape)
    return correlated
