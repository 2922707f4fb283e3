"""MixSTE (Zhang et al., CVPR 2022): attention over joints and over frames in turn, in its published layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError, ShapeError
from refiner.models.fused import fused_self_attention, takes_kernel
from refiner.models.fused_layers import linear
from refiner.models.joint_order import JointOrder

# Published: 1e-6 in the blocks and the two shared norms, PyTorch's 1e-5 in the head.
BLOCK_EPS = 1e-6


class SelfAttention(nn.Module):
    """Multi-head attention ``(N, L, C)`` -> ``(N, L, C)``. The rows of ``qkv`` are ordered (q, k, v), each by head.

    Raises:
        ConfigError: ``dim`` is no multiple of ``heads``.
    """

    _kernel_rows: Tensor
    _kernel_columns: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ConfigError(f"dim must be a multiple of heads, got dim {dim} and heads {heads}")
        self.heads, self.width = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # The channel order of the native kernel: it needs the heads innermost, so that one vector register holds one
        # channel of every head.
        columns = torch.arange(dim).reshape(heads, self.width).T.flatten()
        self.register_buffer("_kernel_columns", columns, persistent=False)
        self.register_buffer("_kernel_rows", torch.cat([columns + part * dim for part in range(3)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [N, L, C]
        if takes_kernel(x, self.heads, self.width):
            return self._fused(x)
        rows, length, dim = x.shape
        split = self.qkv(x).reshape(rows, length, 3 * self.heads, self.width).transpose(1, 2)
        query, key, value = split.split(self.heads, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=self.width**-0.5)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(rows, length, dim))
        return projected

    def _fused(self, x: Tensor) -> Tensor:
        """`forward` with the native kernel: the weights are reordered to its layout, the activations are not."""
        qkv = linear(x, self.qkv.weight[self._kernel_rows], self.qkv.bias[self._kernel_rows])
        mixed = fused_self_attention(qkv, self.heads, self.width**-0.5)
        return linear(mixed, self.proj.weight[:, self._kernel_columns], self.proj.bias)


class BiasedFeedForward(nn.Module):
    """Two linear layers with biases and a GELU between them (MixSTE's ``mlp``)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:  # [..., C]
        hidden = functional.gelu(linear(x, self.fc1.weight, self.fc1.bias))
        return linear(hidden, self.fc2.weight, self.fc2.bias)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP with residuals.

    In training each branch is dropped with probability ``drop_path``, separately for every row of the batch.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.mlp = BiasedFeedForward(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:  # [N, L, C]
        x = x + self._drop_path(self.attn(self.norm1(x)))
        return x + self._drop_path(self.mlp(self.norm2(x)))

    def _drop_path(self, branch: Tensor) -> Tensor:
        """Stochastic depth: a row is 0 with probability ``drop_path``, otherwise scaled up so that the mean stays."""
        if not self.training or self.drop_path == 0.0:
            return branch
        mask = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * mask / (1.0 - self.drop_path)


class SpatioTemporalBlocks(nn.Module):
    """The blocks of MixSTE, which its lifter and the denoisers of D3DP and FinePOSE share.

    The positions of the frames are learnt, so the model takes only windows of ``frames`` frames.

    Args:
        dim: C, 512 as published.
        depth: number of pairs of a block over joints and a block over frames, 8 as published.
        heads: 8 as published.
        mlp_ratio: 2 as published.
        frames: T, 243 as published.
        joints: 17.
        drop_path: stochastic depth in training. The rate rises from 0 in the first block to this value in the last;
            0.1 as published.
        inputs: numbers that the network sees of a joint. None takes ``channels``.
        joint_order: the order of the joints inside the network, see `refiner.models.joint_order`.

    Raises:
        ConfigError: ``depth``, ``drop_path`` or ``heads`` is out of range.
        ShapeError: by `embed`, for windows of another length.
    """

    # Coordinates of the input: the 2D pose; in the denoisers the 2D pose and the noisy 3D pose.
    channels = 2

    def __init__(
        self,
        dim: int = 512,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: int = 2,
        frames: int = 243,
        joints: int = 17,
        drop_path: float = 0.0,
        inputs: int | None = None,
        joint_order: str = "h36m17",
    ) -> None:
        super().__init__()
        if depth < 1 or not 0.0 <= drop_path < 1.0:
            raise ConfigError(f"expected depth >= 1 and 0 <= drop_path < 1, got {depth} and {drop_path:g}")
        self.dim, self.frames = dim, frames
        self.order = JointOrder(joint_order)
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        self.Spatial_patch_to_embedding = nn.Linear(inputs or self.channels, dim)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, joints, dim))
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, dim))
        self.STEblocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio, rate) for rate in rates)
        self.TTEblocks = nn.ModuleList(TransformerBlock(dim, heads, mlp_ratio, rate) for rate in rates)
        # All blocks over joints share one norm; all blocks over frames share the other.
        self.Spatial_norm = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.Temporal_norm = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3))

    def embed(self, x: Tensor) -> Tensor:
        """``[B, T, J, channels]`` -> tokens ``[B, T, J, C]`` in the network's order, with the joints' positions."""
        if x.shape[1] != self.frames:
            raise ShapeError(
                f"this model has learnt the positions of {self.frames} frames; got a window of {x.shape[1]}: cut "
                "windows of that length"
            )
        tokens: Tensor = self.Spatial_patch_to_embedding(self.order.inside(x)) + self.Spatial_pos_embed
        return tokens

    def regress(self, x: Tensor, after_first: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Run all blocks and the head.

        Args:
            x: tokens, ``[B, T, J, C]``, in the network's order of the joints.
            after_first: changes the tokens between the first block over joints and the first block over frames.

        Returns:
            The pose, ``[B, T, J, 3]``, in Human3.6M's order.
        """
        for index, (spatial, temporal) in enumerate(zip(self.STEblocks, self.TTEblocks, strict=True)):
            x = self.Spatial_norm(_over_joints(spatial, x))
            if index == 0:
                x = x if after_first is None else after_first(x)
                x = x + self.Temporal_pos_embed[:, :, None]
            x = self.Temporal_norm(_over_frames(temporal, x))
        return self.order.outside(self.head(x))


class MixSTE(SpatioTemporalBlocks):
    """2D-to-3D lifter: ``(B, T, J, 2)`` image coordinates -> ``(B, T, J, 3)`` metres, root-relative.

    Arguments as for `SpatioTemporalBlocks`, whose defaults are the published model (33,783,811 parameters).
    """

    def forward(self, pose_2d: Tensor) -> Tensor:  # [B, T, J, 2] -> [B, T, J, 3]
        return self.regress(self.embed(pose_2d))


def _over_joints(block: nn.Module, x: Tensor) -> Tensor:  # [B, T, J, C]: the joints of a frame see each other
    mixed: Tensor = block(x.flatten(0, 1))
    return mixed.reshape(x.shape)


def _over_frames(block: nn.Module, x: Tensor) -> Tensor:  # [B, T, J, C]: the frames of a joint see each other
    batch, frames, joints, dim = x.shape
    mixed: Tensor = block(x.transpose(1, 2).reshape(batch * joints, frames, dim))
    return mixed.reshape(batch, joints, frames, dim).transpose(1, 2)
