"""Systematic errors of 3D pose estimators in the field, drawn in batches on any device.

A refiner that knows only the errors of a few lifters trusts the poses of other estimators too much: their camera axes
may be tilted, their depth compressed, their scale or joint definitions different, or their smoothing delayed. Each of
these errors is drawn for a share of the windows, with a random strength.
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
# Log-normal spreads of the depth factor and of the scale, and the mean logarithm of the depth factor.
DEPTH, SCALE, COMPRESSED = 0.25, 0.12, -0.15
# Metres: spread of the joint definitions in the body's axes; ranges of the drift and of the trembling.
DEFINITION, DRIFT, TREMBLING = 0.025, (0.008, 0.06), (0.002, 0.02)
# Correlation of the drift between neighbouring frames.
DRIFT_MEMORY = 0.9
# Largest weight of a smoother's last output, and largest share of the movement that a bias to the mean pose removes.
SMOOTHER, SHRUNK = 0.7, 0.5
# Share of the frames with left and right of the body swapped, and the mean length of a swap in frames.
SWAPPED, SWAPPED_FRAMES = 0.05, 10.0


class SystematicErrors:
    """Adds the errors of estimators in the field to root-relative poses.

    Args:
        frames: T of the windows.
        config: the share of disturbed windows, and the probability of each error.
        device: the device of the poses.
    """

    def __init__(self, frames: int, config: EstimatorConfig, device: torch.device) -> None:
        self._config = config
        steps = torch.arange(frames, device=device)
        self._age = (steps[:, None] - steps).clamp(min=0).float()  # [T, T]
        self._past = (steps[:, None] >= steps).float()
        self._flip_order = torch.tensor(H36M17.flip_order, device=device)

    @torch.no_grad()
    def disturb(self, draws: Draws, pose_3d: Tensor) -> Tensor:
        """Disturb a share of the windows: ``(B, T, 17, 3)`` metres, root at 0 -> the same shape, root at 0."""
        batch, frames = pose_3d.shape[:2]
        disturbed = pose_3d
        swapped = draws.episodes(torch.full((1,), SWAPPED, device=pose_3d.device), SWAPPED_FRAMES, batch, frames)
        swapped = swapped & self._affected(draws, batch)[:, None]
        disturbed = torch.where(swapped[..., None, None], disturbed[:, :, self._flip_order], disturbed)
        disturbed = self._redefine_joints(draws, disturbed)
        disturbed = self._drift_and_tremble(draws, disturbed)
        disturbed = self._scale_and_depth(draws, disturbed)
        disturbed = self._tilt(draws, disturbed)
        disturbed = self._smooth(draws, disturbed)
        chosen = draws.chance(self._config.systematic, batch)
        disturbed = torch.where(chosen[:, None, None, None], disturbed, pose_3d)
        return disturbed - disturbed[:, :, :1]

    def _affected(self, draws: Draws, batch: int) -> Tensor:
        return draws.chance(self._config.each, batch)

    def _strength(self, draws: Draws, value: Tensor) -> Tensor:
        """``value`` ``(B,)`` for the windows that get this error, 0 for the others."""
        return torch.where(self._affected(draws, len(value)), value, torch.zeros_like(value))

    def _tilt(self, draws: Draws, pose: Tensor) -> Tensor:
        batch = len(pose)
        angles = [self._strength(draws, torch.deg2rad(spread * draws.normal(batch)))[:, None, None] for spread in TILT]
        x, y, z = pose.unbind(dim=-1)
        (cx, cy, cz), (sx, sy, sz) = [angle.cos() for angle in angles], [angle.sin() for angle in angles]
        y, z = cx * y - sx * z, sx * y + cx * z
        x, z = cy * x + sy * z, cy * z - sy * x
        x, y = cz * x - sz * y, sz * x + cz * y
        return torch.stack([x, y, z], dim=-1)

    def _scale_and_depth(self, draws: Draws, pose: Tensor) -> Tensor:
        batch = len(pose)
        depth = self._strength(draws, COMPRESSED + DEPTH * draws.normal(batch)).exp()
        scale = self._strength(draws, SCALE * draws.normal(batch)).exp()
        factors = torch.stack([scale, scale, scale * depth], dim=-1)
        return pose * factors[:, None, None]

    def _redefine_joints(self, draws: Draws, pose: Tensor) -> Tensor:
        """Move the joints in the body's axes, as for another marker set or detector."""
        batch = len(pose)
        strength = self._strength(draws, draws.uniform(batch, high=2.0) * DEFINITION)
        offset = strength[:, None, None] * draws.normal(batch, 17, 3)
        return moved_in_body(pose, offset)

    def _drift_and_tremble(self, draws: Draws, pose: Tensor) -> Tensor:
        """Add a slow drift and trembling to each joint, and shrink the movement."""
        batch, frames = pose.shape[:2]
        drift = self._strength(draws, draws.log_uniform(batch, low=DRIFT[0], high=DRIFT[1]))
        tremble = self._strength(draws, draws.log_uniform(batch, low=TREMBLING[0], high=TREMBLING[1]))
        factor = DRIFT_MEMORY**self._age * self._past
        factor[:, 1:] *= (1.0 - DRIFT_MEMORY**2) ** 0.5
        slow = torch.einsum("ts,bsjc->btjc", factor, draws.normal(batch, frames, 17, 3))
        shrunk = self._strength(draws, draws.uniform(batch, high=SHRUNK))[:, None, None, None]
        pose = pose + shrunk * (pose.mean(dim=1, keepdim=True) - pose)
        white = draws.normal(batch, frames, 17, 3)
        return pose + drift[:, None, None, None] * slow + tremble[:, None, None, None] * white

    def _smooth(self, draws: Draws, pose: Tensor) -> Tensor:
        """Apply an exponential smoother, which lags; it starts at the first frame."""
        memory = self._strength(draws, draws.uniform(len(pose), high=SMOOTHER))[:, None, None]
        weights = memory**self._age * self._past  # [B, T, T]
        weights = torch.cat([weights[..., :1], (1.0 - memory) * weights[..., 1:]], dim=-1)
        return torch.einsum("bts,bsjc->btjc", weights, pose)
