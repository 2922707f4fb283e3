"""Mirror images of poses inside a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refiner.skeleton import H36M17


class Mirror(nn.Module):
    """x is negated, left and right joints change places; it undoes itself. Constants of a graph, no parameters."""

    order: Tensor
    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(H36M17.flip_order), persistent=False)
        self.register_buffer("sign", torch.tensor([-1.0, 1.0, 1.0]), persistent=False)

    def forward(self, pose: Tensor) -> Tensor:
        """``[..., J, 3]`` root-relative, or ``[..., J, 2]`` normalised screen coordinates."""
        return (pose * self.sign[: pose.shape[-1]]).index_select(-2, self.order)

    def pixels(self, pose_2d: Tensor, image_size: Tensor) -> Tensor:
        """``[B, T, J, 2 or 3]`` pixels (and confidence) of images or cameras ``[B, 2 or 3]``: x becomes width - x."""
        width = image_size[:, None, None, :1]
        turned = torch.cat([width - pose_2d[..., :1], pose_2d[..., 1:]], dim=-1)
        return turned.index_select(-2, self.order)
