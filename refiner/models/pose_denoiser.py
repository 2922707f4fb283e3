"""PoseDenoiser (D3PRefiner section III-D): predicts the normalised error of a noisy 3D pose sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError
from refiner.models.stc import FeedForward, STCAttention, residual_mlp


class DenoisingBlock(nn.Module):
    """Two STC modules and one MLP, each with pre-norm and residual.

    The first module sees only the sequence. The block adds the projected time embedding to the sequence before the
    second module ("the second also sees the projected time embedding"). One MLP of ratio 8 fits the parameter counts in
    the paper's Table IV. It has as many weights as two MLPs of ratio 4, one after each STC module (``mlps=2``).

    Args:
        dim: C.
        heads: attention heads, see `STCAttention`.
        mlp_ratio: hidden width of an MLP in multiples of C.
        mlps: 1 or 2.
        band: see `STCAttention`.
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
            x = residual_mlp(x, self.layer_norm_first, self.mlp_first)
        x = self.stc_second(x + time)
        return residual_mlp(x, self.layer_norm, self.mlp)


class PoseDenoiser(nn.Module):
    """e_theta(y_t, x, t): noisy 3D poses, 2D poses and a timestep -> normalised error, ``(B, T, J, 3)``.

    Args:
        dim: C; 256 fits the paper's Table IV.
        blocks: denoising blocks; the depth is 2 x blocks. The paper's model has 4 blocks, depth 8.
        heads: 8.
        mlp_ratio: 8 (see `DenoisingBlock`).
        joints: 17.
        joint_embedding: add a learned embedding of the joint, as in `STCFormer`; off in the published reading.
        mlps: MLPs in a block, 1 or 2.
        band: for a causal denoiser, the number of frames that a frame sees: itself and the ``band - 1`` frames before
            it. A causal denoiser runs over any number of frames or, with its state, frame by frame
            (`refiner.models.causal`). None: all frames of a window see each other. The parameters are the same, so
            that either form can start from the weights of the other.
        inputs: numbers that the network sees of a joint in 2D: 2 as published, or the 6 ray features of
            `refiner.models.canonical`.

    Raises:
        ConfigError: ``mlps`` is neither 1 nor 2.

    Reference:
        D3PRefiner, section III-D and Table IV.
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
        """Predict the error of a noisy pose.

        Args:
            noisy_pose_3d: y_t, root-relative, ``[B, T, J, 3]`` metres.
            pose_2d: x, ``[B, T, J, inputs]``: image coordinates or ray features.
            timesteps: t, integers, ``[B]``.

        Returns:
            The normalised error, ``[B, T, J, 3]``.
        """
        return self.denoise(noisy_pose_3d, pose_2d, self.project_time(timesteps))

    def project_time(self, timesteps: Tensor) -> list[Tensor]:
        """The time embedding for every block: ``[B]`` -> a list of ``[B, 1, 1, C]``. Constant once K is fixed."""
        embedded = self.time_mlp(timestep_embedding(timesteps, self.dim))
        return [block.project_time(embedded) for block in self.blocks]  # type: ignore[operator]

    def denoise(self, noisy_pose_3d: Tensor, pose_2d: Tensor, times: list[Tensor]) -> Tensor:
        """`forward`, with the time embeddings ``times`` already computed by `project_time`."""
        x = functional.linear(torch.cat([pose_2d, noisy_pose_3d], dim=-1), self.pose_emb.weight)
        if self.joint_embedding is not None:
            x = x + self.joint_embedding
        for block, time in zip(self.blocks, times, strict=True):
            x = block(x, time)
        error: Tensor = self.head(x)
        return error


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of the timestep as in D3DP: ``[B]`` -> ``[B, dim]``.

    The frequencies fall from 1 to 1e-4; the sines come first, then the cosines.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(1e4) / (half - 1)))
    angles = timesteps[:, None].to(frequencies.dtype) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
