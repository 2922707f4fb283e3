"""Training data of a refiner that sees rays, in the axes of the virtual cameras.

Distances are the same there as in camera axes. So the noise model, the loss and the validation are the ones of
`refiner.training.tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from refiner.runtime.stitching import Run, run_live
from refiner.training.scene_tasks import keypoints_and_lens
from refiner.training.scenes import SceneSampler
from refiner.training.tasks import lift_sequences
from refiner.training.windows import Windows

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RayLifter:
    """A lifter that sees rays.

    Attributes:
        network: features ``(B, frames, 17, 6)`` of every ``stride``-th frame -> poses ``(B, frames, 17, 3)``.
        frames: the length of its windows.
        stride: the frames from one frame of a window to the next.
        root: see `root_at_zero`.
    """

    network: nn.Module
    frames: int
    stride: int
    root: str

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: str) -> RayLifter:
        """Build the lifter of a checkpoint. Raises ConfigError for a lifter of image coordinates, not of rays."""
        module = module_of(checkpoint).to(device)
        if not module.rays:
            raise ConfigError("a refiner that sees rays is trained on a lifter that sees rays (model.input = 'rays')")
        return cls(module.lifter, module.frames, checkpoint.spec.stride, module.root)  # type: ignore[arg-type]

    @torch.no_grad()
    def windows(self, features: torch.Tensor) -> torch.Tensor:
        """Lift windows ``(B, frames, 17, 6)`` -> ``(B, frames, 17, 3)`` metres, root at 0."""
        return root_at_zero(self.network(features), self.root).float()

    def lift(self, features: torch.Tensor) -> torch.Tensor:
        """Lift ``(B, frames x stride, 17, 6)`` -> ``(B, frames x stride, 17, 3)``, root at 0: one window a phase."""
        batch, length = features.shape[:2]
        # [B, frames, stride, ...] -> [B, stride, frames, ...], a row for each phase.
        phases = features.reshape(batch, length // self.stride, self.stride, *features.shape[2:]).transpose(1, 2)
        lifted = self.windows(phases.flatten(0, 1))
        poses = lifted.reshape(batch, self.stride, length // self.stride, 17, 3).transpose(1, 2)
        return poses.reshape(batch, length, 17, 3)

    @property
    def reach(self) -> int:
        """How many frames before its last frame a window reaches back."""
        return (self.frames - 1) * self.stride

    def lift_live(self, features: torch.Tensor) -> torch.Tensor:
        """Lift as in a stream, ``(B, reach + F, 17, 6)`` -> ``(B, F, 17, 3)``, root at 0.

        Each frame is the last frame of its own window.
        """
        indices = trailing_indices(features.shape[1], self.frames, self.stride)[self.reach :]  # [F, frames]
        windows = features[:, torch.from_numpy(indices).to(features.device)].flatten(0, 1)
        return self.windows(windows)[:, -1].reshape(len(features), len(indices), 17, 3)

    def lift_clip_live(self, features: Array) -> Array:
        """Lift a whole clip ``(F, 17, 6)`` -> ``(F, 17, 3)`` as in a stream (`refiner.runtime.stitching.run_live`)."""
        device = next(self.network.parameters()).device

        def lift(windows: Array) -> Array:
            lifted: Array = self.windows(torch.from_numpy(windows).to(device)).cpu().numpy()
            return lifted

        return run_live(lift, Run((features,)), self.frames, stride=self.stride)

    def lift_clip(self, features: Array) -> Array:
        """Lift a whole clip ``(F, 17, 6)`` -> ``(F, 17, 3)``: each phase in windows that overlap by half, blended."""
        stride = max(1, min(self.stride, len(features) // self.frames))
        parts = [
            lift_sequences(self.network, self.frames, features[None, phase], self.root)[0]
            for phase in tds_phases(len(features), stride)
        ]
        return np.asarray(blend_phases(merge_phases(parts, len(features)), stride), np.float32)


class LiftedScenes:
    """Draws batches of `refiner.training.scenes` and lifts them, in the axes of the virtual cameras.

    A scene is as long as a window of the lifter with its stride. It is cut into windows of ``frames`` neighbouring
    frames, whose ``pose_2d`` are ray features ``(B, T, 17, 6)``. If there are several lifters, they take turns from
    step to step. `scene_length` gives the length of the scenes.
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
    """The length of the scenes from which windows of ``frames`` are cut.

    Raises:
        ConfigError: the lifters see different lengths, or the length is no multiple of ``frames``.
    """
    lengths = {lifter.frames * lifter.stride for lifter in lifters}
    if len(lengths) > 1 or next(iter(lengths)) % frames:
        raise ConfigError(
            f"the lifters see {', '.join(map(str, sorted(lengths)))} frames, the refiner windows of {frames}: expected "
            "lifters of one length that is a multiple of the refiner's"
        )
    return lengths.pop()


def canonical_clip(clip: CameraClip) -> tuple[Array, Array]:
    """Ray features ``(F, 17, 6)`` of a clip, and its true pose ``(F, 17, 3)`` in the axes of the virtual cameras."""
    features, rotation = canonical_pose(*(torch.from_numpy(array)[None] for array in keypoints_and_lens(clip)))
    truth = to_virtual_camera(torch.from_numpy(clip.pose_3d)[None], rotation)
    return features[0].numpy(), truth[0].numpy()
