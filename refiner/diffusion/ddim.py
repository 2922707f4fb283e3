"""Deterministic DDIM refinement (D3PRefiner, eq. 9) for any number of steps K; the paper uses K = 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.schedule import Terminal, cosine_schedule, schedule_coefficients
from refiner.errors import ConfigError

# A NumPy array or a PyTorch tensor.
PoseT = TypeVar("PoseT")


def ddim_timesteps(steps: int, timesteps: int = 50) -> list[int]:
    """Return the K + 1 timesteps of the sampler, from ``timesteps - 1`` down to -1, which is the clean pose.

    They are ``reversed(int(linspace(-1, timesteps - 1, K + 1)))``, for example 49, 24, -1 for K = 2 and 50 timesteps.
    Raises ConfigError unless 1 <= steps <= timesteps.
    """
    if not 1 <= steps <= timesteps:
        raise ConfigError(f"steps must lie between 1 and the schedule's {timesteps} timesteps, got {steps}")
    return [int(t) for t in np.linspace(-1, timesteps - 1, steps + 1)][::-1]


def ddim_refine(
    predict_error: Callable[[PoseT, int], PoseT],
    noisy_pose_3d: PoseT,
    steps: int = 2,
    alphas_cumprod: NDArray[np.float64] | None = None,
    terminal: Terminal = "zero",
) -> PoseT:
    """Refine a pose with K deterministic DDIM steps, starting from y_T := noisy_pose_3d.

    The loop uses only additions and multiplications by Python floats, so it traces into a graph without branches.

    Args:
        predict_error: ``(y_t, t) -> e_hat``, where y_t has the shape of the pose, t is the timestep as an int, and
            e_hat is the predicted error **in metres** (the denormalised output of a model).
        noisy_pose_3d: The lifter's root-relative pose in metres, of any shape; a NumPy array or a PyTorch tensor.
        steps: K.
        alphas_cumprod: abar of the schedule, ``(timesteps,)``. None: the paper's cosine schedule with 50 timesteps.
        terminal: See `schedule_coefficients`.

    Returns:
        The refined pose, in the shape and type of the input.

    Raises:
        ConfigError: K is out of range, or ``terminal`` is unknown.

    Reference:
        D3PRefiner, arXiv 2401.03914, eq. 9.
    """
    return run_ddim(predict_error, noisy_pose_3d, ddim_schedule(steps, alphas_cumprod, terminal))


class DdimStep(NamedTuple):
    """The coefficients of one step of eq. 9, from timestep ``time`` to the next. The last step gives the clean pose.

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
    """Compute the coefficients of K steps for `run_ddim`.

    The arguments and errors are the same as for `ddim_refine`.
    """
    abar = cosine_schedule() if alphas_cumprod is None else np.asarray(alphas_cumprod, dtype=np.float64)
    signal, noise = schedule_coefficients(abar, terminal)
    schedule = []
    for time, after in pairwise(ddim_timesteps(steps, len(abar))):
        scale = float(1.0 / (signal[time] + noise[time]))
        # After the last step y is the clean pose without noise. Before, eps_hat = clean + error, so that eq. 8 gives
        # y_t' = (signal' + noise') clean + noise' error.
        next_clean, next_noise = (1.0, 0.0) if after < 0 else (float(signal[after] + noise[after]), float(noise[after]))
        schedule.append(DdimStep(time, float(noise[time]), scale, next_clean, next_noise))
    return tuple(schedule)


def run_ddim(predict_error: Callable[[PoseT, int], PoseT], noisy_pose_3d: PoseT, schedule: Sequence[DdimStep]) -> PoseT:
    """Run the loop of `ddim_refine` with a schedule that `ddim_schedule` computed before."""
    pose: Any = noisy_pose_3d
    for step in schedule:
        error: Any = predict_error(pose, step.time)
        clean = (pose - step.noise * error) * step.scale
        pose = clean if step is schedule[-1] else step.next_clean * clean + step.next_noise * error
    refined: PoseT = pose
    return refined
