"""Spatio-temporal criss-cross (STC) attention: the layer of STCFormer and PoseDenoiser.

Source: STCFormer (Tang et al., CVPR 2023), in the layout of its published state dict; D3PRefiner uses the same layer.
Half of the channels attend over the joints of a frame, the other half over the frames of a joint. Each half adds a
depthwise 3x3 convolution of its values over the (frames, joints) grid.

With a band N the layer is causal, so that frames can be refined as they arrive: frame t attends to the frames t - N + 1
to t, and its convolution covers t - 2, t - 1 and t, with zeros before the first frame. The parameters are the same.

In training the published module drops the part embedding with probability 0.5, separately for the two halves
(``drop_part``), and elements of the MLP with probability 0.1 (``dropout``). Both are off by default, and neither has an
effect on a model that runs. The part embedding is scaled by 1e-4 and 1e-9, so dropping it has no measurable effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.errors import ConfigError
from refiner.models.fused import fused_attention, takes_kernel
from refiner.models.fused_layers import fused_linear, fused_mlp, takes_layers
from refiner.models.fusible import MOST_TOKENS, attend_by_sums, convolve_by_shifts, takes_sums
from refiner.stc_layout import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL, PARTS, kernel_order


class STCAttention(nn.Module):
    """Pre-norm STC attention with residual: ``(B, T, J, C)`` -> ``(B, T, J, C)``.

    Args:
        dim: C, a multiple of 2 x heads.
        heads: heads in each half. A head has ``dim / (2 heads)`` channels, and scores are scaled by
            ``(dim / 2) ** -0.5`` as published (not by the width of a head).
        band: for a causal layer, the number of frames that a frame sees: itself and the ``band - 1`` frames before it.
            None: all frames of a window see each other.
        drop_part: probability that a training step drops the part embedding of a half.
        parts: the body part of each joint, in the order of the joints that the network sees.

    Raises:
        ConfigError: ``dim`` is no such multiple, ``band`` is below 1, or ``drop_part`` is no probability below 1.
    """

    part: Tensor
    _kernel_rows: Tensor
    _kernel_columns: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        band: int | None = None,
        drop_part: float = 0.0,
        parts: Sequence[int] = PARTS,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ConfigError(f"dim must be a multiple of 2 x heads, got dim {dim} and heads {heads}")
        if band is not None and band < 1:
            raise ConfigError(f"a frame must see at least itself, got a band of {band} frames")
        if not 0.0 <= drop_part < 1.0:
            raise ConfigError(f"expected 0 <= drop_part < 1, got {drop_part:g}")
        self.dim, self.heads, self.band, self.drop_part = dim, heads, band, drop_part
        self.head_dim = dim // (2 * heads)
        self.scale = (dim // 2) ** -0.5
        self.layer_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.emb = nn.Embedding(5, self.head_dim)
        self.sep2_t = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2)
        self.sep2_s = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2)
        self.register_buffer("part", torch.tensor(tuple(parts)), persistent=False)
        kernel_rows, kernel_columns = map(torch.from_numpy, kernel_order(dim, heads))
        self.register_buffer("_kernel_rows", kernel_rows, persistent=False)
        self.register_buffer("_kernel_columns", kernel_columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, J, C]
        if not takes_kernel(x, self.heads, self.head_dim):
            return x + self._plain(self.layer_norm(x))
        # The weights are reordered to the layout of the kernels, the activations are not.
        weight, bias = self.qkv.weight[self._kernel_rows], self.qkv.bias[self._kernel_rows]
        out_weight = self.proj.weight[:, self._kernel_columns]
        if takes_layers(x, self.dim):
            mixed = self._mixed(fused_linear(x, weight, bias, self.layer_norm))
            return fused_linear(mixed, out_weight, self.proj.bias, residual=x)
        mixed = self._mixed(functional.linear(self.layer_norm(x), weight, bias))
        return x + functional.linear(mixed, out_weight, self.proj.bias)

    def _plain(self, x: Tensor) -> Tensor:
        batch, frames, joints, _ = x.shape
        half, heads, width = self.dim // 2, self.heads, self.head_dim
        # Published rows are interleaved: channel c has its query in row 3c, its key in 3c + 1 and its value in 3c + 2.
        weight = self.qkv.weight.reshape(self.dim, 3, self.dim).transpose(0, 1).flatten(0, 1)
        bias = self.qkv.bias.reshape(self.dim, 3).transpose(0, 1).flatten()
        query, key, value = functional.linear(x, weight, bias).chunk(3, dim=-1)

        def over_joints(part: Tensor) -> Tensor:  # -> [B T, heads, J, width]
            return part[..., :half].reshape(batch * frames, joints, heads, width).transpose(1, 2)

        def over_frames(part: Tensor) -> Tensor:  # -> [B J, heads, T, width]
            moved = part[..., half:].transpose(1, 2)
            return moved.reshape(batch * joints, frames, heads, width).transpose(1, 2)

        by_sums = takes_sums("attention", x, self.training)
        spatial = self._attend(over_joints(query), over_joints(key), over_joints(value), by_sums)
        moved = over_frames(query), over_frames(key), over_frames(value)
        temporal = self._attend(*moved, by_sums) if self.band is None else attend_banded(*moved, self.band, self.scale)
        spatial = spatial.transpose(1, 2).reshape(batch, frames, joints, heads, width)
        temporal = temporal.transpose(1, 2).reshape(batch, joints, frames, heads, width).transpose(1, 2)

        by_shifts = takes_sums("convolution", x, self.training)
        local_s, local_t = self._shifted(value) if by_shifts else self._convolved(value)
        part_s, part_t = self._part_embeddings()  # [J, width]
        spatial = spatial + local_s + part_s[:, None]
        temporal = temporal + local_t + part_t[:, None]
        joined = torch.cat([spatial, temporal], dim=-1).flatten(-2)  # [B, T, J, C]; per head: spatial, then temporal
        projected: Tensor = self.proj(joined)
        return projected

    def _part_embeddings(self) -> tuple[Tensor, Tensor]:
        """The scaled part embeddings of both halves, each ``(J, width)``; in training, sometimes dropped as a whole."""
        part = self.emb(self.part)
        spatial, temporal = PART_SCALE_SPATIAL * part, PART_SCALE_TEMPORAL * part
        if not self.training or self.drop_part == 0.0:
            return spatial, temporal
        kept = (torch.rand(2, device=part.device) >= self.drop_part) / (1.0 - self.drop_part)
        return spatial * kept[0], temporal * kept[1]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, by_sums: bool) -> Tensor:
        if by_sums and query.shape[-2] <= MOST_TOKENS:
            return attend_by_sums(query, key, value, self.scale)
        return functional.scaled_dot_product_attention(query, key, value, scale=self.scale)

    def _convolved(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both convolutions of ``(B, T, J, C)``, each ``(B, T, J, heads, width)``."""
        half, shape = self.dim // 2, (self.heads, self.head_dim)
        grid = value.permute(0, 3, 1, 2)  # [B, C, T, J]
        if self.band is not None:
            # Pad two frames of zeros in front. The convolution pads one more at both ends; its outputs there
            # (frames -1 and T) are dropped.
            grid = functional.pad(grid, (0, 0, 2, 0))
        rows = slice(None) if self.band is None else slice(1, -1)
        local_s = self.sep2_s(grid[:, :half])[:, :, rows].permute(0, 2, 3, 1).unflatten(-1, shape)
        local_t = self.sep2_t(grid[:, half:])[:, :, rows].permute(0, 2, 3, 1).unflatten(-1, shape)
        return local_s, local_t

    def _shifted(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`_convolved` with each convolution as a sum of nine shifted products."""
        half, before = self.dim // 2, 1 if self.band is None else 2
        shape = (*value.shape[:-1], self.heads, self.head_dim)
        parts = []
        for part, convolution in ((value[..., :half], self.sep2_s), (value[..., half:], self.sep2_t)):
            assert convolution.bias is not None
            local = convolve_by_shifts(part, convolution.weight, convolution.bias, before, 2 - before)
            parts.append(local.reshape(shape))
        return parts[0], parts[1]

    def _mixed(self, qkv: Tensor) -> Tensor:
        """Attention and convolutions by the native kernel, from and to its layout of the channels."""
        heads, width = self.heads, self.head_dim
        convolution = torch.stack([self.sep2_s.weight, self.sep2_t.weight]).reshape(2, heads, width, 9)
        convolution = convolution.permute(0, 3, 2, 1).contiguous()  # [2, 9, width, heads]
        offset = torch.stack(self._part_embeddings())[..., None]  # [2, J, width, 1]
        bias = (
            torch.stack([bias for bias in (self.sep2_s.bias, self.sep2_t.bias) if bias is not None])
            .reshape(2, 1, heads, width)
            .transpose(2, 3)
        )
        return fused_attention(qkv, convolution, (bias + offset).contiguous(), self.scale, self.band)


def attend_banded(query: Tensor, key: Tensor, value: Tensor, band: int, scale: float) -> Tensor:
    """Causal softmax attention in a band: frame t sees only the frames t - band + 1 to t.

    The frames are cut into blocks of ``band``. Each block attends to itself and to the block before it, so that time
    and memory grow linearly with T.

    Args:
        query: ``[N, heads, T, width]``.
        key: likewise.
        value: likewise.
        band: number of frames that a frame sees, itself included.
        scale: factor of the scores.

    Returns:
        ``[N, heads, T, width]``.
    """
    batch, heads, frames, width = query.shape
    attend = functional.scaled_dot_product_attention
    if frames <= band:
        return attend(query, key, value, is_causal=True, scale=scale)
    blocks = -(-frames // band)
    filled = [functional.pad(part, (0, 0, 0, blocks * band - frames)) for part in (query, key, value)]
    query, key, value = (part.reshape(batch, heads, blocks, band, width) for part in filled)

    def with_previous(part: Tensor) -> Tensor:  # [N, heads, blocks, 2 band, width]
        return torch.cat([functional.pad(part, (0, 0, 0, 0, 1, 0))[:, :, :-1], part], dim=3)

    position = torch.arange(band, device=query.device)
    other = torch.arange(2 * band, device=query.device) - band
    age = position[:, None] - other
    seen = (age >= 0) & (age < band)
    first = torch.arange(blocks, device=query.device) == 0
    seen = seen & ~(first[:, None, None] & (other < 0))  # there is no block before the first one
    mixed = attend(query, with_previous(key), with_previous(value), attn_mask=seen, scale=scale)
    return mixed.reshape(batch, heads, blocks * band, width)[:, :, :frames]


class FeedForward(nn.Module):
    """Two linear layers without biases and a GELU between them (STCFormer's ``mlp``).

    In training, elements behind the GELU and behind the second layer are dropped with probability ``dropout``.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"expected 0 <= dropout < 1, got {dropout:g}")
        self.dropout = dropout
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [..., C]
        projected: Tensor = self._drop(self.fc2(self._drop(functional.gelu(self.fc1(x)))))
        return projected

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


def residual_mlp(x: Tensor, norm: nn.LayerNorm, mlp: nn.Module) -> Tensor:
    """``x + mlp(norm(x))``: ``[..., C]`` -> ``[..., C]``; for a `FeedForward` by the native kernel where it applies."""
    if isinstance(mlp, FeedForward):
        drops = mlp.training and mlp.dropout > 0.0
        if not drops and takes_layers(x, *mlp.fc1.weight.shape):
            return fused_mlp(x, norm, mlp.fc1.weight, mlp.fc2.weight)
    mixed: Tensor = x + mlp(norm(x))
    return mixed
