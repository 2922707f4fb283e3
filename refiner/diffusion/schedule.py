"""The noise schedule of the diffusion process (D3PRefiner section III-C; Nichol and Dhariwal 2021, eq. 17)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError

Terminal = Literal["zero", "literal"]

# Nichol and Dhariwal clip each beta at 0.999 so that the last step stays invertible.
MAX_BETA = 0.999


def cosine_schedule(timesteps: int = 50, offset: float = 0.008) -> NDArray[np.float64]:
    """Compute the cumulative products abar_t of the cosine schedule.

    Args:
        timesteps: The number of timesteps; the paper uses 50.
        offset: The offset of the schedule. The paper does not state it; 0.008 is the value of the schedule's authors.

    Returns:
        ``(timesteps,)`` float64, decreasing, in (0, 1).

    Raises:
        ConfigError: There is no timestep, or the offset does not lie between 0 and 1.

    Reference:
        Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021, eq. 17.
    """
    if timesteps < 1:
        raise ConfigError(f"the schedule needs at least one timestep, got {timesteps}")
    if not 0.0 < offset < 1.0:
        raise ConfigError(f"the cosine offset must lie between 0 and 1, got {offset}")
    grid = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    signal = np.cos((grid + offset) / (1.0 + offset) * np.pi / 2.0) ** 2
    beta = np.minimum(1.0 - signal[1:] / signal[:-1], MAX_BETA)
    product: NDArray[np.float64] = np.cumprod(1.0 - beta)
    return product


def schedule_coefficients(
    alphas_cumprod: NDArray[np.float64], terminal: Terminal = "zero"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sqrt(abar_t) and sqrt(1 - abar_t), each ``(timesteps,)``.

    Args:
        alphas_cumprod: abar_t, ``(timesteps,)``.
        terminal: "zero" sets the last abar to 0. "literal" leaves the schedule unchanged. The literal schedule ends at
            about 9.7e-7. With y_T := y_est (the paper's start), eq. 9 would then give y0 / 1.000985 even for a
            perfectly predicted error. This is an error of 0.9 mm at 0.9 m.

    Raises:
        ConfigError: ``terminal`` is unknown.
    """
    if terminal not in ("zero", "literal"):
        raise ConfigError(f"terminal must be 'zero' or 'literal', got {terminal!r}")
    abar = np.array(alphas_cumprod, dtype=np.float64)
    if terminal == "zero":
        abar[-1] = 0.0
    return np.sqrt(abar), np.sqrt(1.0 - abar)
