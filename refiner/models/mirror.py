"""Mirror images of poses, as a module that a graph can hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refiner.skeleton import H36M17


class Mirror(nn.Module):
    """Negates x and swaps left and right joints; two applications give the input back. It has no parameters."""

    order: Tensor
    sign: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(H36M17.flip_order), persistent=False)
        self.register_buffer("sign", torch.tensor([-1.0, 1.0, 1.0]), persistent=False)

    def forward(self, pose: Tensor) -> Tensor:
        """``[..., J, 3]`` root-relative, or ``[..., J, 2]`` image coordinates -> the mirror image."""
        return (pose * self.sign[: pose.shape[-1]]).index_select(-2, self.order)

    def pixels(self, pose_2d: Tensor, image_size: Tensor) -> Tensor:
        """The mirror image in pixels: x becomes width - x.

        Args:
            pose_2d: ``[B, T, J, 2]`` pixels, or ``[B, T, J, 3]`` with confidence.
            image_size: image sizes ``[B, 2]`` or cameras ``[B, 3]``; the width comes first.
        """
        width = image_size[:, None, None, :1]
        mirrored = torch.cat([width - pose_2d[..., :1], pose_2d[..., 1:]], dim=-1)
        return mirrored.index_select(-2, self.order)
