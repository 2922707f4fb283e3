"""Systematic errors of 3D pose estimators in the field, drawn in batches on any device.

A refiner that knows the errors of a few lifters alone trusts what it should not: the pose of an estimator whose camera
axes are tilted, whose depth is compressed, whose scale or joints are its own, whose smoother lags. Each of these is
drawn for a share of the windows, with a strength of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refiner.skeleton import H36M17
from refiner.training.config import EstimatorConfig
from refiner.training.scenes.draws import Draws
from refiner.training.scenes.motion import moved_in_body

# Degrees: spread of the tilt about the camera's x, y and z axes.
TILT = (10.0, 4.0, 4.0)
# Log-normal spreads of the depth's compression and of the scale; what the depth is compressed by on average.
DEPTH, SCALE, COMPRESSED = 0.25, 0.12, -0.15
# Metres: spread of a joint's own definition, in the body's axes; drift and trembling from the least to the most.
DEFINITION, DRIFT, TREMBLING = 0.025, (0.008, 0.06), (0.002, 0.02)
# Share of a frame's drift that the next frame keeps.
DRIFT_MEMORY = 0.9
# A smoother keeps up to this share of its last output; a mean-pose bias takes away up to this share of the movement.
SMOOTHER, SHRUNK = 0.7, 0.5
# Share of the frames in which the body is taken for its mirror image, and how long that lasts.
SWAPPED, SWAPPED_FRAMES = 0.05, 10.0


class SystematicErrors:
    """Changes root-relative poses as estimators in the field do.

    Args:
        frames: T of the windows. config: the shares.
        device: where the poses are.
    """

    def __init__(self, frames: int, config: EstimatorConfig, device: torch.device) -> None:
        self._config = config
        steps = torch.arange(frames, device=device)
        self._age = (steps[:, None] - steps).clamp(min=0).float()  # [T, T]
        self._past = (steps[:, None] >= steps).float()
        self._flip_order = torch.tensor(H36M17.flip_order, device=device)

    @torch.no_grad()
    def disturb(self, draws: Draws, pose_3d: Tensor) -> Tensor:
        """``(B, T, 17, 3)`` metres, root at 0 -> the same with errors in a share of the windows, root at 0."""
        batch, frames = pose_3d.shape[:2]
        wrong = pose_3d
        swapped = draws.episodes(torch.full((1,), SWAPPED, device=pose_3d.device), SWAPPED_FRAMES, batch, frames)
        swapped = swapped & self._some(draws, batch)[:, None]
        wrong = torch.where(swapped[..., None, None], wrong[:, :, self._flip_order], wrong)
        wrong = self._defined_otherwise(draws, wrong)
        wrong = self._moved(draws, wrong)
        wrong = self._stretched(draws, wrong)
        wrong = self._tilted(draws, wrong)
        wrong = self._smoothed(draws, wrong)
        chosen = draws.chance(self._config.systematic, batch)
        wrong = torch.where(chosen[:, None, None, None], wrong, pose_3d)
        return wrong - wrong[:, :, :1]

    def _some(self, draws: Draws, batch: int) -> Tensor:
        return draws.chance(self._config.each, batch)

    def _amount(self, draws: Draws, value: Tensor) -> Tensor:
        """``value`` ``(B,)`` for the windows that have this error, 0 for the others."""
        return torch.where(self._some(draws, len(value)), value, torch.zeros_like(value))

    def _tilted(self, draws: Draws, pose: Tensor) -> Tensor:
        batch = len(pose)
        angles = [self._amount(draws, torch.deg2rad(spread * draws.normal(batch)))[:, None, None] for spread in TILT]
        x, y, z = pose.unbind(dim=-1)
        (cx, cy, cz), (sx, sy, sz) = [angle.cos() for angle in angles], [angle.sin() for angle in angles]
        y, z = cx * y - sx * z, sx * y + cx * z
        x, z = cy * x + sy * z, cy * z - sy * x
        x, y = cz * x - sz * y, sz * x + cz * y
        return torch.stack([x, y, z], dim=-1)

    def _stretched(self, draws: Draws, pose: Tensor) -> Tensor:
        batch = len(pose)
        depth = self._amount(draws, COMPRESSED + DEPTH * draws.normal(batch)).exp()
        scale = self._amount(draws, SCALE * draws.normal(batch)).exp()
        factors = torch.stack([scale, scale, scale * depth], dim=-1)
        return pose * factors[:, None, None]

    def _defined_otherwise(self, draws: Draws, pose: Tensor) -> Tensor:
        """Joints that lie elsewhere in the body's axes, as another marker set or detector defines them."""
        batch = len(pose)
        amount = self._amount(draws, draws.uniform(batch, high=2.0) * DEFINITION)
        offset = amount[:, None, None] * draws.normal(batch, 17, 3)
        return moved_in_body(pose, offset)

    def _moved(self, draws: Draws, pose: Tensor) -> Tensor:
        """A slow drift of each joint, trembling, and movement that is too small."""
        batch, frames = pose.shape[:2]
        drift = self._amount(draws, draws.log_uniform(batch, low=DRIFT[0], high=DRIFT[1]))
        tremble = self._amount(draws, draws.log_uniform(batch, low=TREMBLING[0], high=TREMBLING[1]))
        factor = DRIFT_MEMORY**self._age * self._past
        factor[:, 1:] *= (1.0 - DRIFT_MEMORY**2) ** 0.5
        slow = torch.einsum("ts,bsjc->btjc", factor, draws.normal(batch, frames, 17, 3))
        shrunk = self._amount(draws, draws.uniform(batch, high=SHRUNK))[:, None, None, None]
        pose = pose + shrunk * (pose.mean(dim=1, keepdim=True) - pose)
        white = draws.normal(batch, frames, 17, 3)
        return pose + drift[:, None, None, None] * slow + tremble[:, None, None, None] * white

    def _smoothed(self, draws: Draws, pose: Tensor) -> Tensor:
        """An exponential smoother, which lags; it begins at the first frame."""
        kept = self._amount(draws, draws.uniform(len(pose), high=SMOOTHER))[:, None, None]
        weights = kept**self._age * self._past  # [B, T, T]
        weights = torch.cat([weights[..., :1], (1.0 - kept) * weights[..., 1:]], dim=-1)
        return torch.einsum("bts,bsjc->btjc", weights, pose)
