"""VideoPose3D (Pavllo et al., CVPR 2019): a lifter of dilated convolutions over the frames."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

# Frames that a convolution covers; the dilations are powers of it.
WIDTH = 3


class TemporalBlock(nn.Module):
    """A dilated convolution over three frames and one over a single frame, with a residual: ``(B, C, T)``."""

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation, self.dropout = dilation, dropout
        self.wide = nn.Conv1d(dim, dim, WIDTH, dilation=dilation, bias=False)
        self.single = nn.Conv1d(dim, dim, 1, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        mixed = x
        for convolution, norm in zip((self.wide, self.single), self.norms, strict=True):
            if convolution is self.wide:
                mixed = functional.pad(mixed, (self.dilation, self.dilation), mode="replicate")
            mixed = norm(convolution(mixed).transpose(1, 2)).transpose(1, 2)
            mixed = functional.dropout(functional.relu(mixed), self.dropout, self.training)
        return x + mixed


class TemporalConvolutions(nn.Module):
    """2D-to-3D lifter: ``(B, T, J, inputs)`` -> ``(B, T, J, 3)`` metres, root-relative.

    The model runs with any number of frames. It repeats the first and the last frame at the ends, as the authors' code
    pads a video. It differs from the published network in its norms: layer norms instead of batch norms, so that a
    checkpoint holds nothing but trained weights.

    Args:
        dim: channels, 1024 as published.
        blocks: blocks with dilations 3, 9, ...; 2 blocks see 27 frames, as published.
        dropout: 0.25 as published.
        joints: 17.
        inputs: numbers that the network sees of a joint: 2 as published, or the 6 ray features of
            `refiner.models.canonical`.
    """

    def __init__(
        self, dim: int = 1024, blocks: int = 2, dropout: float = 0.25, joints: int = 17, inputs: int = 2
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.norm = nn.Conv1d(joints * inputs, dim, WIDTH, bias=False), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(TemporalBlock(dim, WIDTH ** (1 + index), dropout) for index in range(blocks))
        self.head = nn.Conv1d(dim, 3 * joints, 1)

    def forward(self, pose_2d: Tensor) -> Tensor:  # [B, T, J, inputs] -> [B, T, J, 3]
        x = functional.pad(pose_2d.flatten(-2).transpose(1, 2), (1, 1), mode="replicate")
        x = functional.relu(self.norm(self.first(x).transpose(1, 2))).transpose(1, 2)
        x = functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        pose: Tensor = self.head(x).transpose(1, 2)
        return pose.reshape(*pose_2d.shape[:-1], 3)
