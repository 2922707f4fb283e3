"""Batches of scenes: people in motion, seen by any camera and any detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refiner.data.detector import DetectorModel
from refiner.skeleton import H36M17
from refiner.training.config import SceneConfig
from refiner.training.scenes.cameras import random_views, stated_focal_length
from refiner.training.scenes.detections import SceneDetector
from refiner.training.scenes.draws import Draws
from refiner.training.scenes.motion import MotionBank, MotionClip


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """A batch of windows on the sampler's device, float32.

    Attributes:
        keypoints: pixels and confidence, ``(B, T, 17, 3)``.
        camera: width, height and the stated focal length, ``(B, 3)`` pixels.
        pose_3d: true poses in camera axes, ``(B, T, 17, 3)`` metres, root at 0.
    """

    keypoints: Tensor
    camera: Tensor
    pose_3d: Tensor


class SceneSampler:
    """Draws batches of windows, seen by cameras and detectors of any kind.

    ``batch(step)`` depends only on the seed, the step and the kind of device. Everything is computed on the device:
    nothing is copied to it, and the host does not wait for it.

    Args:
        clips: the motion.
        detector: the model of the detection errors.
        config: all shares and ranges.
        frames: T.
        batch: B.
        seed: of the draws.
        device: the device of the batches.
        stride: a window takes every ``stride``-th frame of a clip.

    Raises:
        ConfigError: no clip has ``frames`` frames.
    """

    def __init__(
        self,
        clips: Sequence[MotionClip],
        detector: DetectorModel,
        config: SceneConfig,
        frames: int,
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
        stride: int = 1,
    ) -> None:
        self.config, self.size, self.seed, self.device = config, batch, seed, torch.device(device)
        self._bank = MotionBank(clips, frames, stride, self.device)
        self._flip_order = torch.tensor(H36M17.flip_order, device=self.device)
        self._detector = SceneDetector(detector, config, frames, self.device)

    def batch(self, step: int) -> SceneBatch:
        """The windows of one training step."""
        return self.drawn(Draws(self.seed, step, self.device))

    @torch.no_grad()
    def drawn(self, draws: Draws) -> SceneBatch:
        """The windows for given random numbers."""
        world, chosen, stride = self._bank.draw(draws, self.size, self.config)
        views = random_views(draws, world, self.config)
        fixed = self._bank.rigs.draw(draws, chosen)
        if fixed is not None:
            own = fixed[0] & draws.chance(self.config.fixed_cameras, self.size)
            views = fixed[1].where(own, views)
        points = views.to_camera(world)
        keypoints = self._detector.detect(draws, points, views, stride)
        focal = stated_focal_length(draws, views, self.config)
        pose_3d = points - points[:, :, :1]
        mirrored = draws.chance(self.config.flip, self.size)[:, None, None, None]
        keypoints = torch.where(mirrored, self._mirrored(keypoints, views.size[:, 0]), keypoints)
        pose_3d = torch.where(mirrored, self._mirrored(pose_3d, None), pose_3d)
        return SceneBatch(keypoints, torch.cat([views.size, focal[:, None]], dim=-1), pose_3d)

    def _mirrored(self, values: Tensor, width: Tensor | None) -> Tensor:
        """Mirror keypoints in images of ``width`` ``(B,)``, or 3D poses if there is no width."""
        flipped = values[..., self._flip_order, :].clone()
        flipped[..., 0] = -flipped[..., 0] if width is None else width[:, None, None] - flipped[..., 0]
        return flipped
