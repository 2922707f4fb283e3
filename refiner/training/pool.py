"""A pool of estimators, to train a refiner for estimators that it never saw.

Each step takes one lifter of the pool and lifts the scenes of the batch as the runtime would. For a share of the
windows it replaces the errors by draws from the lifter's conditional Gaussian (eq. 5 and 6). Then it adds systematic
errors.
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
from refiner.training.noise_fit import FittedNoise, fit_noise
from refiner.training.repeated import stored_poses
from refiner.training.scene_refiner import RayLifter
from refiner.training.scenes import SceneBatch, SceneSampler
from refiner.training.scenes.draws import Draws
from refiner.training.systematic import SystematicErrors
from refiner.training.windows import Windows

# Added to the run's seed for the draws of the pool.
SEED_OF_POOL = 77
# Lower limit of a window's error level, relative to the level that the Gaussian expects; its inverse is the upper
# limit.
LEAST_LEVEL = 0.2
# Lower limit of the level of drawn errors, relative to the window's own level; the upper limit is 1.
BETTER = 0.4


@dataclass(frozen=True, eq=False)
class Estimates:
    """Windows with an estimator's poses, on the device. All poses are in the axes of the virtual cameras.

    Attributes:
        features: ray features, ``(B, T, 17, 6)``.
        pose: the estimator's poses, ``(B, T, 17, 3)`` metres, root at 0.
        truth: the true poses, ``(B, T, 17, 3)`` metres, root at 0.
    """

    features: Tensor = field(repr=False)
    pose: Tensor = field(repr=False)
    truth: Tensor = field(repr=False)


class DrawnErrors:
    """A lifter's conditional Gaussian on the device: mean and spread of its errors, given its 2D input and its pose."""

    def __init__(self, fitted: FittedNoise, device: torch.device) -> None:
        def on_device(values: NDArray[Any]) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)

        gaussian = fitted.gaussian
        self._gain, self._factor = on_device(gaussian.gain), on_device(gaussian.factor)
        self._offset = on_device(gaussian.mean_error - gaussian.gain @ gaussian.mean_condition)
        self._spread = float(np.sqrt(np.trace(gaussian.covariance)))
        self._time = on_device(
            np.linalg.cholesky(fitted.time_correlation + 1e-6 * np.eye(len(fitted.time_correlation)))
        )

    def draw(self, draws: Draws, features: Tensor, pose: Tensor, truth: Tensor) -> Tensor:
        """Draw other errors for ``pose``, ``(B, T, 17, 3)`` metres, at about the error level of each window."""
        batch, frames = pose.shape[:2]
        condition = torch.cat([features[..., :2].flatten(-2), pose.flatten(-2)], dim=-1)  # [B, T, 85]
        mean = condition @ self._gain.T + self._offset
        white = draws.normal(batch, frames, pose.shape[-2] * 3)
        drawn = torch.einsum("ts,bsd->btd", self._time, white) @ self._factor.T
        residual = (pose - truth).flatten(-2) - mean
        level = residual.square().sum(dim=-1).mean(dim=-1).sqrt() / self._spread
        # The level is reduced at random, since the refiner may meet better estimators than those of the pool.
        level = level.clamp(LEAST_LEVEL, 1.0 / LEAST_LEVEL) * draws.uniform(batch, low=BETTER, high=1.0)
        level = level[:, None, None]
        return (level * (mean + drawn)).reshape(pose.shape)


