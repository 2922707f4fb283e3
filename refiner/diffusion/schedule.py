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
    """Cumulative products abar_t of the cosine schedule, float64, shape ``(timesteps,)``, falling in (0, 1).

    ``timesteps`` = 50 is the paper's; ``offset`` = 0.008 is inferred (the value of the schedule's authors).
    Raises ConfigError for fewer than one step or an offset that is not positive.
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
    """sqrt(abar_t) and sqrt(1 - abar_t), each ``(timesteps,)``.

    ``terminal="zero"`` takes the last abar as 0. The literal schedule ends at about 9.7e-7, so that with
    y_T := y_est (the paper's start) eq. 9 would leave y0 / 1.000985 even for a perfect error: 0.9 mm at 0.9 m.
    ``terminal="literal"`` keeps the schedule as it is.
    """
    if terminal not in ("zero", "literal"):
        raise ConfigError(f"terminal must be 'zero' or 'literal', got {terminal!r}")
    abar = np.array(alphas_cumprod, dtype=np.float64)
    if terminal == "zero":
        abar[-1] = 0.0
    return np.sqrt(abar), np.sqrt(1.0 - abar)
