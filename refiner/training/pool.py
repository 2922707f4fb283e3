"""A pool of estimators: what a refiner for estimators that it never saw is trained on.

Each step takes one lifter of the pool, lifts the scenes of the batch as the runtime would, draws for a share of the
windows the errors anew from that lifter's conditional Gaussian (eq. 5 and 6), and adds systematic errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.data.windows import blend_weights
from refiner.errors import ConfigError
from refiner.models.canonical import canonical_pose, to_virtual_camera
from refiner.training.config import Config
from refiner.training.kept import lifted_already
from refiner.training.noise_fit import FittedNoise, fit_noise
from refiner.training.scene_refiner import RayLifter
from refiner.training.scenes import SceneBatch, SceneSampler
from refiner.training.scenes.draws import Draws
from refiner.training.systematic import SystematicErrors
from refiner.training.windows import Windows

# What the draws of the pool are seeded with beside the run's seed and the step.
SEED_OF_POOL = 77
# A window's errors are at least this share of what the Gaussian expects, and at most the inverse.
LEAST_LEVEL = 0.2
# Drawn errors are between this share of a window's own level and all of it.
BETTER = 0.4


@dataclass(frozen=True, eq=False)
class Estimates:
    """Windows on the device, everything in the axes of the virtual cameras: ``features`` ``(B, T, 17, 6)``, the
    estimator's ``pose`` and the ``truth`` ``(B, T, 17, 3)`` metres, root at 0."""

    features: Tensor = field(repr=False)
    pose: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)


class DrawnErrors:
    """A conditional Gaussian on the device: mean and spread of an estimator's errors given what was seen."""

    def __init__(self, fitted: FittedNoise, device: torch.device) -> None:
        def there(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)

        gaussian = fitted.gaussian
        self._gain, self._factor = there(gaussian.gain), there(gaussian.factor)
        self._offset = there(gaussian.mean_error - gaussian.gain @ gaussian.mean_condition)
        self._spread = float(np.sqrt(np.trace(gaussian.covariance)))
        self._time = there(np.linalg.cholesky(fitted.time_correlation + 1e-6 * np.eye(len(fitted.time_correlation))))

    def draw(self, draws: Draws, features: Tensor, pose: Tensor, truth: Tensor) -> Tensor:
        """Errors ``(B, T, 17, 3)`` as those of ``pose`` might have been, at each window's own level."""
        batch, frames = pose.shape[:2]
        condition = torch.cat([features[..., :2].flatten(-2), pose.flatten(-2)], dim=-1)  # [B, T, 85]
        mean = condition @ self._gain.T + self._offset
        white = draws.normal(batch, frames, pose.shape[-2] * 3)
        drawn = torch.einsum("ts,bsd->btd", self._time, white) @ self._factor.T
        residual = (pose - truth).flatten(-2) - mean
        level = residual.square().sum(dim=-1).mean(dim=-1).sqrt() / self._spread
        # Better estimators than any of the pool come, too.
        level = level.clamp(LEAST_LEVEL, 1.0 / LEAST_LEVEL) * draws.uniform(batch, low=BETTER, high=1.0)
        level = level[:, None, None]
        return (level * (mean + drawn)).reshape(pose.shape)


