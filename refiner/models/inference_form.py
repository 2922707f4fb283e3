"""The networks in a layout for inference: the weights are reordered once, so that activations rarely are.

In the published layout (`refiner.models.stc`) the rows of queries, keys and values are interleaved, the two halves of
each head lie side by side, and each half has its own convolution. Here the weights absorb all of that. An attention
module then changes the layout of its activations only twice for each half, twice for its one convolution, and once for
the transposed keys (which every engine folds into the product). No tensor has more than four dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.models.stc import FeedForward, STCAttention, attend_banded
from refiner.stc_layout import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def inference_form(module: ModuleT) -> ModuleT:
    """Copy ``module`` and replace its STC layers by equivalent ones with fewer operations. Only for inference."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    _replace(copied)
    return copied


def branches(module: nn.Module) -> dict[str, nn.Module]:
    """The modules of an inference form that lie between a norm and a residual sum, by name.

    These are the modules whose precision `in_precision` can change.
    """
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, InferenceSTCAttention | InferenceFeedForward)
    }


def in_precision(module: ModuleT, dtype: torch.dtype, but: Collection[str] = ()) -> ModuleT:
    """Set the precision of an inference form's hidden layers, in place.

    A hidden layer is everything after a norm, up to the residual sum (see `branches`). Coordinates, the first and the
    last layer, norms, residual sums and the DDIM steps stay in float32, as in the exported graphs of that precision.

    Args:
        module: an inference form.
        dtype: the type to compute in.
        but: names of branches that stay in float32.

    Returns:
        ``module``.
    """
    for branch, child in branches(module).items():
        if branch not in but:
            child.compute = dtype  # type: ignore[assignment]
            for name, value in child.named_buffers(recurse=False):
                setattr(child, name, value.to(dtype))
    return module


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, STCAttention):
            setattr(module, name, InferenceSTCAttention(child))
        elif isinstance(child, FeedForward):
            setattr(module, name, InferenceFeedForward(child))
        else:
            _replace(child)


class InferenceFeedForward(nn.Module):
    """`FeedForward` with weights stored as (in, out), so that a product needs no transpose."""

    first: Tensor
    second: Tensor
    compute: torch.dtype = torch.float32

    def __init__(self, source: FeedForward) -> None:
        super().__init__()
        self.register_buffer("first", source.fc1.weight.detach().T.contiguous(), persistent=False)
        self.register_buffer("second", source.fc2.weight.detach().T.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [..., C]
        mixed: Tensor = functional.gelu(x.to(self.compute) @ self.first) @ self.second
        return mixed.float()


class InferenceSTCAttention(nn.Module):
    """`STCAttention` with its weights reordered: ``(B, T, J, C)`` -> ``(B, T, J, C)``.

    The columns of ``weight`` are ordered (spatial q, k, v | temporal v, k, q), each by head, so that each half and the
    values of both halves are slices. The weights of the queries contain the scale. ``local_weight`` convolves the
    values of both halves at once. The bias ``proj_bias`` ``(J, C)`` contains the part embedding, a constant of the
    joint.
    """

    weight: Tensor
    bias: Tensor
    local_weight: Tensor
    local_bias: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    compute: torch.dtype = torch.float32

    def __init__(self, source: STCAttention) -> None:
        super().__init__()
        dim, heads, width = source.dim, source.heads, source.head_dim
        self.dim, self.heads, self.width, self.band = dim, heads, width, source.band
        self.layer_norm = source.layer_norm
        half = dim // 2
        channel = torch.arange(dim)
        spatial, temporal = channel[:half], channel[half:]
        query, key, value = 0, 1, 2
        order = [(spatial, query), (spatial, key), (spatial, value), (temporal, value), (temporal, key)]
        order.append((temporal, query))
        rows = torch.cat([3 * part + kind for part, kind in order])
        weight, bias = source.qkv.weight.double()[rows], source.qkv.bias.double()[rows]
        for start in (0, 5 * half):  # the queries
            weight[start : start + half] *= source.scale
            bias[start : start + half] *= source.scale
        self._store("weight", weight.T)
        self._store("bias", bias)
        self._store("local_weight", torch.cat([source.sep2_s.weight, source.sep2_t.weight]))
        assert source.sep2_s.bias is not None and source.sep2_t.bias is not None
        self._store("local_bias", torch.cat([source.sep2_s.bias, source.sep2_t.bias]))
        # Published: (head, half, width). Here: (half, head, width).
        columns = torch.arange(dim).reshape(heads, 2, width).transpose(0, 1).flatten()
        proj = source.proj.weight.double()[:, columns]
        part = source.emb(source.part).double()  # [J, width], the same for every head
        constant = torch.cat(
            [PART_SCALE_SPATIAL * part.repeat(1, heads), PART_SCALE_TEMPORAL * part.repeat(1, heads)], 1
        )
        self._store("proj_weight", proj.T)
        self._store("proj_bias", source.proj.bias.double() + constant @ proj.T)

    def _store(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, J, C]
        batch, frames, joints, dim = x.shape
        heads, width = self.heads, self.width
        half = 3 * dim // 2
        mixed = self.layer_norm(x).to(self.compute) @ self.weight + self.bias
        # q, k and v change their layout together: [B T, 3 heads, J, width].
        spatial = mixed[..., :half].reshape(batch * frames, joints, 3 * heads, width).transpose(1, 2)
        query, key, value = spatial.split(heads, dim=1)
        over_joints = _attend(query, key, value).transpose(1, 2).reshape(batch, frames, joints, dim // 2)
        # [B, T, 3 heads J, width] -> [B, 3 heads J, T, width]: joints and heads share an axis, to keep four dimensions.
        temporal = mixed[..., half:].reshape(batch, frames, joints * 3 * heads, width).transpose(1, 2)
        value, key, query = temporal.reshape(batch * joints, 3 * heads, frames, width).split(heads, dim=1)
        if self.band is None:
            over_frames = _attend(query, key, value)
        else:
            over_frames = attend_banded(query, key, value, self.band, 1.0)
        over_frames = over_frames.reshape(batch, joints * heads, frames, width).transpose(1, 2)
        over_frames = over_frames.reshape(batch, frames, joints, dim // 2)
        values = mixed[..., dim : 2 * dim].permute(0, 3, 1, 2)  # [B, C, T, J]
        padding = (1, 1)
        if self.band is not None:  # zeros only before the first frame
            values, padding = functional.pad(values, (0, 0, 2, 0)), (0, 1)
        local = functional.conv2d(values, self.local_weight, self.local_bias, padding=padding, groups=dim)
        joined = torch.cat([over_joints, over_frames], dim=-1) + local.permute(0, 2, 3, 1)
        projected: Tensor = x + (joined @ self.proj_weight + self.proj_bias).float()
        return projected


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [N, heads, L, width], scaled
    return functional.scaled_dot_product_attention(query, key, value, scale=1.0)
