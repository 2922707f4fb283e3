"""D3DP (Shan et al., ICCV 2023): a diffusion lifter on MixSTE's blocks, in its published layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.diffusion.clean_pose import LIMIT, TIMESTEPS, clean_pose_schedule, draw_noises, sample_clean_pose
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import ConfigError, UsageError
from refiner.models.mirror import Mirror
from refiner.models.mixste import SpatioTemporalBlocks
from refiner.models.pose_denoiser import timestep_embedding


class TimestepEmbedding(nn.Module):
    """`timestep_embedding` as a layer: ``[B]`` -> ``[B, C]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, timesteps: Tensor) -> Tensor:
        return timestep_embedding(timesteps, self.dim)


class CleanPoseDenoiser(SpatioTemporalBlocks):
    """D3DP's network: it predicts the clean 3D pose from a noisy 3D pose, the 2D pose and the timestep.

    Args:
        dim: C, 512 as published.
        sizes: other arguments of `SpatioTemporalBlocks`, whose defaults are the published model.
    """

    channels = 5

    def __init__(self, dim: int = 512, **sizes: Any) -> None:
        super().__init__(dim, **sizes)
        self.time_mlp = nn.Sequential(
            TimestepEmbedding(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def project_time(self, timesteps: Tensor) -> Tensor:  # [B] -> [B, C]
        projected: Tensor = self.time_mlp(timesteps)
        return projected

    def condition(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The extra inputs of `denoise`, one row per window. D3DP has none; FinePOSE's depend on the actions.

        Raises:
            UsageError: the caller passes an input that the model cannot use.
        """
        if inputs:
            raise UsageError("this diffusion lifter has no prompts: it cannot be told the action")
        return ()

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """Predict the clean poses.

        The H noisy poses of a window share its 2D pose, its time and its condition.

        Args:
            noisy_pose_3d: ``[N, H, T, J, 3]`` metres.
            pose_2d: image coordinates, ``[N, T, J, 2]``.
            time: time embedding, ``[N, C]`` or ``[1, C]``.
            condition: as returned by `condition`.

        Returns:
            The clean poses, ``[N, H, T, J, 3]`` metres.
        """
        pose = self.regress(self.embed_poses(noisy_pose_3d, pose_2d, time))
        return pose.reshape(noisy_pose_3d.shape)

    def embed_poses(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor) -> Tensor:
        """Embed the arguments of `denoise` as tokens, ``[N H, T, J, C]``."""
        hypotheses = noisy_pose_3d.shape[1]
        joined = torch.cat([pose_2d[:, None].expand(-1, hypotheses, -1, -1, -1), noisy_pose_3d], dim=-1)
        tokens = self.embed(joined.flatten(0, 1)).unflatten(0, (-1, hypotheses))  # type: ignore[no-untyped-call]
        timed: Tensor = (tokens + time[:, None, None, None]).flatten(0, 1)
        return timed


class D3DP(nn.Module):
    """The diffusion lifter: its denoiser, the forward process for training, and the sampler.

    Args:
        pose_estimator: the denoiser.
        timesteps: length of the cosine schedule, 1000 as published.
        offset: offset of the cosine schedule, 0.008 as published.
        limit: noisy and predicted poses are clipped to this absolute value per coordinate, in metres; 1.1 as
            published.
    """

    signal: Tensor
    noise: Tensor

    def __init__(
        self,
        pose_estimator: CleanPoseDenoiser,
        timesteps: int = TIMESTEPS,
        offset: float = 0.008,
        limit: float = LIMIT,
    ) -> None:
        super().__init__()
        self.pose_estimator, self.limit = pose_estimator, limit
        self.alphas_cumprod = cosine_schedule(timesteps, offset)
        for name, value in (("signal", self.alphas_cumprod), ("noise", 1.0 - self.alphas_cumprod)):
            self.register_buffer(name, torch.from_numpy(np.sqrt(value)).float(), persistent=False)

    @property
    def frames(self) -> int:
        """T, the length of the windows."""
        return self.pose_estimator.frames

    @property
    def timesteps(self) -> int:
        """Length of the schedule."""
        return len(self.alphas_cumprod)

    def forward(self, noisy_pose_3d: Tensor, pose_2d: Tensor, timesteps: Tensor, *inputs: Tensor) -> Tensor:
        """Predict the clean pose once.

        Args:
            noisy_pose_3d: ``[B, T, J, 3]`` metres.
            pose_2d: image coordinates, ``[B, T, J, 2]``.
            timesteps: ``[B]``.
            inputs: the arguments of the denoiser's `condition`, one row per window.

        Returns:
            The clean pose, ``[B, T, J, 3]`` metres.
        """
        time = self.pose_estimator.project_time(timesteps)
        condition = self.pose_estimator.condition(*inputs)
        return self.pose_estimator.denoise(noisy_pose_3d[:, None], pose_2d, time, *condition)[:, 0]

    def diffuse(self, pose_3d: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The forward process: diffuse clean poses to the given timesteps and clip them to the limit.

        Args:
            pose_3d: clean poses, ``[B, T, J, 3]`` metres.
            timesteps: one for each window, ``[B]``.
            noise: standard normal, of the shape of ``pose_3d``.

        Returns:
            The noisy poses, ``[B, T, J, 3]`` metres.
        """
        signal, spread = (values[timesteps][:, None, None, None] for values in (self.signal, self.noise))
        return (signal * pose_3d + spread * noise).clip(-self.limit, self.limit)

    def sample(self, pose_2d: Tensor, noises: Tensor, *inputs: Tensor, eta: float = 1.0, flip: bool = True) -> Tensor:
        """Sample one batch with a new `HypothesisSampler`; K is the length of ``noises``.

        Args:
            pose_2d: image coordinates, ``[B, T, J, 2]``.
            noises: standard normal, ``[K, B or 1, H, T, J, 3]``.
            inputs: the arguments of the denoiser's `condition`.
            eta: see `HypothesisSampler`.
            flip: see `HypothesisSampler`.

        Returns:
            The hypotheses, ``[B, H, T, J, 3]`` metres.
        """
        sampler = HypothesisSampler(self, len(noises), eta, flip)
        poses: Tensor = sampler(pose_2d, noises, *self.pose_estimator.condition(*inputs))
        return poses


class HypothesisSampler(nn.Module):
    """K sampling steps of a `D3DP` from noise, for all hypotheses of a batch at once.

    The time embeddings of the steps are constants of the module.

    Args:
        model: the diffusion lifter.
        steps: K.
        eta: share of the noise that is drawn anew in every step; 1 as published.
        flip: average every prediction with the prediction for the mirrored poses, at twice the cost; as published.

    Raises:
        ConfigError: K is below 1 or above the length of the schedule.
    """

    def __init__(self, model: D3DP, steps: int, eta: float = 1.0, flip: bool = True) -> None:
        super().__init__()
        self.model, self.flip = model, flip
        self.schedule = clean_pose_schedule(steps, model.alphas_cumprod, eta)
        self.mirror = Mirror().to(model.signal.device)
        with torch.no_grad():
            for step in self.schedule:
                time = torch.tensor([step.time], device=model.signal.device)
                embedded = model.pose_estimator.project_time(time).detach().clone()
                self.register_buffer(f"time_{step.time}", embedded, persistent=False)

    def forward(self, pose_2d: Tensor, noises: Tensor, *condition: Tensor) -> Tensor:
        """Sample all hypotheses.

        Args:
            pose_2d: image coordinates, ``[B, T, J, 2]``.
            noises: standard normal, ``[K, B or 1, H, T, J, 3]``.
            condition: the result of the denoiser's `condition`, tensors of B rows.

        Returns:
            The hypotheses, ``[B, H, T, J, 3]`` metres.
        """
        inputs_2d, rows = pose_2d, condition
        if self.flip:
            inputs_2d = torch.cat([inputs_2d, self.mirror(inputs_2d)])
            rows = tuple(torch.cat([value, value]) for value in condition)

        def predict(noisy: Tensor, time: int) -> Tensor:
            embedded = getattr(self, f"time_{time}")
            if not self.flip:
                return self.model.pose_estimator.denoise(noisy, inputs_2d, embedded, *rows)
            both = torch.cat([noisy, self.mirror(noisy)])
            clean = self.model.pose_estimator.denoise(both, inputs_2d, embedded, *rows)
            # Slices instead of chunks: a tracer takes the length of a chunk for a constant.
            straight, mirrored = clean[: noisy.shape[0]], clean[noisy.shape[0] :]
            mean: Tensor = 0.5 * (straight + self.mirror(mirrored))
            return mean

        # Not len(), which would fix the batch in a traced graph.
        drawn = list(noises.expand(-1, pose_2d.shape[0], -1, -1, -1, -1))
        pose: Tensor = sample_clean_pose(predict, drawn, self.schedule, self.model.limit)
        return pose


class SampledLifter(nn.Module):
    """A diffusion lifter with the interface of a lifter: the mean of H hypotheses (P-Agg) from fixed noise.

    The noise is part of the module. It follows from ``seed`` and is the same for every window, so that a window gives
    the same pose in any batch and in any engine.

    Args:
        model: the trained diffusion lifter.
        steps: K.
        hypotheses: H.
        eta: see `HypothesisSampler`.
        flip: see `HypothesisSampler`.
        seed: seed of the noise.

    Raises:
        ConfigError: K or H is below 1, or K is above the length of the schedule.
    """

    noises: Tensor

    def __init__(
        self, model: D3DP, steps: int, hypotheses: int, eta: float = 1.0, flip: bool = True, seed: int = 0
    ) -> None:
        super().__init__()
        if hypotheses < 1:
            raise ConfigError(f"at least one hypothesis is needed, got {hypotheses}")
        self.sampler = HypothesisSampler(model, steps, eta, flip)
        drawn = torch.from_numpy(draw_noises(steps, hypotheses, model.frames, seed=seed))
        self.register_buffer("noises", drawn[:, None].to(model.signal.device), persistent=False)

    @property
    def poses_per_window(self) -> int:
        """How many poses the network processes for each window; this determines the cost of a batch."""
        return self.noises.shape[2] * (2 if self.sampler.flip else 1)

    @property
    def frames(self) -> int:
        """T, the only window length that the lifter takes."""
        return self.sampler.model.frames

    def hypotheses(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, H, T, J, 3]
        poses: Tensor = self.sampler(pose_2d, self.noises, *condition)
        return poses

    def forward(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, T, J, 3]
        return self.hypotheses(pose_2d, *condition).mean(dim=1)
