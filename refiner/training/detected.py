"""Windows with real detections: a detector's results on the archive's own videos, with the 3D ground truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.camera import normalise_screen
from refiner.data.training_set import TrainingClip
from refiner.data.windows import window_span
from refiner.errors import ConfigError
from refiner.training.config import DataConfig

Array = NDArray[np.float32]


def clip_shares(clips: Sequence[TrainingClip], frames: int, balance: bool) -> NDArray[np.float64]:
    """The probability that a window is cut from each clip; the sum is 1.

    Args:
        clips: the clips, each with a weight.
        frames: the frames of a clip from the first to the last of a window.
        balance: false: every frame counts alike. true: every action of a person counts by the square root of its
            frames. The clip's weight is a factor in both cases.
    """
    share = np.array([float(len(clip.positions) - frames + 1) for clip in clips])
    if balance:
        # Square roots: one person's 22,000 frames of salsa must not outweigh eight others, and 200 frames of
        # walking must not be seen a hundred times as often as each of them.
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index, clip in enumerate(clips):
            groups[clip.subject, clip.action].append(index)
        for members in groups.values():
            share[members] *= share[members].sum() ** -0.5
    share *= np.array([clip.weight for clip in clips])
    return np.asarray(share / share.sum())


@dataclass(frozen=True)
class DrawnWindows:
    """Windows before mirroring.

    Attributes:
        pose_2d: image coordinates, ``(B, T, 17, 2)``.
        pose_3d: ``(B, T, 17, 3)`` metres, root at 0.
        clips: the clip of each window.
        mirrored: which windows are to be mirrored, ``(B,)``.
    """

    pose_2d: Array
    pose_3d: Array
    clips: tuple[TrainingClip, ...]
    mirrored: NDArray[np.bool_]


class DetectedWindows:
    """Draws windows from the clips with real detections, each seen by one of the cameras that recorded it.

    If an augmentation changed the body or the view, the 2D detections would no longer match. So only two augmentations
    apply: playing backwards (``data.reverse``), and mirroring about the middle of the image (``data.flip``, by the
    caller). Rotation, other bodies, recombination and new cameras are for simulated detections only.

    Args:
        clips: the clips.
        config: shares of the augmentations.
        frames: T.
        stride: a window takes every ``stride``-th frame of a clip.

    Raises:
        ConfigError: no clip has detections and enough frames.
    """

    def __init__(self, clips: Sequence[TrainingClip], config: DataConfig, frames: int, stride: int = 1) -> None:
        self.config, self.frames, self.stride = config, frames, stride
        self.span = window_span(frames, stride)
        self._clips = [clip for clip in clips if clip.detections and len(clip.positions) >= self.span]
        if not self._clips:
            raise ConfigError(f"no clip with real detections has {self.span} frames")
        self._share = clip_shares(self._clips, self.span, config.balance)

    def draw(self, size: int, rng: np.random.Generator) -> DrawnWindows:
        """Draw ``size`` windows; their ``mirrored`` says which ones the caller must mirror."""
        chosen = [self._clips[index] for index in rng.choice(len(self._clips), size=size, p=self._share)]
        pose_2d = np.empty((size, self.frames, 17, 2), dtype=np.float32)
        pose_3d = np.empty((size, self.frames, 17, 3), dtype=np.float32)
        for row, clip in enumerate(chosen):
            start = int(rng.integers(len(clip.positions) - self.span + 1))
            view = int(rng.integers(len(clip.cameras)))
            rows, camera = slice(start, start + self.span, self.stride), clip.cameras[view]
            points = camera.to_camera(clip.positions[rows].astype(np.float64))
            pose_3d[row] = points - points[:, :1]
            pose_2d[row] = normalise_screen(clip.detections[view][rows], camera.image_size)
        backwards = rng.random(size) < self.config.reverse
        pose_2d[backwards], pose_3d[backwards] = pose_2d[backwards, ::-1], pose_3d[backwards, ::-1]
        return DrawnWindows(pose_2d, pose_3d, tuple(chosen), rng.random(size) < self.config.flip)


def check_detected(config: DataConfig) -> None:
    """Raise ConfigError if ``data.detected`` is no share, or does not fit ``data.detections``."""
    if not 0.0 <= config.detected <= 1.0:
        raise ConfigError(f"data.detected is {config.detected:g}, expected a share of the windows from 0 to 1")
    if config.detected and config.detections == "ground-truth":
        raise ConfigError("data.detected mixes real detections with simulated ones: data.detections = 'simulated'")
