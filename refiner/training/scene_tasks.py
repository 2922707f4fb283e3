"""Training and validation of lifters that see rays, for any camera."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refiner.camera import Camera
from refiner.data.clips import CameraClip, MotionFolder, camera_clips
from refiner.data.detector import detector_rng
from refiner.data.viewpoints import random_camera
from refiner.data.windows import score_mask, split_windows, tds_phases, window_starts
from refiner.models.canonical import canonical_pose, from_virtual_camera, to_virtual_camera
from refiner.training.config import Config
from refiner.training.scenes import SceneBatch

MILLIMETRES = 1000.0
# Random cameras for each part of a validation clip, the usual length of a part in frames, and the seed.
VALIDATION_CAMERAS, VALIDATION_PART, VALIDATION_SEED = 2, 405, 20261127


@dataclass(frozen=True, eq=False)
class SceneWindows:
    """Validation windows.

    Attributes:
        keypoints: ``(N, T, 17, 3)``, pixels and confidence.
        camera: ``(N, 3)``, width, height and focal length in pixels.
        pose_3d: ``(N, T, 17, 3)`` metres in camera axes, root at 0.
        scored: which frames count, ``(N, T)``.
        group: the kind of camera that sees a window, such as "archive" or "random", ``(N,)``.
    """

    keypoints: NDArray[np.float32] = field(repr=False)
    camera: NDArray[np.float32] = field(repr=False)
    pose_3d: NDArray[np.float32] = field(repr=False)
    scored: NDArray[np.bool_] = field(repr=False)
    group: NDArray[np.str_] = field(repr=False)

    @classmethod
    def of_clips(cls, clips: Iterable[tuple[str, CameraClip]], frames: int, stride: int = 1) -> SceneWindows:
        """Cut pairs ``(group, clip)`` into windows; every frame is scored once.

        The lens is the lens of the clip. Its distortion is not undone.
        """
        keypoints, cameras, poses, scored, groups = [], [], [], [], []
        for group, clip in clips:
            seen, lens = keypoints_and_lens(clip)
            for phase in tds_phases(clip.frames, stride):
                windows = split_windows(seen[phase], frames)
                keypoints.append(windows)
                cameras.append(np.tile(lens, (len(windows), 1)))
                poses.append(split_windows(clip.pose_3d[phase], frames))
                scored.append(score_mask(window_starts(len(phase), frames), frames, len(phase)))
                groups += [group] * len(windows)
        return cls(
            np.concatenate(keypoints),
            np.concatenate(cameras),
            np.concatenate(poses),
            np.concatenate(scored),
            np.array(groups),
        )

    def mpjpe_mm(self, predicted: NDArray[np.float32]) -> dict[str, float]:
        """MPJPE in millimetres with the root at 0, for each group (every frame counts alike) and their mean."""
        relative = predicted - predicted[..., :1, :]
        errors = MILLIMETRES * np.linalg.norm(relative - self.pose_3d, axis=-1).mean(axis=-1)
        by_group = {
            f"{group}_mpjpe_mm": float(errors[self.group == group][self.scored[self.group == group]].mean())
            for group in sorted(set(self.group.tolist()))
        }
        return {"mpjpe_mm": float(np.mean(list(by_group.values()))), **by_group}


def keypoints_and_lens(clip: CameraClip) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The keypoints of a clip ``(F, 17, 3)`` with confidence 1, and its width, height and focal length ``(3,)``.

    The distortion of the lens is not undone.
    """
    assert clip.lens is not None
    sure = np.ones((*clip.pose_2d.shape[:-1], 1), np.float32)
    lens = np.array([*clip.image_size, float(np.mean(clip.lens.focal_length))], np.float32)
    return np.concatenate([clip.pose_2d, sure], axis=-1), lens


def validation_clips(folder: MotionFolder) -> list[tuple[str, CameraClip]]:
    """The validation people, seen by the archive's cameras and by random ones, with simulated detections."""
    people = folder.subjects("validation")
    clips = [("archive", clip) for clip in folder.clips("validation")]
    for person in people:
        for key, world in folder.positions[person].items():
            # Parts of nearly equal length, so that no short part is left over.
            for index, part in enumerate(np.array_split(world, max(1, len(world) // VALIDATION_PART))):
                for view in range(VALIDATION_CAMERAS):
                    rng = detector_rng(VALIDATION_SEED + index, person, key, view)
                    cameras: list[Camera] = [random_camera(part, rng)]
                    seed = VALIDATION_SEED + 1000 * (index + 1) + view
                    seen_clips = camera_clips(
                        {person: {key: part}}, cameras, [person], None, folder.detector, seed, folder.description.fps
                    )
                    clips += [("random", clip) for clip in seen_clips]
    return clips


class RayLifterTask:
    """Trains a lifter that sees rays with the root-relative MPJPE in the axes of the virtual camera.

    The MPJPE is the same as in camera axes.
    """

    def __init__(self, config: Config, model: nn.Module, validation: SceneWindows) -> None:
        self.config, self.model, self.validation = config, model, validation

    def loss(self, windows: SceneBatch, step: int) -> Tensor:
        """The mean distance of the joints from their true positions, metres."""
        return self.loss_of(*self.prepare(windows, step))

    def prepare(self, windows: SceneBatch, step: int) -> tuple[Tensor, ...]:
        """The tensors for `loss_of`, already on the device; see `refiner.training.steps.CapturableTask`."""
        return windows.keypoints, windows.camera, windows.pose_3d

    def loss_of(self, keypoints: Tensor, camera: Tensor, pose_3d: Tensor) -> Tensor:
        """The loss for the tensors of `prepare`."""
        seen, rotation = canonical_pose(keypoints, camera)
        pose = self.model(seen).float()
        error = pose - pose[..., :1, :] - to_virtual_camera(pose_3d, rotation)
        distance: Tensor = torch.linalg.vector_norm(error, dim=-1).mean()
        return distance

    def validate(self, model: nn.Module) -> dict[str, float]:
        """MPJPE for the archive's cameras, for random cameras, and their mean, which chooses the checkpoint."""
        return self.validation.mpjpe_mm(lift_scenes(model, self.validation))

    def extra_tensors(self) -> dict[str, Tensor]:
        """Nothing: a lifter's checkpoint holds only its network."""
        return {}


@torch.no_grad()
def lift_scenes(model: nn.Module, windows: SceneWindows, batch: int = 64) -> NDArray[np.float32]:
    """Run a lifter that sees rays over validation windows -> ``(N, T, 17, 3)`` metres in camera axes, root at 0."""
    device = next(model.parameters()).device
    lifted = []
    for first in range(0, len(windows.camera), batch):
        rows = slice(first, first + batch)
        inputs = (windows.keypoints[rows], windows.camera[rows])
        seen, rotation = canonical_pose(*(torch.from_numpy(array).to(device) for array in inputs))
        pose = model(seen).float()
        lifted.append(from_virtual_camera(pose - pose[..., :1, :], rotation).cpu().numpy())
    return np.concatenate(lifted)
