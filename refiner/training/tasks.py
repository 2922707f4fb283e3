"""Training tasks: the loss of a batch and the validation error, for a lifter and for a refiner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refiner import native
from refiner.camera import normalise_screen
from refiner.data.clips import CameraClip
from refiner.data.windows import (
    merge_windows,
    score_mask,
    split_windows,
    tds_phases,
    window_indices,
    window_starts,
)
from refiner.diffusion.ddim import ddim_refine, ddim_timesteps
from refiner.diffusion.forward import forward_coefficients
from refiner.diffusion.noise_model import condition_vectors
from refiner.diffusion.schedule import cosine_schedule
from refiner.diffusion.temporal import correlate_in_time, temporal_factor
from refiner.errors import TrainingError
from refiner.models import PoseDenoiser
from refiner.models.unrolled import root_at_zero, scale_without_root
from refiner.training.config import Config, DiffusionConfig
from refiner.training.losses import lifter_loss
from refiner.training.noise_fit import FittedNoise
from refiner.training.windows import Lift, Windows

MILLIMETRES = 1000.0
# Poses of `ValidationWindows`, one array with a row for each window, or of `ValidationClips`, one array for each clip.
Poses = NDArray[np.float32] | list[NDArray[np.float32]]
# The 2D poses (image coordinates or ray features) and the true poses of a clip.
ClipPair = tuple[NDArray[np.float32], NDArray[np.float32]]


class Task(Protocol):
    """One kind of training, as the training loop sees it."""

    @property
    def model(self) -> nn.Module: ...

    def loss(self, windows: Any, step: int) -> Tensor:
        """The loss of a batch of the run's sampler, such as `Windows` or `refiner.training.scenes.SceneBatch`."""
        ...

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of ``model`` on the validation data; ``mpjpe_mm`` chooses the best checkpoint."""
        ...

    def extra_tensors(self) -> dict[str, Tensor]:
        """Tensors that the checkpoint stores beside the weights."""
        ...


class ValidationWindows:
    """The clips of the validation person as windows; every frame is scored once.

    Args:
        pairs: for each clip the 2D poses ``(F, 17, 2)`` in image coordinates (or ray features ``(F, 17, 6)``) and the
            true poses ``(F, 17, 3)`` in metres, root at 0.
        frames: T.
        actions: the action of each clip, if the data names it.
    """

    def __init__(
        self,
        pairs: Iterable[ClipPair],
        frames: int,
        actions: Sequence[str] | None = None,
    ) -> None:
        pose_2d, pose_3d, scored = [], [], []
        for screen, truth in pairs:
            pose_2d.append(split_windows(screen, frames))
            pose_3d.append(split_windows(truth, frames))
            scored.append(score_mask(window_starts(len(truth), frames), frames, len(truth)))
        self.pose_2d: NDArray[np.float32] = np.concatenate(pose_2d).astype(np.float32)
        self.pose_3d: NDArray[np.float32] = np.concatenate(pose_3d).astype(np.float32)
        self.scored: NDArray[np.bool_] = np.concatenate(scored)
        # One name per window.
        self.actions = None if actions is None else np.repeat(np.array(actions), [len(part) for part in pose_2d])

    @classmethod
    def of_clips(cls, clips: Iterable[CameraClip], frames: int, stride: int = 1) -> ValidationWindows:
        """Cut the camera clips of an archive into windows of every ``stride``-th frame."""
        pairs, actions = [], []
        for clip in clips:
            phases = phases_of(frames, stride, *poses_of_clip(clip))
            pairs += phases
            actions += [clip.action] * len(phases)
        return cls(pairs, frames, actions)

    def each(self, function: Callable[..., NDArray[np.float32]], *values: Poses) -> Poses:
        """Apply ``function`` to arrays with one row per window, such as `pose_2d`, in one call."""
        return function(*values)

    def mpjpe_mm(self, predicted: Poses) -> float:
        """MPJPE in millimetres with the root at 0; every frame counts alike."""
        assert isinstance(predicted, np.ndarray)
        return float(_frame_errors(predicted, self.pose_3d)[self.scored].mean() * MILLIMETRES)


class ValidationClips:
    """The clips of the validation person as whole sequences, on which a causal refiner runs as on a stream.

    Args:
        pairs: as for `ValidationWindows`. Each clip becomes a batch of one: ``(1, F, 17, 2)`` and ``(1, F, 17, 3)``.
    """

    def __init__(self, pairs: Iterable[ClipPair]) -> None:
        batches = [(screen[None].astype(np.float32), truth[None].astype(np.float32)) for screen, truth in pairs]
        self.pose_2d = [screen for screen, _ in batches]
        self.pose_3d = [truth for _, truth in batches]

    def each(self, function: Callable[..., NDArray[np.float32]], *values: Poses) -> Poses:
        """Apply ``function`` clip by clip to lists with one array per clip; one result per clip."""
        return [function(*parts) for parts in zip(*values, strict=True)]

    def mpjpe_mm(self, predicted: Poses) -> float:
        """MPJPE in millimetres with the root at 0; every frame counts alike."""
        errors = [_frame_errors(*pair)[0] for pair in zip(predicted, self.pose_3d, strict=True)]
        return float(np.concatenate(errors).mean() * MILLIMETRES)


def poses_of_clip(clip: CameraClip) -> ClipPair:
    """The 2D poses of a camera clip of an archive in image coordinates, and its true poses with the root at 0."""
    return normalise_screen(clip.pose_2d, clip.image_size), clip.pose_3d


def phases_of(frames: int, stride: int, pose_2d: NDArray[np.float32], pose_3d: NDArray[np.float32]) -> list[ClipPair]:
    """Split a clip into its interleaved phases (temporal downsampling); one phase if the stride is 1.

    A clip that is shorter than a window of the stride gets the largest stride that fits, as in the runtime.

    Args:
        frames: T.
        stride: the frames of the clip from one frame of a window to the next.
        pose_2d: ``(F, 17, 2 or 6)``.
        pose_3d: ``(F, 17, 3)``.
    """
    taken = max(1, min(stride, (len(pose_3d) - 1) // max(frames - 1, 1)))
    return [(pose_2d[phase], pose_3d[phase]) for phase in tds_phases(len(pose_3d), taken)]


def _frame_errors(predicted: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance over the joints of each frame, in metres, with the predicted root moved to 0."""
    error: NDArray[np.float32] = np.linalg.norm((predicted - predicted[..., :1, :]) - truth, axis=-1).mean(axis=-1)
    return error


