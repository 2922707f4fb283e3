"""PoseDenoiser (D3PRefiner section III-D): predicts the normalised error of a noisy 3D pose sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError
from refiner.models.stc import FeedForward, STCAttention


class DenoisingBlock(nn.Module):
    """Two STC modules and one MLP, each with pre-norm and residual.

    The first module sees the sequence alone; the projected time embedding is added to the sequence before the
    second ("the second also sees the projected time embedding"). One MLP of ratio 8 is the reading that fits the
    paper's Table IV, with as many weights as two of ratio 4, one after each STC module (``mlps=2``).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int, mlps: int = 1, band: int | None = None) -> None:
        super().__init__()
        self.stc_first = STCAttention(dim, heads, band)
        self.stc_second = STCAttention(dim, heads, band)
        self.time_proj = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim)
        self.layer_norm_first = nn.LayerNorm(dim) if mlps == 2 else None
        self.mlp_first = FeedForward(dim, mlp_ratio * dim) if mlps == 2 else None

    def project_time(self, embedded: Tensor) -> Tensor:  # [B, C] -> [B, 1, 1, C]
        projected: Tensor = self.time_proj(embedded)
        return projected[:, None, None, :]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:  # [B, T, J, C], [B or 1, 1, 1, C]
        x = self.stc_first(x)
        if self.mlp_first is not None and self.layer_norm_first is not None:
            x = x + self.mlp_first(self.layer_norm_first(x))
        x = self.stc_second(x + time)
        mixed: Tensor = x + self.mlp(self.layer_norm(x))
        return mixed


class PoseDenoiser(nn.Module):
    """e_theta(y_t, x, t): noisy 3D and 2D poses and a timestep -> normalised error, ``(B, T, J, 3)``.

    Args:
        dim: C; 256 fits the paper's Table IV.
        blocks: denoising blocks; depth = 2 x blocks. The paper's is 4 blocks, depth 8.
        heads: 8.
        mlp_ratio: 8 (see `DenoisingBlock`).
        mlps: MLPs in a block, 1 or 2.
        joints: 17.
        joint_embedding: learned embedding of the joint, as in `STCFormer`; off in the published reading.
        band: frames that a frame sees, itself the last: a causal denoiser, which runs over any number of frames or,
            with its state, frame by frame (`refiner.models.causal`). None: the frames of a window all see each other.
            The parameters are the same, so either form starts from the other's weights.
        inputs: numbers that the network sees of a joint in 2D: 2 as published, or 6 of `refiner.models.canonical`.
    """

    def __init__(
        self,
        dim: int = 256,
        blocks: int = 4,
        heads: int = 8,
        mlp_ratio: int = 8,
        joints: int = 17,
        joint_embedding: bool = False,
        mlps: int = 1,
        band: int | None = None,
        inputs: int = 2,
    ) -> None:
        super().__init__()
        if mlps not in (1, 2):
            raise ConfigError(f"a denoising block has 1 or 2 MLPs, not {mlps}")
        self.dim, self.band = dim, band
        self.pose_emb = nn.Linear(inputs + 3, dim, bias=False)
        self.time_mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.blocks = nn.ModuleList(DenoisingBlock(dim, heads, mlp_ratio, mlps, band) for _ in range(blocks))
        self.head = nn.Linear(dim, 3, bias=False)
        self.joint_embedding = nn.Parameter(torch.zeros(joints, dim)) if joint_embedding else None
        if self.joint_embedding is not None:
            nn.init.trunc_normal_(self.joint_embedding, std=0.02)

    def forward(self, noisy_pose_3d: Tensor, pose_2d: Tensor, timesteps: Tensor) -> Tensor:
        """``[B, T, J, 3]`` root-relative metres, ``[B, T, J, inputs]``, ``[B]`` integers -> ``[B, T, J, 3]``."""
        return self.denoise(noisy_pose_3d, pose_2d, self.project_time(timesteps))

    def project_time(self, timesteps: Tensor) -> list[Tensor]:
        """The time path: ``[B]`` -> one ``[B, 1, 1, C]`` a block. Constants, once K is fixed."""
        embedded = self.time_mlp(timestep_embedding(timesteps, self.dim))
        return [block.project_time(embedded) for block in self.blocks]  # type: ignore[operator]

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, times: list[Tensor]) -> Tensor:
        """`forward` with the time path already computed by `project_time`."""
        x = functional.linear(torch.cat([pose_2d, noisy_pose_3d], dim=-1), self.pose_emb.weight)
        if self.joint_embedding is not None:
            x = x + self.joint_embedding
        for block, time in zip(self.blocks, times, strict=True):
            x = block(x, time)
        error: Tensor = self.head(x)
        return error


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoids of the timestep, ``[B]`` -> ``[B, dim]``: frequencies from 1 to 1e-4, sine then cosine (D3DP)."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(1e4) / (half - 1)))
    angles = timesteps[:, None].to(frequencies.dtype) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