class EstimatorPool:
    """Draws batches of `Estimates` from a sampler of scenes.

    Args:
        scenes: draws windows of `pool_length` frames.
        lifters: the pool. All lifters see ``config.frames`` frames with the same stride.
        config: the configuration of the run. Its stride is the stride of the lifters or a multiple of it. For example,
            a refiner takes every ninth frame of the poses that lifters computed for every third frame.

    Raises:
        ConfigError: a lifter has another window or stride.
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
        """Fit the conditional Gaussian of each lifter. From now on the batches contain errors drawn from it."""
        fitted = [fit_noise(_SingleLifterSampler(self, index), stored_poses, config) for index in range(len(self))]
        device = torch.device(config.training.device)
        self._drawn = [DrawnErrors(one, device) for one in fitted]
        return fitted

    def batch(self, step: int) -> Estimates:
        """The windows of one training step."""
        return self.estimates(self._scenes.batch(step), step % len(self), step)

    @torch.no_grad()
    def estimates(self, scene: SceneBatch, index: int, step: int, plain: bool = False) -> Estimates:
        """The windows of ``scene`` with the poses of one lifter.

        Args:
            scene: the scenes of the batch.
            index: the number of the lifter in the pool.
            step: seeds the draws.
            plain: leave out drawn and systematic errors.
        """
        features, rotation = canonical_pose(scene.keypoints, scene.camera)
        truth = to_virtual_camera(scene.pose_3d, rotation)
        if self._config.model.causal:
            lifter = self._lifters[index]
            window = self._config.window
            if self._live:
                pose = lifter.lift_live(features[:, -(lifter.reach + window) :])
                features, truth = features[:, -window:], truth[:, -window:]
            else:
                pose = lifter.lift(features)
        else:
            lifted = self._blended(self._lifters[index], features)
            features, pose, truth = (self._middle(values) for values in (features, lifted, truth))
        if plain:
            return Estimates(features, pose, truth)
        draws = Draws(self._config.training.seed + SEED_OF_POOL, step, pose.device)
        if self._drawn:
            drawn = truth + self._drawn[index].draw(draws, features, pose, truth)
            chosen = draws.chance(self._config.estimators.drawn, len(pose))
            pose = torch.where(chosen[:, None, None, None], drawn, pose)
        return Estimates(features, self._systematic.disturb(draws, pose), truth)

    def _middle(self, values: Tensor) -> Tensor:
        """Cut the refiner's windows from the middle of the scenes: ``(B, length, ...)`` -> ``(B x phases, T, ...)``.

        To lift a scene costs more than a step of a small refiner, so every phase of the scene becomes a window.
        """
        first, span = self._hop // 2, self._every * (self._config.frames - 1) + 1
        phases = [slice(first + phase, first + phase + span, self._every) for phase in range(self._every)]
        return torch.cat([values[:, phase] for phase in phases])

    def _blended(self, lifter: RayLifter, features: Tensor) -> Tensor:
        """Lift scenes in windows that overlap by half, and blend them like the runtime."""
        frames, (batch, length) = self._config.frames, features.shape[:2]
        starts = range(0, length - frames + 1, self._hop)
        lifted = lifter.windows(torch.cat([features[:, start : start + frames] for start in starts]))
        total = torch.zeros(batch, length, 17, 3, device=features.device)
        weight = torch.zeros(length, 1, 1, device=features.device)
        for index, start in enumerate(starts):
            window = lifted[batch * index : batch * (index + 1)]
            total[:, start : start + frames] += self._weights * window
            weight[start : start + frames] += self._weights
        return total / weight


def frames_between(config: Config, lifters: Sequence[RayLifter]) -> int:
    """The ratio of the refiner's stride to the stride of the lifters.

    Raises:
        ConfigError: the lifters have different strides, or the ratio is no whole number.
    """
    strides = {lifter.stride for lifter in lifters}
    stride = min(strides)
    if len(strides) > 1 or config.stride % stride:
        raise ConfigError(
            f"the refiner takes every {config.stride} frames, and the lifters of its pool every "
            f"{', '.join(map(str, sorted(strides)))}: expected one stride of all lifters, and a multiple of it"
        )
    return config.stride // stride


def pool_length(config: Config, every: int = 1, reach: int = 0) -> int:
    """The length of a scene, in frames of the lifters.

    A scene holds one window of the refiner, whose frames are ``every`` frames of the lifters apart, and the
    ``every - 1`` windows that begin one frame later each. On both sides it has half an overlap of the lifters' windows.
    The length is rounded up to a whole number of lifters' windows that overlap by half. For a causal refiner the scene
    has the frames of its training window and, if they are lifted live, ``reach`` frames before them.

    Args:
        config: the configuration of the run.
        every: see `frames_between`.
        reach: the largest `RayLifter.reach` of the pool, for ``estimators.live``.
    """
    if config.model.causal:
        return config.window + reach
    hop = max(1, config.frames // 2)
    # After the first window come the windows that begin with the next frames, and half an overlap.
    needed = hop // 2 + (config.frames - 1) * every + 1 + max(hop // 2, every - 1)
    overlaps = -(-(needed - config.frames) // hop)
    return config.frames + max(1, overlaps) * hop


class _SingleLifterSampler:
    """Samples `Windows` with the poses of one lifter of a pool, to fit its noise model."""

    def __init__(self, pool: EstimatorPool, index: int) -> None:
        self._pool, self._index = pool, index

    def batch(self, step: int) -> Windows:
        batch = self._pool.estimates(self._pool._scenes.batch(step), self._index, step, plain=True)
        features, pose, truth = (value.cpu().numpy() for value in (batch.features, batch.pose, batch.truth))
        return Windows(features, truth, np.full(len(pose), ""), lifted=pose)