@torch.no_grad()
def lift_windows(
    model: nn.Module,
    pose_2d: NDArray[np.float32],
    batch: int = 64,
    actions: NDArray[np.int64] | None = None,
    root: str = "subtracted",
) -> NDArray[np.float32]:
    """Run a lifter over windows of its own length.

    Args:
        model: the lifter.
        pose_2d: image coordinates, ``(N, T, 17, 2)``.
        batch: windows of a batch; fewer for a diffusion lifter, which processes many poses for each window.
        actions: action numbers ``(N,)``, for a lifter that takes them.
        root: see `root_at_zero`.

    Returns:
        The poses ``(N, T, 17, 3)``, root at 0.
    """
    device = next(model.parameters()).device
    # A diffusion lifter processes many poses for each window.
    batch = max(1, batch // getattr(model, "poses_per_window", 1))
    lifted = []
    for start in range(0, len(pose_2d), batch):
        rows = slice(start, start + batch)
        inputs = () if actions is None else (torch.from_numpy(actions[rows]).to(device),)
        pose = model(torch.from_numpy(pose_2d[rows]).to(device), *inputs)
        lifted.append(root_at_zero(pose, root).float().cpu().numpy())
    return np.concatenate(lifted) if lifted else np.zeros((*pose_2d.shape[:-1], 3), np.float32)


def lift_sequences(
    model: nn.Module, frames: int, pose_2d: NDArray[np.float32], root: str = "subtracted"
) -> NDArray[np.float32]:
    """Run a lifter over sequences that may be longer than its windows, as the runtime lifts clips.

    Longer sequences are cut into windows that overlap by half, and the results are blended.

    Args:
        model: the lifter.
        frames: the length of its windows.
        pose_2d: image coordinates, ``(N, T, 17, 2)``.
        root: see `root_at_zero`.

    Returns:
        The poses ``(N, T, 17, 3)``, root at 0.

    Raises:
        TrainingError: T is less than ``frames``.
    """
    if pose_2d.shape[1] == frames:
        return lift_windows(model, pose_2d, root=root)
    if pose_2d.shape[1] < frames:
        raise TrainingError(f"windows of {pose_2d.shape[1]} frames are shorter than the lifter's {frames}")
    starts = window_starts(pose_2d.shape[1], frames, max(1, frames // 2))
    # [N, windows, frames, ...] -> the lifter -> [windows, frames, N, ...], which the merge treats as one sequence.
    cut = pose_2d[:, window_indices(starts, frames, pose_2d.shape[1])]
    lifted = lift_windows(model, cut.reshape(-1, *cut.shape[2:]), root=root).reshape(*cut.shape[:-1], 3)
    merged: NDArray[np.float32] = merge_windows(np.moveaxis(lifted, 0, 2), starts, pose_2d.shape[1])
    return np.ascontiguousarray(np.moveaxis(merged, 1, 0))


class LifterTask:
    """Trains a lifter with the loss of `refiner.training.losses`: by default the root-relative MPJPE, as STCFormer."""

    def __init__(self, config: Config, model: nn.Module, validation: ValidationWindows) -> None:
        self.config, self.model, self.validation = config, model, validation
        self.device = torch.device(config.training.device)

    def loss(self, windows: Windows, step: int) -> Tensor:
        pose = self.model(torch.from_numpy(windows.pose_2d).to(self.device)).float()
        target = torch.from_numpy(windows.pose_3d).to(self.device)
        return lifter_loss(pose, target, self.config.loss, self.config.model.root)

    def validate(self, model: nn.Module) -> dict[str, float]:
        lifted = lift_windows(model, self.validation.pose_2d, root=self.config.model.root)
        return {"mpjpe_mm": self.validation.mpjpe_mm(lifted)}

    def extra_tensors(self) -> dict[str, Tensor]:
        return {}


class RefinerTask:
    """Trains a refiner with eq. 7: the mean squared difference of the drawn and the predicted error, both normalised.

    Args:
        config: the configuration of the run.
        model: the denoiser.
        lift: ``(windows) -> y_est``, the lifter's root-relative poses, cross-fitted or not.
        fitted: the conditional Gaussian, the error scale and the correlation over time.
        validation: windows, or whole clips for a causal refiner.
        validation_lifted: the lifter's poses for ``validation``.
    """

    def __init__(
        self,
        config: Config,
        model: PoseDenoiser,
        lift: Lift,
        fitted: FittedNoise,
        validation: ValidationWindows | ValidationClips,
        validation_lifted: Poses,
    ) -> None:
        self.config, self.model, self.lift, self.fitted = config, model, lift, fitted
        self.noise = noise = fitted.gaussian
        corrected = config.diffusion.start == "corrected"
        self.drawn = noise.centred() if corrected else noise
        self.validation = validation
        self.device = torch.device(config.training.device)
        self.error_scale = torch.tensor(fitted.error_scale, dtype=torch.float32)
        self._scale = self.error_scale.reshape(17, 3).to(self.device)
        diffusion = config.diffusion
        self._clean_factor, self._noise_factor = forward_coefficients(
            diffusion.timesteps, diffusion.terminal, diffusion.offset
        )
        self._train_on = np.arange(diffusion.timesteps)
        if diffusion.train_on == "inference":
            self._train_on = np.array(ddim_timesteps(diffusion.steps, diffusion.timesteps)[:-1])
        self._temporal_factor = temporal_factor(fitted.time_correlation)
        self._kernel: dict[str, Any] = dict(self.drawn.kernel_arguments())
        linear = validation.each(
            lambda seen, lifted: (lifted - noise.mean(seen[..., :2], lifted)).astype(np.float32),
            validation.pose_2d,
            validation_lifted,
        )
        self._validation_start = linear if corrected else validation_lifted
        self._baselines = {
            "lifter_mpjpe_mm": validation.mpjpe_mm(validation_lifted),
            "linear_mpjpe_mm": validation.mpjpe_mm(linear),
        }

    def loss(self, windows: Windows, step: int) -> Tensor:
        batch, frames = windows.pose_3d.shape[:2]
        generator = np.random.default_rng([self.config.training.seed, step, 1])
        timesteps = self._train_on[generator.integers(0, len(self._train_on), batch)]
        noisy, error = self._diffuse(windows, timesteps, first_frame=step * batch * frames)
        shape = windows.pose_3d.shape
        predicted = self.model(
            torch.from_numpy(noisy.reshape(shape)).to(self.device),
            torch.from_numpy(windows.pose_2d).to(self.device),
            torch.from_numpy(timesteps).to(self.device),
        ).float()
        target = torch.from_numpy(error.reshape(shape)).to(self.device) / self._scale
        # The root's error is 0 by definition, so the loss leaves it out.
        difference = (predicted - target)[..., 1:, :]
        if self.config.diffusion.loss == "distance":
            distance: Tensor = torch.linalg.vector_norm(difference, dim=-1).mean()
            return distance
        squared: Tensor = difference.square().mean()
        return squared

    def _diffuse(
        self, windows: Windows, timesteps: NDArray[np.int64], first_frame: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Eq. 8: the noisy poses y_t and the errors e, each ``(batch * frames, 51)``.

        Each frame uses one number of the counter-based generator, from ``first_frame`` on. So its noise does not depend
        on the size of the batch.
        """
        batch, frames = windows.pose_3d.shape[:2]
        lifted = self.lift(windows)
        clean = windows.pose_3d.reshape(batch * frames, -1)
        clean_factor = np.repeat(self._clean_factor[timesteps], frames).astype(np.float32)
        noise_factor = np.repeat(self._noise_factor[timesteps], frames).astype(np.float32)
        noise, seed = self.config.noise, self.config.training.seed
        # The condition uses only the first two numbers of a joint: its image coordinates or its ray.
        seen_2d = windows.pose_2d[..., :2]
        condition = condition_vectors(seen_2d, lifted, np.float32)
        if noise.errors != "observed" and noise.time == "white":
            diffused: tuple[NDArray[np.float32], NDArray[np.float32]] = native.diffuse(
                condition, clean, clean_factor, noise_factor, **self._kernel, seed=seed, first_frame=first_frame
            )
            return diffused
        if noise.errors == "observed":
            # For the corrected start `drawn` is centred, so the mean of the noise model is subtracted here.
            expected = self.noise.mean(seen_2d, lifted) - self.drawn.mean(seen_2d, lifted)
            error = (lifted - expected).astype(np.float32).reshape(clean.shape) - clean
        else:
            white = native.sample_conditional(condition, **self._kernel, seed=seed, first_frame=first_frame)
            mean = self.drawn.mean(seen_2d, lifted).reshape(white.shape).astype(np.float32)
            error = mean + correlate_in_time(white - mean, self._temporal_factor)
        return clean_factor[:, None] * clean + noise_factor[:, None] * error, error

    def validate(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PoseDenoiser)
        refine = partial(refine_windows, model, self._scale, self.config.diffusion)
        refined = self.validation.each(refine, self.validation.pose_2d, self._validation_start)
        return {"mpjpe_mm": self.validation.mpjpe_mm(refined), **self._baselines}

    def extra_tensors(self) -> dict[str, Tensor]:
        return self.fitted.to_tensors()


@torch.no_grad()
def refine_windows(
    model: PoseDenoiser,
    error_scale: Tensor,
    diffusion: DiffusionConfig,
    pose_2d: NDArray[np.float32],
    start: NDArray[np.float32],
    batch: int = 64,
) -> NDArray[np.float32]:
    """Run the K DDIM steps on validation windows.

    Args:
        model: the denoiser.
        error_scale: metres per unit of its output, ``(17, 3)``.
        diffusion: names K, the timesteps and the schedule.
        pose_2d: image coordinates or ray features, ``(N, T, 17, 2 or 6)``.
        start: root-relative poses, ``(N, T, 17, 3)`` metres.
        batch: windows of a batch.

    Returns:
        The refined poses, ``(N, T, 17, 3)`` metres.
    """
    device, scale = error_scale.device, scale_without_root(error_scale)
    alphas = cosine_schedule(diffusion.timesteps, diffusion.offset)
    refined = []
    for first in range(0, len(pose_2d), batch):
        inputs_2d = torch.from_numpy(pose_2d[first : first + batch]).to(device)

        def predict_error(noisy: Tensor, time: int, inputs_2d: Tensor = inputs_2d) -> Tensor:
            predicted: Tensor = model(noisy, inputs_2d, torch.full((len(noisy),), time, device=device)) * scale
            return predicted

        noisy = torch.from_numpy(start[first : first + batch]).to(device)
        refined.append(ddim_refine(predict_error, noisy, diffusion.steps, alphas, diffusion.terminal).cpu().numpy())
    return np.concatenate(refined)
