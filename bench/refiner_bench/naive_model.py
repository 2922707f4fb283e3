"""The model as a straightforward port would write it. Exports of `refiner.models` are measured against its export.

The attention follows the published code: queries, keys and values are interleaved, both halves of the channels are
split into heads in five dimensions, and each half has its own convolution. The denoising steps are a Python loop, every
call computes all time embeddings again, and nothing is prepared for a graph. The results equal those of
`refiner.models`.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from refiner.camera import normalise_screen
from refiner.diffusion.ddim import run_ddim
from refiner.models import LiftingModule, UnrolledRefiner
from refiner.models.stc import STCAttention
from refiner.stc_layout import PART_SCALE_SPATIAL, PART_SCALE_TEMPORAL


class NaiveAttention(nn.Module):
    """`STCAttention`, computed in five dimensions as in the published code."""

    def __init__(self, source: STCAttention) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:  # [B, T, J, C]
        source, (batch, frames, joints, dim) = self.source, x.shape
        heads, half, width = source.heads, dim // 2, source.head_dim
        qkv = source.qkv(source.layer_norm(x)).reshape(batch, frames, joints, dim, 3).permute(4, 0, 1, 2, 3)
        spatial = qkv[..., :half].reshape(3, batch, frames, joints, heads, width).permute(0, 1, 2, 4, 3, 5)
        temporal = qkv[..., half:].reshape(3, batch, frames, joints, heads, width).permute(0, 1, 3, 4, 2, 5)
        over_joints = self._attend(spatial).permute(0, 1, 3, 2, 4)  # [B, T, J, heads, width]
        over_frames = self._attend(temporal).permute(0, 3, 1, 2, 4)
        values = qkv[2].permute(0, 3, 1, 2)
        part = source.emb(source.part)[:, None]
        sides = []
        for mixed, convolution, scale, channels in (
            (over_joints, source.sep2_s, PART_SCALE_SPATIAL, values[:, :half]),
            (over_frames, source.sep2_t, PART_SCALE_TEMPORAL, values[:, half:]),
        ):
            local = convolution(channels).permute(0, 2, 3, 1).reshape(batch, frames, joints, heads, width)
            sides.append(mixed + local + scale * part)
        projected: Tensor = source.proj(torch.cat(sides, dim=-1).reshape(batch, frames, joints, dim))
        return x + projected

    def _attend(self, qkv: Tensor) -> Tensor:
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query @ key.transpose(-2, -1)) * self.source.scale
        mixed: Tensor = scores.softmax(dim=-1) @ value
        return mixed


class NaiveRefiner(nn.Module):
    """`UnrolledRefiner`, but with its time embeddings computed in every call."""

    def __init__(self, source: UnrolledRefiner) -> None:
        super().__init__()
        self.source = source
        self.frames, self.config, self.steps = source.frames, source.config, source.steps

    def forward(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> Tensor:
        source = self.source
        image_points = normalise_screen(pose_2d, image_size)  # [B, T, J, 2]
        root = pose_3d[..., :1, :]

        def predict_error(noisy: Tensor, time: int) -> Tensor:
            timesteps = torch.full((1,), time, device=noisy.device)
            predicted: Tensor = source.denoiser(noisy, image_points, timesteps) * source.error_scale
            return predicted

        start = pose_3d - root
        refined = run_ddim(predict_error, start, source.schedule)
        return torch.cat([root, refined[..., 1:, :] + root], dim=-2)


def naive_form(module: UnrolledRefiner | LiftingModule) -> nn.Module:
    """A copy of ``module`` in the naive form. It does not support a refiner that starts from the corrected pose."""
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, STCAttention):
                setattr(parent, name, NaiveAttention(child))
    if isinstance(copied, UnrolledRefiner):
        assert not copied.corrects
        return NaiveRefiner(copied).eval()
    return copied.eval()
