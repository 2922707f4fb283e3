"""DDIM for a network that predicts the clean pose, with noise drawn at every step (D3DP; Song et al. 2021, eq. 12).

D3PRefiner's own sampler, which starts from a lifter's pose and draws nothing, is `refiner.diffusion.ddim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.ddim import ddim_timesteps
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import ConfigError

# D3DP's: 1000 timesteps, all noise drawn anew, poses kept within 1.1 m of the root.
TIMESTEPS, ETA, LIMIT = 1000, 1.0, 1.1


class CleanStep(NamedTuple):
    """One step as Python floats, from ``time`` to the next time, of which the last is the clean pose.

    eps = (y_t - ``signal`` y0) / ``noise``; y_t' = ``next_signal`` y0 + ``next_kept`` eps + ``next_fresh`` z.
    """

    time: int
    signal: float
    noise: float
    next_signal: float
    next_kept: float
    next_fresh: float


def clean_pose_schedule(
    steps: int, alphas_cumprod: NDArray[np.float64] | None = None, eta: float = ETA
) -> tuple[CleanStep, ...]:
    """The numbers of K = ``steps`` steps of the 1000-step cosine schedule (or of another).

    ``eta`` = 1 draws as much noise as the forward process (D3DP's), 0 none. Raises ConfigError for K or eta out of
    range.
    """
    if not 0.0 <= eta <= 1.0:
        raise ConfigError(f"eta must lie between 0 (nothing drawn) and 1 (all noise drawn anew), got {eta:g}")
    abar = cosine_schedule(TIMESTEPS) if alphas_cumprod is None else np.asarray(alphas_cumprod, dtype=np.float64)
    found = []
    for time, after in pairwise(ddim_timesteps(steps, len(abar))):
        now, following = float(abar[time]), 1.0 if after < 0 else float(abar[after])
        fresh = eta * float(np.sqrt((1.0 - now / following) * (1.0 - following) / (1.0 - now)))
        kept = float(np.sqrt(max(1.0 - following - fresh**2, 0.0)))
        found.append(CleanStep(time, now**0.5, (1.0 - now) ** 0.5, following**0.5, kept, fresh))
    return tuple(found)


def sample_clean_pose(
    predict_clean: Callable[[Any, int], Any],
    noises: Sequence[Any],
    schedule: Sequence[CleanStep],
    limit: float = LIMIT,
) -> Any:
    """The pose that K steps make of noise.

    Args:
        predict_clean: ``(y_t, t) -> y0_hat``, both kept within ``limit`` metres.
        noises: K draws of standard normal numbers in the shape of the poses, NumPy arrays or tensors: the start, and
            what each step but the last draws.
        schedule: `clean_pose_schedule`. Raises ConfigError where it has another length than ``noises``.
    """
    if len(noises) != len(schedule):
        raise ConfigError(f"{len(schedule)} steps take as many draws of noise, got {len(noises)}")
    pose = noises[0]
    for index, step in enumerate(schedule):
        clean = predict_clean(pose.clip(-limit, limit), step.time).clip(-limit, limit)
        if index + 1 == len(schedule):
            return clean
        noise = (pose - step.signal * clean) / step.noise
        pose = step.next_signal * clean + step.next_kept * noise + step.next_fresh * noises[index + 1]
    return pose


def draw_noises(steps: int, hypotheses: int, frames: int, joints: int = 17, seed: int = 0) -> NDArray[np.float32]:
    """``(K, H, T, J, 3)`` standard normal numbers from ``seed``: what makes H hypotheses of a window.

    Raises ConfigError for a seed below 0.
    """
    if seed < 0:
        raise ConfigError(f"sampling.seed must be 0 or more, got {seed}")
    rng = np.random.default_rng([seed, hypotheses])
    return rng.standard_normal((steps, hypotheses, frames, joints, 3), dtype=np.float32)
