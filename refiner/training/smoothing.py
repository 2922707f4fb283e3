"""Training of SmoothNet on a lifter's poses, with a loss on positions and accelerations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.models import SmoothNet
from refiner.training.config import Config
from refiner.training.tasks import Poses, ValidationWindows, lift_windows
from refiner.training.windows import Lift, Windows

# Weight of the second differences beside the positions, as published.
ACCELERATION_WEIGHT = 0.1


class SmoothingTask:
    """Trains SmoothNet with the published loss.

    The loss is the mean absolute error of the coordinates, plus a tenth of the mean absolute error of their second
    differences over time.

    Args:
        config: the configuration of the run.
        model: the network.
        lift: ``(windows) -> y_est``, the lifter's root-relative poses.
        validation: the validation windows.
        validation_lifted: the lifter's poses for them, ``(N, T, 17, 3)`` metres.
    """

    def __init__(
        self,
        config: Config,
        model: SmoothNet,
        lift: Lift,
        validation: ValidationWindows,
        validation_lifted: Poses,
    ) -> None:
        self.model, self.lift, self.validation = model, lift, validation
        assert isinstance(validation_lifted, np.ndarray)
        self._lifted = validation_lifted
        self.device = torch.device(config.training.device)
        self._baseline = validation.mpjpe_mm(validation_lifted)

    def loss(self, windows: Windows, step: int) -> Tensor:
        smoothed = self.model(torch.from_numpy(self.lift(windows)).to(self.device)).float()
        target = torch.from_numpy(windows.pose_3d).to(self.device)
        acceleration, expected = (pose.diff(n=2, dim=1) for pose in (smoothed, target))
        return functional.l1_loss(smoothed, target) + ACCELERATION_WEIGHT * functional.l1_loss(acceleration, expected)

    def validate(self, model: nn.Module) -> dict[str, float]:
        # `lift_windows` usually gets 2D poses; here it runs the network on 3D poses.
        smoothed = lift_windows(model, self._lifted, root="zeroed")  # as SmoothingModule does
        return {"mpjpe_mm": self.validation.mpjpe_mm(smoothed), "lifter_mpjpe_mm": self._baseline}

    def extra_tensors(self) -> dict[str, Tensor]:
        return {}
