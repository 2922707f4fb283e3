"""A refiner trained through the steps that run: the loss is the error of the pose after each of the K DDIM steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.diffusion.ddim import ddim_schedule
from refiner.diffusion.schedule import cosine_schedule
from refiner.models import PoseDenoiser
from refiner.models.unrolled import apply_trust, scale_without_root
from refiner.training.config import Config
from refiner.training.noise_fit import FittedNoise
from refiner.training.pool import Estimates
from refiner.training.tasks import ValidationClips, ValidationWindows, refine_windows
from refiner.training.trust import Trust, best_trust

# Windows that are validated at a time.
BATCH = 256


@dataclass(frozen=True, eq=False)
class ValidatedEstimator:
    """Validation windows (of a causal refiner whole clips) of one estimator: its name, the windows, and what it makes
    of them."""

    name: str
    windows: ValidationWindows | ValidationClips
    lifted: Any


class UnrolledRefinerTask:
    """Training through eq. 9: y_K is the estimator's pose, each step's clean pose is compared with the truth.

    With an error that is drawn anew at each timestep (eq. 7 and 8) the second step is trained on noisy poses that it
    never meets: what it gets at run time are the leavings of the first step. Here it gets those, and gradients flow
    through all steps.

    Args:
        config, model: of the run. fitted: the noise model that the checkpoint keeps, and the error's scale.
        validation: what chooses the checkpoint: the mean of the refined errors over these estimators.
    """

    def __init__(
        self, config: Config, model: PoseDenoiser, fitted: FittedNoise, validation: Sequence[ValidatedEstimator]
    ) -> None:
        self.config, self.model, self.fitted, self._validation = config, model, fitted, tuple(validation)
        self.device = torch.device(config.training.device)
        self.error_scale = torch.tensor(fitted.error_scale, dtype=torch.float32)
        self._scale = self.error_scale.reshape(17, 3).to(self.device)
        self._moving = scale_without_root(self._scale)
        diffusion = config.diffusion
        alphas = cosine_schedule(diffusion.timesteps, diffusion.offset)
        self._schedule = ddim_schedule(diffusion.steps, alphas, diffusion.terminal)
        # Chosen by each validation.
        self.trust: Trust | None = None

    def loss(self, windows: Estimates, step: int) -> Tensor:
        """The mean over the K steps of the mean distance of a joint from where it should be, metres."""
        return self.loss_of(*self.prepare(windows, step))

    def prepare(self, windows: Estimates, step: int) -> tuple[Tensor, ...]:
        """The tensors of the loss; they are on the device already. `refiner.training.steps.CapturableTask`."""
        return windows.features, windows.pose, windows.truth

    def loss_of(self, features: Tensor, pose: Tensor, truth: Tensor) -> Tensor:
        """The loss of what `prepare` gives."""
        losses = []
        for step in self._schedule:
            time = torch.full((len(pose),), step.time, device=pose.device)
            error = self.model(pose, features, time).float() * self._moving
            clean = (pose - step.noise * error) * step.scale
            losses.append(torch.linalg.vector_norm((clean - truth)[..., 1:, :], dim=-1).mean())
            pose = step.next_clean * clean + step.next_noise * error
        mean: Tensor = torch.stack(losses).mean()
        return mean

    def validate(self, model: nn.Module) -> dict[str, float]:
        """MPJPE of what runs for each estimator, and their mean as ``mpjpe_mm``; ``NAME_lifter_mpjpe_mm``: what went
        in; ``NAME_steps_mpjpe_mm``: what the K steps give, of which a windowed refiner keeps what it trusts."""
        assert isinstance(model, PoseDenoiser)
        refine = partial(refine_windows, model, self._scale, self.config.diffusion, batch=BATCH)
        refined = [entry.windows.each(refine, entry.windows.pose_2d, entry.lifted) for entry in self._validation]
        found = [entry.windows.mpjpe_mm(poses) for entry, poses in zip(self._validation, refined, strict=True)]
        beside: dict[str, float] = {}
        for entry, error in zip(self._validation, found, strict=True):
            beside[f"{entry.name}_lifter_mpjpe_mm"] = entry.windows.mpjpe_mm(entry.lifted)
            beside[f"{entry.name}_steps_mpjpe_mm"] = error
        if not self.config.model.causal:
            self.trust, found = choose_trust(self._validation, refined)
        names = [f"{entry.name}_mpjpe_mm" for entry in self._validation]
        return {"mpjpe_mm": float(np.mean(found)), **dict(zip(names, found, strict=True)), **beside}

    def extra_tensors(self) -> dict[str, Tensor]:
        """The noise model, the error's scale and its correlation over time."""
        trust = {} if self.trust is None else {"trust": torch.tensor(self.trust, dtype=torch.float64)}
        return {**self.fitted.to_tensors(), **trust}


def choose_trust(estimators: Sequence[ValidatedEstimator], refined: Sequence[Any]) -> tuple[Trust, list[float]]:
    """`refiner.training.trust.best_trust` on validation windows; ``refined``: what the K steps make of each one's."""

    def errors(trust: Trust) -> list[float]:
        kept = []
        for entry, poses in zip(estimators, refined, strict=True):
            given, moved = (torch.from_numpy(np.asarray(array)) for array in (entry.lifted, poses))
            windows: Any = entry.windows
            kept.append(windows.mpjpe_mm(apply_trust(given, moved, trust).numpy()))
        return kept

    return best_trust(errors)
