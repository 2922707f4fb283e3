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
