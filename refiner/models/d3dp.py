"""D3DP (Shan et al., ICCV 2023): a lifter that denoises 3D poses, on MixSTE's blocks, in its published layout."""

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

    def condition(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What `denoise` takes beside the poses, one row a window: nothing here, of actions in FinePOSE.

        Raises UsageError where something is given that it has no use for.
        """
        if given:
            raise UsageError("this diffusion lifter has no prompts: it cannot be told the action")
        return ()

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor, *condition: Tensor) -> Tensor:
        """``[N, H, T, J, 3]`` metres, ``[N, T, J, 2]`` normalised, ``[N or 1, C]`` -> ``[N, H, T, J, 3]``.

        The H noisy poses of a window share its 2D pose, its time and its condition.
        """
        pose = self.regress(self.embed_poses(noisy_pose_3d, pose_2d, time))
        return pose.reshape(noisy_pose_3d.shape)

    def embed_poses(self, noisy_pose_3d: Tensor, pose_2d: Tensor, time: Tensor) -> Tensor:
        """The arguments of `denoise` -> tokens ``[N H, T, J, C]``."""
        hypotheses = noisy_pose_3d.shape[1]
        joined = torch.cat([pose_2d[:, None].expand(-1, hypotheses, -1, -1, -1), noisy_pose_3d], dim=-1)
        tokens = self.embed(joined.flatten(0, 1)).unflatten(0, (-1, hypotheses))  # type: ignore[no-untyped-call]
        timed: Tensor = (tokens + time[:, None, None, None]).flatten(0, 1)
        return timed


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

    def forward(self, noisy_pose_3d: Tensor, pose_2d: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
        """One prediction of the clean pose: ``[B, T, J, 3]``, ``[B, T, J, 2]`` normalised, ``[B]`` -> ``[B, T, J, 3]``.

        ``given``: what the denoiser's `condition` takes, with one row a window.
        """
        time = self.pose_estimator.project_time(timesteps)
        condition = self.pose_estimator.condition(*given)
        return self.pose_estimator.denoise(noisy_pose_3d[:, None], pose_2d, time, *condition)[:, 0]

    def diffuse(self, pose_3d: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The forward process, within the limit: clean ``[B, T, J, 3]``, ``[B]``, noise -> noisy ``[B, T, J, 3]``."""
        signal, spread = (values[timesteps][:, None, None, None] for values in (self.signal, self.noise))
        return (signal * pose_3d + spread * noise).clip(-self.limit, self.limit)

    def sample(self, pose_2d: Tensor, noises: Tensor, *given: Tensor, eta: float = 1.0, flip: bool = True) -> Tensor:
        """`HypothesisSampler` for one batch: ``[B, T, J, 2]``, ``[K, B or 1, H, T, J, 3]`` -> ``[B, H, T, J, 3]``."""
        sampler = HypothesisSampler(self, len(noises), eta, flip)
        poses: Tensor = sampler(pose_2d, noises, *self.pose_estimator.condition(*given))
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

        ``condition``: what the denoiser takes beside the poses, tensors of B rows.
        """
        screen, rows = pose_2d, condition
        if self.flip:
            screen = torch.cat([screen, self.mirror(screen)])
            rows = tuple(torch.cat([given, given]) for given in condition)

        def predict(noisy: Tensor, time: int) -> Tensor:
            embedded = getattr(self, f"time_{time}")
            if not self.flip:
                return self.model.pose_estimator.denoise(noisy, screen, embedded, *rows)
            both = torch.cat([noisy, self.mirror(noisy)])
            clean = self.model.pose_estimator.denoise(both, screen, embedded, *rows)
            # Slices, not chunks, whose length a tracer takes for a constant.
            straight, turned = clean[: noisy.shape[0]], clean[noisy.shape[0] :]
            mean: Tensor = 0.5 * (straight + self.mirror(turned))
            return mean

        # Not len(), which would fix the batch in a traced graph.
        drawn = list(noises.expand(-1, pose_2d.shape[0], -1, -1, -1, -1))
        pose: Tensor = sample_clean_pose(predict, drawn, self.schedule, self.model.limit)
        return pose


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

    @property
    def poses_per_window(self) -> int:
        """How many poses pass the network at once for each window: what a batch costs."""
        return self.noises.shape[2] * (2 if self.sampler.flip else 1)

    @property
    def frames(self) -> int:
        """T of the windows, the only one that it takes."""
        return self.sampler.model.frames

    def hypotheses(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, H, T, J, 3]
        poses: Tensor = self.sampler(pose_2d, self.noises, *condition)
        return poses

    def forward(self, pose_2d: Tensor, *condition: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, T, J, 3]
        return self.hypotheses(pose_2d, *condition).mean(dim=1)
