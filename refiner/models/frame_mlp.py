"""The network of Martinez et al. (A simple yet effective baseline for 3d human pose estimation, ICCV 2017): two
residual blocks that lift each frame separately."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two linear layers, each with a norm, ReLU and dropout, and a residual around both: ``(..., C)``."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        mixed = x
        for layer, norm in zip(self.layers, self.norms, strict=True):
            mixed = functional.dropout(functional.relu(norm(layer(mixed))), self.dropout, self.training)
        return x + mixed


class FrameMLP(nn.Module):
    """2D-to-3D lifter of single frames: ``(B, T, J, inputs)`` -> ``(B, T, J, 3)`` metres, root-relative.

    It differs from the published network in its norms: layer norms instead of batch norms, so that a checkpoint holds
    nothing but trained weights.

    Args:
        dim: width, 1024 as published.
        blocks: residual blocks, 2 as published.
        dropout: 0.5 as published.
        joints: 17.
        inputs: numbers that the network sees of a joint: 2 as published, or the 6 ray features of
            `refiner.models.canonical`.
    """

    def __init__(
        self, dim: int = 1024, blocks: int = 2, dropout: float = 0.5, joints: int = 17, inputs: int = 2
    ) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(joints * inputs, dim), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(ResidualBlock(dim, dropout) for _ in range(blocks))
        self.head = nn.Linear(dim, 3 * joints)
        self.dropout = dropout

    def forward(self, pose_2d: Tensor) -> Tensor:  # [B, T, J, inputs] -> [B, T, J, 3]
        x = functional.relu(self.norm(self.first(pose_2d.flatten(-2))))
        x = functional.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        pose: Tensor = self.head(x)
        return pose.reshape(*pose_2d.shape[:-1], 3)
