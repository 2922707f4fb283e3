"""Which action a window of 2D poses shows: what FinePOSE's prompts need where nobody says it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.skeleton import H36M17

KERNEL, STRIDE = 5, 2


class ActionClassifier(nn.Module):
    """``(B, T, J, 2)`` normalised screen coordinates -> scores of the actions ``(B, A)``.

    The pose is taken relative to the root and in units of its own spread over the window, beside its movement from
    frame to frame: where somebody stands and how large they appear says little of what they do. Two convolutions over
    time, the mean over time, one linear layer.
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
        # Movements are a tenth of the pose in size.
        hidden = functional.gelu(self.first(torch.cat([body, 10.0 * movement], dim=-1).transpose(1, 2)))
        hidden = functional.gelu(self.second(hidden))
        scores: Tensor = self.head(hidden.mean(dim=-1))
        return scores
