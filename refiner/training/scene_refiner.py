"""Training a refiner that sees rays: everything in the axes of the virtual cameras, where distances are what they are
in camera axes, so that the noise model, the loss and the validation are those of `refiner.training.tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from refiner.data.clips import CameraClip
from refiner.data.windows import blend_phases, merge_phases, tds_phases, trailing_indices
from refiner.errors import ConfigError
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import Checkpoint
from refiner.models.canonical import canonical_pose, to_virtual_camera
from refiner.models.unrolled import root_at_zero
from refiner.runtime.stitching import run_live
from refiner.training.scene_tasks import keypoints_and_lens
from refiner.training.scenes import SceneSampler
from refiner.training.tasks import lift_sequences
from refiner.training.windows import Windows

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RayLifter:
    """A lifter that sees rays: ``network`` takes ``(B, frames, 17, 6)`` features of every ``stride``-th frame."""

    network: nn.Module
    frames: int
    stride: int
    root: str

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: str) -> RayLifter:
        """Raises ConfigError for a lifter of screen coordinates, whose poses a refiner of rays cannot be trained on."""
        module = module_of(checkpoint).to(device)
        if not module.rays:
            raise ConfigError("a refiner that sees rays is trained on a lifter that sees rays (model.input = 'rays')")
        return cls(module.lifter, module.frames, checkpoint.spec.stride, module.root)  # type: ignore[arg-type]

    @torch.no_grad()
    def windows(self, features: torch.Tensor) -> torch.Tensor:
        """Windows ``(B, frames, 17, 6)`` of whatever stride -> ``(B, frames, 17, 3)``, root at 0."""
        return root_at_zero(self.network(features), self.root).float()

    def lift(self, features: torch.Tensor) -> torch.Tensor:
        """``(B, frames x stride, 17, 6)`` -> ``(B, frames x stride, 17, 3)``, root at 0: each phase is one window."""
        batch, length = features.shape[:2]
        # [B, frames, stride, ...] -> a row for each phase.
        phases = features.reshape(batch, length // self.stride, self.stride, *features.shape[2:]).transpose(1, 2)
        lifted = self.windows(phases.flatten(0, 1))
        back = lifted.reshape(batch, self.stride, length // self.stride, 17, 3).transpose(1, 2)
        return back.reshape(batch, length, 17, 3)

    @property
    def reach(self) -> int:
        """Frames before a frame that a window sees which ends with it."""
        return (self.frames - 1) * self.stride

    def lift_live(self, features: torch.Tensor) -> torch.Tensor:
        """``(B, reach + F, 17, 6)`` -> ``(B, F, 17, 3)``, root at 0: each frame is the last one of a window."""
        places = trailing_indices(features.shape[1], self.frames, self.stride)[self.reach :]  # [F, frames]
        windows = features[:, torch.from_numpy(places).to(features.device)].flatten(0, 1)
        return self.windows(windows)[:, -1].reshape(len(features), len(places), 17, 3)

    def lift_clip_live(self, features: Array) -> Array:
        """A whole clip ``(F, 17, 6)`` -> ``(F, 17, 3)`` as a stream lifts it (`refiner.runtime.stitching.run_live`)."""
        device = next(self.network.parameters()).device

        def lift(windows: Array) -> Array:
            lifted: Array = self.windows(torch.from_numpy(windows).to(device)).cpu().numpy()
            return lifted

        return run_live(lift, (features,), self.frames, stride=self.stride)

    def lift_clip(self, features: Array) -> Array:
        """``(F, 17, 6)`` of a whole clip -> ``(F, 17, 3)``: its phases in windows that overlap by half, blended."""
        stride = max(1, min(self.stride, len(features) // self.frames))
        parts = [
            lift_sequences(self.network, self.frames, features[None, phase], self.root)[0]
            for phase in tds_phases(len(features), stride)
        ]
        return np.asarray(blend_phases(merge_phases(parts, len(features)), stride), np.float32)


class LiftedScenes:
    """Batches of `refiner.training.scenes` with what a lifter makes of them, in the axes of the virtual cameras.

    A batch is ``batch`` windows of ``frames`` neighbouring frames: what the scenes show is as long as a window of the
    lifter with its stride, and is cut. Their ``pose_2d`` are features ``(B, T, 17, 6)``. Several lifters take
    turns, step by step. Raises ConfigError where the windows cannot be cut.
    """

    def __init__(self, scenes: SceneSampler, lifters: Sequence[RayLifter], frames: int) -> None:
        self._scenes, self._lifters, self._frames = scenes, tuple(lifters), frames

    def batch(self, step: int) -> Windows:
        """The windows of one training step."""
        scene = self._scenes.batch(step)
        lifter = self._lifters[step % len(self._lifters)]
        features, rotation = canonical_pose(scene.keypoints, scene.camera)
        lifted = lifter.lift(features)

        def cut(values: torch.Tensor) -> Array:
            parts = values.reshape(-1, self._frames, *values.shape[2:])
            return np.ascontiguousarray(parts.cpu().numpy())

        pose_2d, pose_3d = cut(features), cut(to_virtual_camera(scene.pose_3d, rotation))
        nobody = np.full(len(pose_2d), "")
        return Windows(pose_2d, pose_3d, nobody, lifted=cut(lifted))


def scene_length(frames: int, lifters: Sequence[RayLifter]) -> int:
    """Frames of the scenes that windows of ``frames`` are cut from. Raises ConfigError where they do not divide."""
    lengths = {lifter.frames * lifter.stride for lifter in lifters}
    if len(lengths) > 1 or next(iter(lengths)) % frames:
        raise ConfigError(
            f"the lifters see {', '.join(map(str, sorted(lengths)))} frames, the refiner windows of {frames}: expected "
            "lifters of one length that is a multiple of the refiner's"
        )
    return lengths.pop()


def canonical_clip(clip: CameraClip) -> tuple[Array, Array]:
    """A clip as a network sees it: features ``(F, 17, 6)`` and the true pose ``(F, 17, 3)`` in the same axes."""
    features, rotation = canonical_pose(*(torch.from_numpy(array)[None] for array in keypoints_and_lens(clip)))
    truth: Any = to_virtual_camera(torch.from_numpy(clip.pose_3d)[None], rotation)
    return features[0].numpy(), truth[0].numpy()
