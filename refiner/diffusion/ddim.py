"""Deterministic DDIM refinement, eq. 9, for any number of steps K (the paper's K is 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.schedule import Terminal, cosine_schedule, schedule_coefficients
from refiner.errors import ConfigError


def ddim_timesteps(steps: int, timesteps: int = 50) -> list[int]:
    """The K + 1 times of the sampler, from ``timesteps - 1`` down to -1 (the clean pose).

    ``reversed(int(linspace(-1, timesteps - 1, K + 1)))``: 49, 24, -1 for K = 2 of 50.
    Raises ConfigError unless 1 <= steps <= timesteps.
    """
    if not 1 <= steps <= timesteps:
        raise ConfigError(f"steps must lie between 1 and the schedule's {timesteps} timesteps, got {steps}")
    return [int(t) for t in np.linspace(-1, timesteps - 1, steps + 1)][::-1]


def ddim_refine(
    predict_error: Callable[[Any, int], Any],
    noisy_pose_3d: Any,
    steps: int = 2,
    alphas_cumprod: NDArray[np.float64] | None = None,
    terminal: Terminal = "zero",
) -> Any:
    """Refine ``noisy_pose_3d`` by K deterministic DDIM steps (eq. 9), starting from y_T := noisy_pose_3d.

    Args:
        predict_error: ``(y_t, t) -> e_hat``; y_t has the shape of the pose, t is the timestep as an int, and
            e_hat is the predicted error **in metres** (a model's output, denormalised).
        noisy_pose_3d: the lifter's root-relative pose, any shape, metres; a NumPy array or a torch tensor.
        steps: K.
        alphas_cumprod: abar of the schedule, ``(timesteps,)``; the paper's 50-step cosine schedule by default.
        terminal: see `schedule_coefficients`.

    Returns the refined pose in the shape and type of the input. Only additions and multiplications by Python
    floats are used, so the loop traces into one straight graph.
    """
    return run_ddim(predict_error, noisy_pose_3d, ddim_schedule(steps, alphas_cumprod, terminal))


class DdimStep(NamedTuple):
    """One step of eq. 9 as Python floats: from timestep ``time`` to the next one, of which the last is the clean pose.

    clean = (y_t - ``noise`` e) ``scale``; y_t' = ``next_clean`` clean + ``next_noise`` e.
    """

    time: int
    noise: float
    scale: float
    next_clean: float
    next_noise: float


def ddim_schedule(
    steps: int = 2, alphas_cumprod: NDArray[np.float64] | None = None, terminal: Terminal = "zero"
) -> tuple[DdimStep, ...]:
    """The numbers of K steps, for `run_ddim`; arguments as for `ddim_refine`. Raises ConfigError for K out of range."""
    abar = cosine_schedule() if alphas_cumprod is None else np.asarray(alphas_cumprod, dtype=np.float64)
    signal, noise = schedule_coefficients(abar, terminal)
    found = []
    for time, after in pairwise(ddim_timesteps(steps, len(abar))):
        scale = float(1.0 / (signal[time] + noise[time]))
        # The clean pose itself is y with no noise left. Otherwise eps_hat = clean + error, so that eq. 8 gives
        # y_t' = (signal' + noise') clean + noise' error.
        next_clean, next_noise = (1.0, 0.0) if after < 0 else (float(signal[after] + noise[after]), float(noise[after]))
        found.append(DdimStep(time, float(noise[time]), scale, next_clean, next_noise))
    return tuple(found)


def run_ddim(predict_error: Callable[[Any, int], Any], noisy_pose_3d: Any, schedule: Sequence[DdimStep]) -> Any:
    """The loop of `ddim_refine` with its numbers at hand."""
    pose = noisy_pose_3d
    for step in schedule:
        error = predict_error(pose, step.time)
        clean = (pose - step.noise * error) * step.scale
        if step is schedule[-1]:
            return clean
        pose = step.next_clean * clean + step.next_noise * error
    return pose
