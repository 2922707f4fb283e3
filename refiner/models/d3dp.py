"""D3DP (Shan et al., ICCV 2023): a lifter that denoises 3D poses, on MixSTE's blocks, in its published layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.diffusion.clean_pose import LIMIT, TIMESTEPS, clean_pose_schedule, draw_noises, sample_clean_pose
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import ConfigError
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
    """D3DP's network: a noisy 3D pose, the 2D pose and the timestep -> the clean 3D pose.

    Arguments as for `SpatioTemporalBlocks`, whose defaults are the published model.
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

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """``[N, T, J, 3]`` metres, ``[N, T, J, 2]`` normalised, ``[N or 1, C]`` -> ``[N, T, J, 3]``; no condition."""
        return self.regress(self.embed(torch.cat([pose_2d, noisy_pose_3d], dim=-1)) + time[:, None, None])


class D3DP(nn.Module):
    """The diffusion lifter: its denoiser, the forward process that trains it, and the sampler.

    Args:
        pose_estimator: the denoiser.
        timesteps, offset: of the cosine schedule, 1000 and 0.008 as published.
        limit: poses are kept within this distance, in metres and per coordinate; 1.1 as published.
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
        """T of the windows."""
        return self.pose_estimator.frames

    @property
    def timesteps(self) -> int:
        """Length of the schedule."""
        return len(self.alphas_cumprod)

    def forward(self, noisy_pose_3d: Tensor, pose_2d: Tensor, timesteps: Tensor, *condition: Tensor) -> Tensor:
        """One prediction of the clean pose: ``[B, T, J, 3]``, ``[B, T, J, 2]`` normalised, ``[B]`` -> ``[B, T, J, 3]``.

        ``condition``: tensors with one row a window, which the denoiser takes (FinePOSE's text).
        """
        time = self.pose_estimator.project_time(timesteps)
        return self.pose_estimator.denoise(noisy_pose_3d, pose_2d, time, *condition)

    def diffuse(self, pose_3d: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The forward process, within the limit: clean ``[B, T, J, 3]``, ``[B]``, noise -> noisy ``[B, T, J, 3]``."""
        signal, spread = (values[timesteps][:, None, None, None] for values in (self.signal, self.noise))
        return (signal * pose_3d + spread * noise).clip(-self.limit, self.limit)

    def sample(
        self, pose_2d: Tensor, noises: Tensor, *condition: Tensor, eta: float = 1.0, flip: bool = True
    ) -> Tensor:
        """`HypothesisSampler` for one batch: ``[B, T, J, 2]``, ``[K, B or 1, H, T, J, 3]`` -> ``[B, H, T, J, 3]``."""
        poses: Tensor = HypothesisSampler(self, len(noises), eta, flip)(pose_2d, noises, *condition)
        return poses


class HypothesisSampler(nn.Module):
    """K steps of a `D3DP` from noise, all hypotheses of a batch at once; its time embeddings are constants.

    Args:
        model: the diffusion lifter.
        steps: K. Raises ConfigError outside of 1 to the schedule's length.
        eta: share of the noise that is drawn anew in every step; 1 as published.
        flip: average every prediction with that of the mirrored poses, at twice the cost; as published.
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
        """``[B, T, J, 2]`` normalised, ``[K, B or 1, H, T, J, 3]`` standard normal -> ``[B, H, T, J, 3]`` metres.

        ``condition``: tensors of B rows, which the denoiser takes.
        """
        batch, hypotheses = len(pose_2d), noises.shape[2]
        screen, *rows = (_for_each(given, hypotheses) for given in (pose_2d, *condition))
        drawn = noises.expand(-1, batch, -1, -1, -1, -1).flatten(1, 2)
        if self.flip:
            screen = torch.cat([screen, self.mirror(screen)])
            rows = [torch.cat([given, given]) for given in rows]

        def predict(noisy: Tensor, time: int) -> Tensor:
            embedded = getattr(self, f"time_{time}")
            if not self.flip:
                return self.model.pose_estimator.denoise(noisy, screen, embedded, *rows)
            both = torch.cat([noisy, self.mirror(noisy)])
            straight, turned = self.model.pose_estimator.denoise(both, screen, embedded, *rows).chunk(2)
            mean: Tensor = 0.5 * (straight + self.mirror(turned))
            return mean

        pose: Tensor = sample_clean_pose(predict, list(drawn), self.schedule, self.model.limit)
        return pose.reshape(batch, hypotheses, *pose.shape[1:])


def _for_each(given: Tensor, hypotheses: int) -> Tensor:
    """``[B, ...]`` -> ``[B H, ...]``: every row once for each hypothesis, a window's side by side."""
    return given[:, None].expand(-1, hypotheses, *given.shape[1:]).flatten(0, 1)


class SampledLifter(nn.Module):
    """A diffusion lifter as a lifter: the mean of H hypotheses (P-Agg) from noise that is part of the model.

    The noise follows from ``seed`` and is the same for every window, so that a window gives the same pose in any batch
    and in any engine.

    Args:
        model: the trained diffusion lifter.
        steps, hypotheses: K and H. Raises ConfigError for fewer than one of either.
        eta, flip: see `HypothesisSampler`.
        seed: of the noise.
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

    def hypotheses(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, H, T, J, 3]
        poses: Tensor = self.sampler(pose_2d, self.noises, *condition)
        return poses

    def forward(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, T, J, 3]
        return self.hypotheses(pose_2d, *condition).mean(dim=1)