class EstimatorPool:
    """Batches of `Estimates` from a sampler of scenes.

    Args:
        scenes: draws windows of `pool_length` frames. lifters: the pool; they see ``config.frames`` frames, all with
        the same stride. config: of the run; its stride is that of the lifters or a multiple of it: a refiner that
        looks at every ninth frame of what lifters made of every third.
    Raises ConfigError for lifters of another window or stride.
    """

    def __init__(self, scenes: SceneSampler, lifters: Sequence[RayLifter], config: Config) -> None:
        spans = {lifter.frames * (lifter.stride if config.model.causal else 1) for lifter in lifters}
        self._live = config.estimators.live
        if self._live and not config.model.causal:
            raise ConfigError("estimators.live is of causal refiners, whose lifters lift frame by frame")
        if not self._live and spans != {config.window}:
            raise ConfigError(
                f"the refiner is trained on windows of {config.window} frames, and the lifters of its pool see "
                f"{', '.join(map(str, sorted(spans)))} (a causal refiner takes every frame, with training.window)"
            )
        self._scenes, self._lifters, self._config = scenes, tuple(lifters), config
        self._hop = max(1, config.frames // 2)
        # Frames of the lifters from one of the refiner's frames to the next.
        self._every = 1 if config.model.causal else frames_between(config, lifters)
        device = torch.device(config.training.device)
        self._weights = torch.from_numpy(blend_weights(config.frames)).float().to(device)[:, None, None]
        self._systematic = SystematicErrors(config.window, config.estimators, device)
        self._drawn: list[DrawnErrors] = []

    def __len__(self) -> int:
        return len(self._lifters)

    def fit(self, config: Config) -> list[FittedNoise]:
        """Fit the conditional Gaussian of each lifter of the pool; its draws are part of the batches from here on."""
        fitted = [fit_noise(_OfOne(self, place), lifted_already, config) for place in range(len(self))]
        device = torch.device(config.training.device)
        self._drawn = [DrawnErrors(one, device) for one in fitted]
        return fitted

    def batch(self, step: int) -> Estimates:
        """The windows of one training step."""
        return self.estimates(self._scenes.batch(step), step % len(self), step)

    @torch.no_grad()
    def estimates(self, scene: SceneBatch, place: int, step: int, plain: bool = False) -> Estimates:
        """What the lifter at ``place`` makes of ``scene``; ``plain``: without drawn and systematic errors."""
        features, rotation = canonical_pose(scene.keypoints, scene.camera)
        truth = to_virtual_camera(scene.pose_3d, rotation)
        if self._config.model.causal:
            lifter = self._lifters[place]
            window = self._config.window
            if self._live:
                pose = lifter.lift_live(features[:, -(lifter.reach + window) :])
                features, truth = features[:, -window:], truth[:, -window:]
            else:
                pose = lifter.lift(features)
        else:
            lifted = self._blended(self._lifters[place], features)
            features, pose, truth = (self._middle(values) for values in (features, lifted, truth))
        if plain:
            return Estimates(features, pose, truth)
        draws = Draws(self._config.training.seed + SEED_OF_POOL, step, pose.device)
        if self._drawn:
            drawn = truth + self._drawn[place].draw(draws, features, pose, truth)
            chosen = draws.chance(self._config.estimators.drawn, len(pose))
            pose = torch.where(chosen[:, None, None, None], drawn, pose)
        return Estimates(features, self._systematic.disturb(draws, pose), truth)

    def _middle(self, values: Tensor) -> Tensor:
        """Scenes ``(B, length, ...)`` -> the refiner's windows ``(B x phases, T, ...)`` from their middle.

        Lifting a scene costs more than a step of a small refiner, so each of its phases becomes a window."""
        first, span = self._hop // 2, self._every * (self._config.frames - 1) + 1
        phases = [slice(first + phase, first + phase + span, self._every) for phase in range(self._every)]
        return torch.cat([values[:, phase] for phase in phases])

    def _blended(self, lifter: RayLifter, features: Tensor) -> Tensor:
        """Windows that overlap by half, blended as the runtime blends them."""
        frames, (batch, length) = self._config.frames, features.shape[:2]
        starts = range(0, length - frames + 1, self._hop)
        lifted = lifter.windows(torch.cat([features[:, start : start + frames] for start in starts]))
        total = torch.zeros(batch, length, 17, 3, device=features.device)
        weight = torch.zeros(length, 1, 1, device=features.device)
        for place, start in enumerate(starts):
            window = lifted[batch * place : batch * (place + 1)]
            total[:, start : start + frames] += self._weights * window
            weight[start : start + frames] += self._weights
        return total / weight


def frames_between(config: Config, lifters: Sequence[RayLifter]) -> int:
    """Frames of a pool's lifters from one frame of the refiner to the next: the ratio of their strides. Raises
    ConfigError where it is no whole number."""
    strides = {lifter.stride for lifter in lifters}
    stride = min(strides)
    if len(strides) > 1 or config.stride % stride:
        raise ConfigError(
            f"the refiner takes every {config.stride} frames, and the lifters of its pool every "
            f"{', '.join(map(str, sorted(strides)))}: expected one stride of all lifters, and a multiple of it"
        )
    return config.stride // stride


def pool_length(config: Config, every: int = 1, reach: int = 0) -> int:
    """Frames of a scene, in the stride of the lifters.

    A refiner's frames are ``every`` frames of the lifters apart. A scene holds one window of the refiner, the
    ``every - 1`` windows that begin one frame later each, and half an overlap of the lifters' windows on both sides. It
    is as long as several windows of a lifter that overlap by half. A causal refiner needs the frames it is trained
    on and, where they are lifted live, ``reach`` frames before them.
    """
    if config.model.causal:
        return config.window + reach
    hop = max(1, config.frames // 2)
    # Behind the first window there are those that begin with the next frames, and half an overlap.
    needed = hop // 2 + (config.frames - 1) * every + 1 + max(hop // 2, every - 1)
    overlaps = -(-(needed - config.frames) // hop)
    return config.frames + max(1, overlaps) * hop


class _OfOne:
    """One lifter of a pool as a sampler of `Windows`, for the fit of its noise model."""

    def __init__(self, pool: EstimatorPool, place: int) -> None:
        self._pool, self._place = pool, place

    def batch(self, step: int) -> Windows:
        found = self._pool.estimates(self._pool._scenes.batch(step), self._place, step, plain=True)
        features, pose, truth = (value.cpu().numpy() for value in (found.features, found.pose, found.truth))
        return Windows(features, truth, np.full(len(pose), ""), lifted=pose)
