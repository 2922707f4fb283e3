"""Measure a lifter's errors before its refiner is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.noise_model import ConditionalGaussian, ConditionalMoments
from refiner.diffusion.temporal import TemporalMoments
from refiner.errors import ConfigError, TrainingError
from refiner.training.config import Config
from refiner.training.windows import Lift, Sampler


@dataclass(frozen=True)
class FittedNoise:
    """The result of `fit_noise`.

    Attributes:
        gaussian: the conditional Gaussian of the errors (eq. 5 and 6).
        error_scale: metres per normalised unit, ``(51,)``.
        time_correlation: correlation of e - mean(c) between the frames of a training window, ``(T, T)``.
        inputs: the model of the poses that the refiner was trained on.
    """

    gaussian: ConditionalGaussian
    error_scale: NDArray[np.float64]
    time_correlation: NDArray[np.float64]
    inputs: InputModel

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors that a refiner's checkpoint stores, by name."""
        named = {f"noise.{name}": value for name, value in self.gaussian.to_tensors().items()}
        named |= {f"inputs.{name}": value for name, value in self.inputs.to_tensors().items()}
        named["time_correlation"] = self.time_correlation
        tensors = {name: torch.from_numpy(value.copy()) for name, value in named.items()}
        return {"error_scale": torch.tensor(self.error_scale, dtype=torch.float32), **tensors}


def fit_noise(sampler: Sampler, lift: Lift, config: Config) -> FittedNoise:
    """Fit the conditional Gaussian, the error scale and the correlation over time on fresh training windows.

    The batches are numbered from 2^40, so that they differ from those of the training steps. Depending on
    ``diffusion.normalisation`` the scale is 1, the mean |e| over all coordinates but the root's, or the root mean
    square of each coordinate.

    Args:
        sampler: the source of the windows.
        lift: ``(windows) -> y_est``, the lifter's root-relative poses.
        config: the configuration of the run.

    Raises:
        ConfigError: ``noise.white_share`` is no share.
        TrainingError: the lifter's errors are not finite, or all zero.
    """
    settings = config.noise
    if not 0.0 <= settings.white_share <= 1.0:
        raise ConfigError(f"noise.white_share is {settings.white_share:g}, expected 0 to 1")
    moments = ConditionalMoments()
    absolute, square, seen = np.zeros(51), np.zeros(51), 0
    step = 2**40
    # A fifth of the frames is enough for the correlation over time, which all coordinates share.
    samples: list[tuple[NDArray[np.float32], ...]] = []
    while seen < settings.fit_frames:
        windows = sampler.batch(step)
        # The condition uses only the first two numbers of a joint: its image coordinates or its ray.
        seen_2d = windows.pose_2d[..., :2]
        lifted = lift(windows)
        error = lifted - windows.pose_3d
        if seen < settings.fit_frames // 5 or not samples:
            samples.append((seen_2d, lifted, windows.pose_3d))
        moments.update(seen_2d, lifted, error)
        flat = error.reshape(-1, 51).astype(np.float64)
        absolute, square = absolute + np.abs(flat).sum(axis=0), square + np.square(flat).sum(axis=0)
        seen, step = seen + len(flat), step + 1
    scale = np.ones(51)
    if config.diffusion.normalisation == "mean_abs":
        scale = np.full(51, absolute[3:].sum() / (seen * 48))
    elif config.diffusion.normalisation == "per_dimension":
        scale[3:] = np.sqrt(square[3:] / seen)
    if not np.isfinite(scale).all() or not (scale > 0).all():
        raise TrainingError("the lifter's errors are not finite or all zero: is it the right checkpoint?")
    gaussian = moments.finish(conditional=settings.errors != "marginal")
    pose_2d, lifted, truth = (np.concatenate(parts) for parts in zip(*samples, strict=True))
    temporal = TemporalMoments(config.window)
    residual = lifted - truth - gaussian.mean(pose_2d, lifted)
    temporal.update(residual.reshape(*residual.shape[:2], -1), np.sqrt(np.diag(gaussian.covariance)))
    inputs = InputModel.fit(*moments.condition_moments(), pose_2d, lifted)
    correlation = temporal.correlation(settings.time)
    mixed = (1.0 - settings.white_share) * correlation + settings.white_share * np.eye(config.window)
    return FittedNoise(gaussian, scale, mixed, inputs)
