"""STCFormer (Tang et al., CVPR 2023): the lifter that D3PRefiner refines, in its published state-dict layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.models.joint_order import JointOrder
from refiner.models.stc import FeedForward, STCAttention, residual_mlp
from refiner.stc_layout import PARTS


class STCBlock(nn.Module):
    """STC attention (residual inside), then a pre-norm MLP of ratio 4 with residual; biases as published."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: int, dropout: float, drop_part: float, parts: Sequence[int]
    ) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_ratio * dim, dropout)
        self.stc_att = STCAttention(dim, heads, drop_part=drop_part, parts=parts)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, J, C]
        return residual_mlp(self.stc_att(x), self.layer_norm, self.mlp)


class _Blocks(nn.Module):
    """Holds the blocks under the published name ``stcformer.stc_block``."""

    def __init__(self, layers: int, *block: Any) -> None:
        super().__init__()
        self.stc_block = nn.ModuleList(STCBlock(*block) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.stc_block:
            x = block(x)
        return x


class STCFormer(nn.Module):
    """2D-to-3D lifter: ``(B, T, J, 2)`` image coordinates -> ``(B, T, J, 3)`` metres, root-relative.

    The model runs with any number of frames, but is trained for one window length.

    Args:
        dim: C, 256 as published (4,748,000 parameters with the published sizes).
        layers: STC blocks, 6 as published.
        heads: 8 as published.
        mlp_ratio: 4 as published.
        joints: 17.
        joint_embedding: add a learned embedding of the joint to the input. The published model has none: it can tell
            joints apart only by the zero padding of its convolutions. Small models learn faster with the embedding.
            It is off by default, and a published state dict has no key for it.
        inputs: numbers that the network sees of a joint: 2 as published, or the 6 ray features of
            `refiner.models.canonical`.
        dropout: probability of the dropout in the MLPs in training, 0.1 as published.
        drop_part: probability that a training step drops the part embedding of an attention, 0.5 as published.
        joint_order: the order of the joints inside the network, see `refiner.models.joint_order`.
    """

    def __init__(
        self,
        dim: int = 256,
        layers: int = 6,
        heads: int = 8,
        mlp_ratio: int = 4,
        joints: int = 17,
        joint_embedding: bool = False,
        inputs: int = 2,
        dropout: float = 0.0,
        drop_part: float = 0.0,
        joint_order: str = "h36m17",
    ) -> None:
        super().__init__()
        self.order = JointOrder(joint_order)
        parts = [PARTS[joint] for joint in self.order.order]
        self.pose_emb = nn.Linear(inputs, dim, bias=False)
        self.stcformer = _Blocks(layers, dim, heads, mlp_ratio, dropout, drop_part, parts)
        self.regress_head = nn.Linear(dim, 3, bias=False)
        self.joint_embedding = nn.Parameter(torch.zeros(joints, dim)) if joint_embedding else None
        if self.joint_embedding is not None:
            nn.init.trunc_normal_(self.joint_embedding, std=0.02)

    def forward(self, pose_2d: Tensor) -> Tensor:  # [B, T, J, inputs] -> [B, T, J, 3]
        x = functional.gelu(self.pose_emb(self.order.inside(pose_2d)))
        if self.joint_embedding is not None:
            x = x + self.joint_embedding
        return self.order.outside(self.regress_head(self.stcformer(x)))
