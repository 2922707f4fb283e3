"""SmoothNet (Zeng et al., ECCV 2022): layers over time, applied to each coordinate separately, in the published
layout.

The network sees neither the 2D pose nor the other joints: it corrects only the errors that one coordinate's course over
time can show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refiner.errors import ShapeError

# Slopes of the two kinds of leaky ReLU, as published.
ENCODER_SLOPE, BLOCK_SLOPE = 0.1, 0.2


class SmoothingBlock(nn.Module):
    """Two linear layers, each followed by dropout and a leaky ReLU, with a residual around both: ``(..., C)``."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        self.lrelu = nn.LeakyReLU(BLOCK_SLOPE)

    def forward(self, x: Tensor) -> Tensor:  # [..., C]
        inner = self.lrelu(self.dropout(self.linear1(x)))
        mixed: Tensor = x + self.lrelu(self.dropout(self.linear2(inner)))
        return mixed


class SmoothNet(nn.Module):
    """Noisy 3D poses -> smoother 3D poses: ``(B, T, J, 3)`` -> ``(B, T, J, 3)``, root-relative metres.

    Args:
        frames: T, the only window length that the network takes; the published sizes are 8 to 100.
        dim: width between the blocks, 512 as published (128 for Human3.6M).
        hidden: width inside a block, 256 as published.
        blocks: residual blocks, 3 as published (5 for Human3.6M).
        dropout: rate in training, 0.5 as published (0.25 for Human3.6M).

    Raises:
        ShapeError: by `forward`, for windows of another length.
    """

    def __init__(self, frames: int, dim: int = 512, hidden: int = 256, blocks: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.frames = frames
        self.encoder = nn.Sequential(nn.Linear(frames, dim), nn.LeakyReLU(ENCODER_SLOPE))
        self.res_blocks = nn.Sequential(*(SmoothingBlock(dim, hidden, dropout) for _ in range(blocks)))
        self.decoder = nn.Linear(dim, frames)

    def forward(self, pose_3d: Tensor) -> Tensor:
        batch, frames, joints, _ = pose_3d.shape
        if frames != self.frames:
            raise ShapeError(f"this SmoothNet takes windows of {self.frames} frames, got {frames}")
        over_time = pose_3d.reshape(batch, frames, joints * 3).transpose(1, 2)
        smoothed: Tensor = self.decoder(self.res_blocks(self.encoder(over_time)))
        return smoothed.transpose(1, 2).reshape(batch, frames, joints, 3)


class SmoothingModule(nn.Module):
    """A trained SmoothNet as a refiner. It keeps the root where it is and ignores the 2D pose."""

    steps, rays = 1, False

    def __init__(self, smoother: SmoothNet, config: dict[str, Any]) -> None:
        super().__init__()
        self.smoother, self.frames, self.config = smoother, smoother.frames, config

    def forward(self, pose_2d: Tensor, pose_3d: Tensor, image_size: Tensor) -> Tensor:
        """``[B, T, J, 2]`` pixels, ``[B, T, J, 3]`` metres, ``[B, 2]`` -> ``[B, T, J, 3]``."""
        root = pose_3d[..., :1, :]
        smoothed = self.smoother(pose_3d - root)
        refined: Tensor = torch.cat([root, smoothed[..., 1:, :] + root], dim=-2)
        return refined
