"""The same networks laid out for inference: weights are reordered once, so that few activations are.

In the published layout (`refiner.models.stc`) queries, keys and values are interleaved row by row, every head's two
halves lie side by side, and each half is convolved apart. Here all of that is moved into the weights: an attention
module is left with two changes of layout for each of its halves, two for its one convolution and the transposed keys
(which every engine folds into the product), and no tensor of more than four dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.models.stc import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL, FeedForward, STCAttention, attend_banded

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def inference_form(module: ModuleT) -> ModuleT:
    """A copy of ``module`` whose STC attentions compute the same in fewer operations; for inference alone."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    _replace(copied)
    return copied


def branches(module: nn.Module) -> dict[str, nn.Module]:
    """The modules of an inference form between a norm and a residual sum, by name: what `in_precision` may type."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, InferenceSTCAttention | InferenceFeedForward)
    }


def in_precision(module: ModuleT, dtype: torch.dtype, but: Collection[str] = ()) -> ModuleT:
    """An inference form with its hidden layers in ``dtype``, in place: what follows a norm, up to the residual sum.

    Coordinates, first and last layer, norms, residual sums and the DDIM steps stay in float32, as in the typed graphs,
    and so do the branches named in ``but``.
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
    """`FeedForward` with its weights as (in, out), which a product takes without a transpose of its own."""

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

    The rows of ``qkv`` are ordered (spatial q, k, v | temporal v, k, q), each by head, so that either half and both
    values are slices; the scale is inside the queries' rows. ``local`` convolves all values at once. The part
    embedding, a constant of the joint, is inside the bias of ``proj``, ``(J, C)``.
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
        self._keep("weight", weight.T)
        self._keep("bias", bias)
        self._keep("local_weight", torch.cat([source.sep2_s.weight, source.sep2_t.weight]))
        assert source.sep2_s.bias is not None and source.sep2_t.bias is not None
        self._keep("local_bias", torch.cat([source.sep2_s.bias, source.sep2_t.bias]))
        # Published: (head, half, width). Here: (half, head, width).
        columns = torch.arange(dim).reshape(heads, 2, width).transpose(0, 1).flatten()
        proj = source.proj.weight.double()[:, columns]
        part = source.emb(source.part).double()  # [J, width], the same for every head
        constant = torch.cat(
            [PART_SCALE_SPATIAL * part.repeat(1, heads), PART_SCALE_TEMPORAL * part.repeat(1, heads)], 1
        )
        self._keep("proj_weight", proj.T)
        self._keep("proj_bias", source.proj.bias.double() + constant @ proj.T)

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.detach().float().contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, J, C]
        batch, frames, joints, dim = x.shape
        heads, width = self.heads, self.width
        half = 3 * dim // 2
        mixed = self.layer_norm(x).to(self.compute) @ self.weight + self.bias
        # One change of layout for q, k and v together: [B T, 3 heads, J, width].
        spatial = mixed[..., :half].reshape(batch * frames, joints, 3 * heads, width).transpose(1, 2)
        query, key, value = spatial.split(heads, dim=1)
        over_joints = _attend(query, key, value).transpose(1, 2).reshape(batch, frames, joints, dim // 2)
        # [B, T, 3 heads J, width] -> [B, 3 heads J, T, width]: joints and heads stay together, four dimensions.
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
        if self.band is not None:  # zeros before the first frame alone
            values, padding = functional.pad(values, (0, 0, 2, 0)), (0, 1)
        local = functional.conv2d(values, self.local_weight, self.local_bias, padding=padding, groups=dim)
        joined = torch.cat([over_joints, over_frames], dim=-1) + local.permute(0, 2, 3, 1)
        projected: Tensor = x + (joined @ self.proj_weight + self.proj_bias).float()
        return projected


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [N, heads, L, width], scaled
    return functional.scaled_dot_product_attention(query, key, value, scale=1.0)
