"""Train a refiner through its K DDIM steps: the loss is the error of the pose after each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

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
from refiner.training.tasks import Poses, ValidationClips, ValidationWindows, refine_windows
from refiner.training.trust import Trust, best_trust

# Windows of a validation batch.
BATCH = 256


@dataclass(frozen=True, eq=False)
class ValidatedEstimator:
    """The validation data of one estimator.

    Attributes:
        name: the name of the estimator in the metrics.
        windows: windows, or whole clips for a causal refiner.
        lifted: the estimator's poses for them.
    """

    name: str
    windows: ValidationWindows | ValidationClips
    lifted: Poses


class UnrolledRefinerTask:
    """Trains through eq. 9: y_K is the estimator's pose, and the clean pose of each step is compared with the truth.

    Training on errors that are drawn for each timestep (eq. 7 and 8) shows noisy poses to the second step that it never
    meets in use: it gets the remaining errors of the first step instead. Here it is trained on these, and the gradients
    flow through all steps.

    Args:
        config: the configuration of the run.
        model: the denoiser.
        fitted: the noise model that the checkpoint stores, and the error scale.
        validation: the estimators whose mean refined error chooses the best checkpoint.
    """

    def __init__(
        self, config: Config, model: PoseDenoiser, fitted: FittedNoise, validation: Sequence[ValidatedEstimator]
    ) -> None:
        self.config, self.model, self.fitted, self._validation = config, model, fitted, tuple(validation)
        self.device = torch.device(config.training.device)
        self.error_scale = torch.tensor(fitted.error_scale, dtype=torch.float32)
        self._scale = self.error_scale.reshape(17, 3).to(self.device)
        self._step_scale = scale_without_root(self._scale)
        diffusion = config.diffusion
        alphas = cosine_schedule(diffusion.timesteps, diffusion.offset)
        self._schedule = ddim_schedule(diffusion.steps, alphas, diffusion.terminal)
        # Every validation chooses it anew.
        self.trust: Trust | None = None

    def loss(self, windows: Estimates, step: int) -> Tensor:
        """The mean over the K steps of the mean distance of the joints from their true positions, metres."""
        return self.loss_of(*self.prepare(windows, step))

    def prepare(self, windows: Estimates, step: int) -> tuple[Tensor, ...]:
        """The tensors for `loss_of`, already on the device; see `refiner.training.steps.CapturableTask`."""
        return windows.features, windows.pose, windows.truth

    def loss_of(self, features: Tensor, pose: Tensor, truth: Tensor) -> Tensor:
        """The loss for the tensors of `prepare`."""
        losses = []
        for step in self._schedule:
            time = torch.full((len(pose),), step.time, device=pose.device)
            error = self.model(pose, features, time).float() * self._step_scale
            clean = (pose - step.noise * error) * step.scale
            losses.append(torch.linalg.vector_norm((clean - truth)[..., 1:, :], dim=-1).mean())
            pose = step.next_clean * clean + step.next_noise * error
        mean: Tensor = torch.stack(losses).mean()
        return mean

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The refined MPJPE for each estimator, and their mean as ``mpjpe_mm``.

        ``NAME_lifter_mpjpe_mm`` is the MPJPE before the refiner, and ``NAME_steps_mpjpe_mm`` the MPJPE after the K
        steps, before a windowed refiner applies its trust.
        """
        assert isinstance(model, PoseDenoiser)
        refine = partial(refine_windows, model, self._scale, self.config.diffusion, batch=BATCH)
        refined = [entry.windows.each(refine, entry.windows.pose_2d, entry.lifted) for entry in self._validation]
        errors = [entry.windows.mpjpe_mm(poses) for entry, poses in zip(self._validation, refined, strict=True)]
        details: dict[str, float] = {}
        for entry, error in zip(self._validation, errors, strict=True):
            details[f"{entry.name}_lifter_mpjpe_mm"] = entry.windows.mpjpe_mm(entry.lifted)
            details[f"{entry.name}_steps_mpjpe_mm"] = error
        if not self.config.model.causal:
            self.trust, errors = choose_trust(self._validation, refined)
        names = [f"{entry.name}_mpjpe_mm" for entry in self._validation]
        return {"mpjpe_mm": float(np.mean(errors)), **dict(zip(names, errors, strict=True)), **details}

    def extra_tensors(self) -> dict[str, Tensor]:
        """The noise model, the error scale, the correlation over time and, if it was chosen, the trust."""
        trust = {} if self.trust is None else {"trust": torch.tensor(self.trust, dtype=torch.float64)}
        return {**self.fitted.to_tensors(), **trust}


def choose_trust(estimators: Sequence[ValidatedEstimator], refined: Sequence[Poses]) -> tuple[Trust, list[float]]:
    """`refiner.training.trust.best_trust` on validation windows; ``refined`` holds the poses after the K steps."""

    def errors(trust: Trust) -> list[float]:
        results = []
        for entry, poses in zip(estimators, refined, strict=True):
            lifted, moved = (torch.from_numpy(np.asarray(array)) for array in (entry.lifted, poses))
            results.append(entry.windows.mpjpe_mm(apply_trust(lifted, moved, trust).numpy()))
        return results

    return best_trust(errors)
