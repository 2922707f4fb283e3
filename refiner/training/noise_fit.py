"""Measure a lifter's errors before its refiner is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.noise_model import ConditionalGaussian, ConditionalMoments
from refiner.diffusion.temporal import TemporalMoments
from refiner.errors import ConfigError, TrainingError
from refiner.training.config import Config
from refiner.training.processes import current
from refiner.training.windows import Lift, Sampler, Windows

# The number of the first batch that is fitted on. It differs from the numbers of all training steps.
FIRST = 2**40


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

    The batches are numbered from `FIRST`, so that they differ from those of the training steps. Several processes share
    them, and all get the same result. Depending on ``diffusion.normalisation`` the scale is 1, the mean |e| over all
    coordinates but the root's, or the root mean square of each coordinate.

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
    sums = _measured(sampler, lift, settings.fit_frames)
    scale = np.ones(51)
    if config.diffusion.normalisation == "mean_abs":
        scale = np.full(51, sums.absolute[3:].sum() / (sums.moments.frames * 48))
    elif config.diffusion.normalisation == "per_dimension":
        scale[3:] = np.sqrt(sums.square[3:] / sums.moments.frames)
    if not np.isfinite(scale).all() or not (scale > 0).all():
        raise TrainingError("the lifter's errors are not finite or all zero: is it the right checkpoint?")
    gaussian = sums.moments.finish(conditional=settings.errors != "marginal")
    pose_2d, lifted, truth = sums.sampled()
    temporal = TemporalMoments(config.window)
    residual = lifted - truth - gaussian.mean(pose_2d, lifted)
    temporal.update(residual.reshape(*residual.shape[:2], -1), np.sqrt(np.diag(gaussian.covariance)))
    inputs = InputModel.fit(*sums.moments.condition_moments(), pose_2d, lifted)
    correlation = temporal.correlation(settings.time)
    mixed = (1.0 - settings.white_share) * correlation + settings.white_share * np.eye(config.window)
    return FittedNoise(gaussian, scale, mixed, inputs)


@dataclass
class _Sums:
    """What the fit needs of the batches.

    Attributes:
        moments: the moments of the conditions and errors.
        absolute: the sum of the absolute errors over the frames, ``(51,)``.
        square: the sum of the squared errors, ``(51,)``.
        samples: 2D poses, lifted and true poses of some batches, by the number of the batch.
    """

    moments: ConditionalMoments = field(default_factory=ConditionalMoments)
    absolute: NDArray[np.float64] = field(default_factory=lambda: np.zeros(51))
    square: NDArray[np.float64] = field(default_factory=lambda: np.zeros(51))
    samples: dict[int, tuple[NDArray[np.float32], ...]] = field(default_factory=dict)

    def update(self, pose_2d: NDArray[np.float32], lifted: NDArray[np.float32], error: NDArray[np.float32]) -> None:
        """Add the windows of a batch."""
        self.moments.update(pose_2d, lifted, error)
        flat = error.reshape(-1, 51).astype(np.float64)
        self.absolute, self.square = self.absolute + np.abs(flat).sum(axis=0), self.square + np.square(flat).sum(axis=0)

    def sampled(self) -> tuple[NDArray[np.float32], ...]:
        """The 2D poses, lifted and true poses of all samples, in the order of the batches."""
        in_order = [self.samples[number] for number in sorted(self.samples)]
        return tuple(np.concatenate(parts) for parts in zip(*in_order, strict=True))

    @classmethod
    def merged(cls, shares: Sequence[_Sums]) -> _Sums:
        """The sums of several processes together."""
        return cls(
            ConditionalMoments.merged([share.moments for share in shares]),
            np.sum([share.absolute for share in shares], axis=0),
            np.sum([share.square for share in shares], axis=0),
            {number: sample for share in shares for number, sample in share.samples.items()},
        )


def _measured(sampler: Sampler, lift: Lift, fit_frames: int) -> _Sums:
    """Lift the batches that ``fit_frames`` frames need. Each process lifts its share of them."""
    processes, sums = current(), _Sums()
    for number, before, windows in _batches(sampler, fit_frames):
        # The condition uses only the first two numbers of a joint: its image coordinates or its ray.
        seen_2d = windows.pose_2d[..., :2]
        lifted = lift(windows)
        # A fifth of the frames is enough for the correlation over time, which all coordinates share.
        if before < fit_frames // 5 or before == 0:
            sums.samples[number] = (seen_2d, lifted, windows.pose_3d)
        sums.update(seen_2d, lifted, lifted - windows.pose_3d)
    return sums if processes.size == 1 else _Sums.merged(processes.gathered(sums))


def _batches(sampler: Sampler, fit_frames: int) -> Iterator[tuple[int, int, Windows]]:
    """The batches of this process: their numbers, the frames of all batches before them, and their windows."""
    frames = 0  # of a batch; each has as many, and the first one that is drawn says how many
    for number in filter(current().takes, itertools.count(FIRST)):
        if (number - FIRST) * frames >= fit_frames:
            return
        windows: Windows = sampler.batch(number)
        frames = windows.pose_3d.shape[0] * windows.pose_3d.shape[1]
        before = (number - FIRST) * frames
        if before >= fit_frames:
            return
        yield number, before, windows
