"""The forward process (D3PRefiner, eq. 8): y_t = (sqrt(abar_t) + sqrt(1 - abar_t)) y0 + sqrt(1 - abar_t) e.

Eq. 8 is eq. 3 with eq. 4 (eps := y0 + e) inserted. All timesteps t of a sample use the same e, so the process is a
definition and not a Markov chain. The fused kernel `refiner.native.diffuse` computes the same and also draws e.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.schedule import Terminal, cosine_schedule, schedule_coefficients


def forward_coefficients(
    timesteps: int = 50, terminal: Terminal = "zero", offset: float = 0.008
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the factors of y0 and of e in eq. 8 for every timestep t.

    Args:
        timesteps: The number of timesteps.
        terminal: See `schedule_coefficients`.
        offset: See `cosine_schedule`.

    Returns:
        sqrt(abar_t) + sqrt(1 - abar_t) and sqrt(1 - abar_t), each ``(timesteps,)`` float64.

    Raises:
        ConfigError: An argument is out of range.
    """
    signal, noise = schedule_coefficients(cosine_schedule(timesteps, offset), terminal)
    return signal + noise, noise
