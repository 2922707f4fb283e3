"""What a refiner is trained on: which timesteps, and errors that are drawn, drawn alike for all, or observed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.diffusion import ConditionalGaussian
from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.forward import forward_coefficients
from refiner.diffusion.noise_model import ConditionalMoments
from refiner.errors import TrainingError
from refiner.runtime.stitching import run_windows
from refiner.training.noise_fit import FittedNoise
from refiner.training.tasks import RefinerTask, ValidationWindows, lift_sequences, lift_windows
from refiner.training.windows import WindowSampler

FRAMES = 9


class Recorder(torch.nn.Module):
    """A denoiser that notes what it is given."""

    def forward(self, noisy, pose_2d, timesteps):
        self.seen = noisy.numpy(), timesteps.numpy()
        return torch.zeros_like(noisy, requires_grad=True)


@pytest.fixture
def parts(people, tiny):
    config = tiny("refiner")
    windows = WindowSampler(people, config.data, FRAMES, 40, 3, ("S1", "S2")).batch(0)
    generator = np.random.default_rng(5)
    # A lifter whose error leans on the 2D pose and is noisy beside that.
    error = 0.2 * windows.pose_2d[..., :1] + generator.normal(scale=0.03, size=windows.pose_3d.shape)
    error[..., 0, :] = 0.0
    lifted = (windows.pose_3d + error).astype(np.float32)
    validation = ValidationWindows.of_clips(people.clips("validation"), FRAMES)
    noise = ConditionalGaussian.fit(windows.pose_2d, lifted, lifted - windows.pose_3d)

    lags = np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))
    inputs = InputModel.fit(np.zeros(85), np.eye(85), windows.pose_2d, lifted)
    fitted = FittedNoise(noise, np.ones(51), 0.9**lags, inputs)

    def task(diffusion=None, **changes):
        changed = dataclasses.replace(
            config,
            noise=dataclasses.replace(config.noise, **changes),
            diffusion=dataclasses.replace(config.diffusion, **(diffusion or {})),
        )
        start = np.zeros_like(validation.pose_3d)
        return RefinerTask(changed, Recorder(), lambda _: lifted, fitted, validation, start)

    return windows, lifted, noise, task


def diffused(task, windows):
    """(y_t, e, timesteps) of step 0, from what the denoiser was given."""
    task.loss(windows, 0)
    noisy, timesteps = task.model.seen
    clean_factor, noise_factor = (factor[timesteps][:, None, None, None] for factor in forward_coefficients())
    return noisy, (noisy - clean_factor * windows.pose_3d) / noise_factor, timesteps


def test_observed_errors_are_the_lifters_own(parts):
    windows, lifted, _, task = parts
    _, error, _ = diffused(task(errors="observed", diffusion={"train_on": "inference"}), windows)
    np.testing.assert_allclose(error, lifted - windows.pose_3d, atol=2e-6)


def test_the_loss_is_the_mean_square_of_the_error_that_is_left(parts):
    windows, lifted, _, task = parts
    observed = task(errors="observed")
    expected = np.square((lifted - windows.pose_3d)[..., 1:, :]).mean()
    np.testing.assert_allclose(observed.loss(windows, 0).item(), expected, rtol=1e-5)


def test_conditional_errors_are_the_noise_models_samples(parts):
    windows, lifted, noise, task = parts
    _, error, _ = diffused(task(diffusion={"train_on": "inference"}), windows)
    drawn = noise.sample(windows.pose_2d, lifted, seed=task().config.training.seed)
    np.testing.assert_allclose(error, drawn, atol=2e-6)


def test_from_the_corrected_pose_only_the_rest_is_drawn(parts):
    windows, lifted, noise, task = parts
    _, error, _ = diffused(task(diffusion={"train_on": "inference", "start": "corrected"}), windows)
    drawn = noise.sample(windows.pose_2d, lifted, seed=task().config.training.seed)
    np.testing.assert_allclose(error, drawn - noise.mean(windows.pose_2d, lifted), atol=3e-6)


def test_observed_errors_of_the_corrected_pose(parts):
    windows, lifted, noise, task = parts
    _, error, _ = diffused(task(errors="observed", diffusion={"train_on": "inference", "start": "corrected"}), windows)
    expected = lifted - noise.mean(windows.pose_2d, lifted) - windows.pose_3d
    np.testing.assert_allclose(error, expected, atol=3e-6)


def test_correlated_errors_keep_the_conditional_mean_and_spread(parts):
    windows, lifted, noise, task = parts
    _, error, _ = diffused(task(time="full", diffusion={"train_on": "inference"}), windows)
    left = (error - noise.mean(windows.pose_2d, lifted))[..., 1:, :]
    correlation = np.mean(left[:, 1:] * left[:, :-1]) / np.mean(left**2)
    assert 0.8 < correlation < 0.97
    np.testing.assert_allclose(np.std(left), np.sqrt(np.diag(noise.covariance)[3:].mean()), rtol=0.1)


@pytest.mark.parametrize(("train_on", "steps", "expected"), [("inference", 2, {24, 49}), ("inference", 1, {49})])
def test_only_the_timesteps_that_run_are_trained(parts, train_on, steps, expected):
    windows, _, _, task = parts
    assert set(diffused(task(diffusion={"train_on": train_on, "steps": steps}), windows)[2]) == expected


def test_all_timesteps_are_trained_by_default(parts):
    windows, _, _, task = parts
    assert len(set(diffused(task(), windows)[2])) > 20


def test_the_marginal_gaussian_has_no_gain_and_the_errors_covariance():
    generator = np.random.default_rng(9)
    pose_2d = generator.normal(size=(5000, 17, 2))
    error = generator.normal(scale=0.04, size=(5000, 17, 3)) + 0.1 * pose_2d[..., :1]
    error[:, 0] = 0.0
    moments = ConditionalMoments()
    moments.update(pose_2d, error, error)
    marginal = moments.finish(conditional=False)
    assert not marginal.gain.any()
    np.testing.assert_allclose(marginal.covariance, np.cov(error.reshape(5000, 51).T), atol=1e-12)
    np.testing.assert_allclose(marginal.mean(pose_2d, error), np.broadcast_to(error.mean(axis=0), error.shape))


def test_longer_windows_are_lifted_as_the_runtime_lifts_clips():
    """Overlapping windows of the lifter's own length, blended; each window on its own."""

    class FrameCounter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, pose_2d):
            # The frame's place in its window makes what is blended visible.
            place = torch.arange(pose_2d.shape[1]).reshape(1, -1, 1, 1)
            return place * torch.cat([pose_2d, pose_2d[..., :1]], dim=-1)

    generator = np.random.default_rng(8)
    pose_2d = generator.normal(size=(3, 23, 17, 2)).astype(np.float32)
    lifted = lift_sequences(FrameCounter(), 9, pose_2d)
    for row in range(3):
        alone = run_windows(lambda window: lift_windows(FrameCounter(), window), (pose_2d[row],), 9, 4)
        np.testing.assert_allclose(lifted[row], alone, atol=1e-5)
    with pytest.raises(TrainingError, match="shorter than the lifter's 9"):
        lift_sequences(FrameCounter(), 9, pose_2d[:, :5])
