"""Classify the action of a window of 2D poses: FinePOSE's prompts need an action, also where nobody names one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.skeleton import H36M17

KERNEL, STRIDE = 5, 2


class ActionClassifier(nn.Module):
    """``(B, T, J, 2)`` image coordinates -> scores of the actions ``(B, A)``.

    The input is the pose relative to the root, divided by its own spread over the window, and its movement from frame
    to frame: the position and size of a person in the image say little about the action. The network is two
    convolutions over time, the mean over time, and one linear layer.

    Args:
        actions: A.
        width: channels of the convolutions.
        joints: 17.
    """

    def __init__(self, actions: int, width: int = 64, joints: int = H36M17.joints) -> None:
        super().__init__()
        self.first = nn.Conv1d(4 * joints, width, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(width, width, KERNEL, stride=STRIDE, padding=KERNEL // 2)
        self.head = nn.Linear(width, actions)

    def forward(self, pose_2d: Tensor) -> Tensor:
        body = pose_2d - pose_2d[..., :1, :]
        spread = body.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        body = (body / (spread + 1e-6)).flatten(2)  # [B, T, 2 J]
        movement = torch.cat([torch.zeros_like(body[:, :1]), body[:, 1:] - body[:, :-1]], dim=1)
        # Movements are about a tenth as large as the pose.
        hidden = functional.gelu(self.first(torch.cat([body, 10.0 * movement], dim=-1).transpose(1, 2)))
        hidden = functional.gelu(self.second(hidden))
        scores: Tensor = self.head(hidden.mean(dim=-1))
        return scores
