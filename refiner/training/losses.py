"""The loss of lifters."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from refiner.training.config import LossConfig

# MixSTE's weights of Human3.6M's joints.
MIXSTE_JOINT_WEIGHTS = (1.0, 1.0, 2.5, 2.5, 1.0, 2.5, 2.5, 1.0, 1.0, 1.0, 1.5, 1.5, 4.0, 4.0, 1.5, 4.0, 4.0)


def lifter_loss(pose_3d: Tensor, target: Tensor, config: LossConfig, root: str) -> Tensor:
    """The mean over windows, frames and joints of the weighted distance, plus MixSTE's two terms for movement.

    Args:
        pose_3d: predicted poses, ``[B, T, J, 3]`` metres.
        target: true poses, ``[B, T, J, 3]`` metres, root at 0.
        config: the weights. Equal weights without movement terms give the MPJPE.
        root: "subtracted" compares poses relative to their own roots and leaves the root out. "zeroed" compares the
            poses as they are, root included (see `refiner.models.unrolled.root_at_zero`).
    """
    weights = _joint_weights(config.joints, target.shape[-2], pose_3d.dtype, pose_3d.device)
    if root == "subtracted":
        pose_3d, target, weights = (pose_3d - pose_3d[..., :1, :])[..., 1:, :], target[..., 1:, :], weights[1:]
    # As published, this is not divided by the sum of the weights.
    loss: Tensor = (weights * torch.linalg.vector_norm(pose_3d - target, dim=-1)).mean()
    if not (config.smoothness or config.velocity):
        return loss
    movement, true_movement = (pose.diff(dim=1) for pose in (pose_3d, target))
    loss = loss + config.smoothness * (weights[:, None] * movement.square()).mean()
    velocity: Tensor = torch.linalg.vector_norm(movement - true_movement, dim=-1).mean()
    return loss + config.velocity * velocity


@lru_cache(maxsize=16)
def _joint_weights(kind: str, joints: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights on the device. They are cached, since a copy from the host would make every step wait."""
    return torch.tensor(MIXSTE_JOINT_WEIGHTS if kind == "mixste" else (1.0,) * joints, dtype=dtype, device=device)
