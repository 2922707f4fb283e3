"""DDIM sampling for a network that predicts the clean pose and draws noise at every step (D3DP).

The equation is eq. 12 of Song et al. 2021. D3PRefiner's own sampler, which starts from a lifter's pose and draws no
noise, is in `refiner.diffusion.ddim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.ddim import PoseT, ddim_timesteps
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import ConfigError

# D3DP's values: 1000 timesteps, eta = 1 (all noise is drawn again), and poses clipped to 1.1 m from the root.
TIMESTEPS, ETA, LIMIT = 1000, 1.0, 1.1


class CleanStep(NamedTuple):
    """The coefficients of one step, from timestep ``time`` to the next. The last step gives the clean pose.

    eps = (y_t - ``signal`` y0) / ``noise``; y_t' = ``next_signal`` y0 + ``next_old_noise`` eps + ``next_new_noise`` z.
    """

    time: int
    signal: float
    noise: float
    next_signal: float
    next_old_noise: float
    next_new_noise: float


def clean_pose_schedule(
    steps: int, alphas_cumprod: NDArray[np.float64] | None = None, eta: float = ETA
) -> tuple[CleanStep, ...]:
    """Compute the coefficients of K sampling steps.

    Args:
        steps: K.
        alphas_cumprod: abar_t of the schedule, ``(timesteps,)``. None: the cosine schedule with 1000 timesteps.
        eta: The amount of new noise per step: 1 for as much noise as in the forward process (D3DP), 0 for none.

    Raises:
        ConfigError: K or eta is out of range.
    """
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(f"eta must lie between 0 (no new noise) and 1 (all noise is new), got {eta:g}")
    abar = cosine_schedule(TIMESTEPS) if alphas_cumprod is None else np.asarray(alphas_cumprod, dtype=np.float64)
    schedule = []
    for time, after in pairwise(ddim_timesteps(steps, len(abar))):
        now, following = float(abar[time]), 1.0 if after < 0 else float(abar[after])
        new_noise = eta * float(np.sqrt((1.0 - now / following) * (1.0 - following) / (1.0 - now)))
        old_noise = float(np.sqrt(max(1.0 - following - new_noise**2, 0.0)))
        schedule.append(CleanStep(time, now**0.5, (1.0 - now) ** 0.5, following**0.5, old_noise, new_noise))
    return tuple(schedule)


def sample_clean_pose(
    predict_clean: Callable[[PoseT, int], PoseT],
    noises: Sequence[PoseT],
    schedule: Sequence[CleanStep],
    limit: float = LIMIT,
) -> PoseT:
    """Sample a pose from noise, in K steps.

    Args:
        predict_clean: ``(y_t, t) -> y0_hat``. The sampler clips both poses to ``limit`` metres per coordinate.
        noises: K arrays or tensors of standard normal numbers in the shape of the poses: the start, and the new noise
            of every step except the last.
        schedule: The K steps of `clean_pose_schedule`.
        limit: The largest coordinate in metres.

    Returns:
        The pose, in the shape and type of the noise.

    Raises:
        ConfigError: The numbers of steps and noises differ.
    """
    if len(noises) != len(schedule):
        raise ConfigError(f"{len(schedule)} steps take as many draws of noise, got {len(noises)}")
    draws: Sequence[Any] = noises
    pose = draws[0]
    for index, step in enumerate(schedule):
        predicted: Any = predict_clean(pose.clip(-limit, limit), step.time)
        clean = predicted.clip(-limit, limit)
        if index + 1 == len(schedule):
            pose = clean
        else:
            noise = (pose - step.signal * clean) / step.noise
            pose = step.next_signal * clean + step.next_old_noise * noise + step.next_new_noise * draws[index + 1]
    sampled: PoseT = pose
    return sampled


def draw_noises(steps: int, hypotheses: int, frames: int, joints: int = 17, seed: int = 0) -> NDArray[np.float32]:
    """Draw the standard normal numbers for H hypotheses of a window in K steps.

    Args:
        steps: K.
        hypotheses: H.
        frames: T, the number of frames of a window.
        joints: J.
        seed: The seed, 0 or above.

    Returns:
        ``(K, H, T, J, 3)`` float32.

    Raises:
        ConfigError: The seed is negative.
    """
    if seed < 0:
        raise ConfigError(f"sampling.seed must be 0 or more, got {seed}")
    rng = np.random.default_rng([seed, hypotheses])
    return rng.standard_normal((steps, hypotheses, frames, joints, 3), dtype=np.float32)
