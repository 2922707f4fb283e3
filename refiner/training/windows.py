"""Draw training windows of models of image coordinates; view, body and detection errors are new for every window."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, normalise_screen
from refiner.data.clips import MotionFolder
from refiner.data.training_set import TrainingClip, check_detections, training_clips
from refiner.data.viewpoints import random_camera
from refiner.data.windows import window_span
from refiner.errors import ConfigError
from refiner.skeleton import flip_pose
from refiner.training import augment
from refiner.training.config import DataConfig
from refiner.training.detected import DetectedWindows, DrawnWindows, check_detected, clip_shares

Array = NDArray[np.float32]
SYNTHETIC_PEOPLE = 24
SYNTHETIC_SEED = 1000


@dataclass(frozen=True)
class Windows:
    """A batch of windows.

    Attributes:
        pose_2d: image coordinates ``(B, T, 17, 2)``, or ray features ``(B, T, 17, 6)``.
        pose_3d: the true poses, ``(B, T, 17, 3)`` metres, root at 0.
        subjects: the person of each window ``(B,)``, for cross-fitting.
        lifted: the poses to refine ``(B, T, 17, 3)``, if they come with the windows instead of from a lifter.
        actions: the action of each window ``(B,)``, if the data names it.
    """

    pose_2d: Array
    pose_3d: Array
    subjects: NDArray[np.str_]
    lifted: Array | None = None
    actions: NDArray[np.str_] | None = None


# A lifter of windows: their root-relative poses ``(B, T, 17, 3)``, metres.
Lift = Callable[[Windows], Array]


class Sampler(Protocol):
    """The source of a run's batches: a function of the step alone."""

    def batch(self, step: int) -> Any: ...


class WindowSampler:
    """Draws batches of windows from the training people of a motion folder.

    A window is seen by one of the fixed cameras of its clip, or by a random camera if the clip has none (or if
    ``data.new_cameras`` says so). Its 2D detections are simulated. A share ``data.detected`` of the windows has real
    detections instead. They are played backwards and mirrored like the others, but never rotated, reshaped, recombined
    or seen by new cameras, since the 2D poses from a video would not match.

    ``batch(step)`` depends only on the seed and the step, so that a resumed run sees the same windows.

    Args:
        folder: the motion data.
        config: shares and spreads of the augmentations.
        frames: T.
        batch: windows of a batch.
        seed: of the draws.
        subjects: the training people.
        stride: a window takes every ``stride``-th frame of a clip (temporal downsampling). Clips that are too short
            for such a window are left out.

    Raises:
        ConfigError: no clip is long enough, or ``data.detected`` is wrong.
        ArchiveError: the detections do not fit the motion (`refiner.data.training_set.check_detections`).
        LengthError: a sequence of detections has another length than its motion (likewise).
    """

    def __init__(
        self,
        folder: MotionFolder,
        config: DataConfig,
        frames: int,
        batch: int,
        seed: int,
        subjects: Collection[str],
        stride: int = 1,
    ) -> None:
        self.config, self.frames, self.size, self.seed, self.stride = config, frames, batch, seed, stride
        # Detectors see every frame, so windows are simulated at the rate of the clip, and downsampled last.
        self.span = window_span(frames, stride)
        self.detector = folder.detector
        check_detected(config)
        if config.detected:
            check_detections(folder, subjects)
        every = training_clips(folder, subjects, detected=config.detected > 0)
        clips = [clip for clip in every if len(clip.positions) >= self.span]
        if not clips:
            raise ConfigError(f"no clip of {', '.join(subjects)} has {self.span} frames")
        self._detected = DetectedWindows(clips, config, frames, stride) if config.detected else None
        share = clip_shares(clips, self.span, config.balance)
        if config.synthetic > 0:
            share *= 1.0 - config.synthetic
            synthetic = _synthetic_clips(self.span, next((clip.cameras for clip in clips if clip.cameras), ()))
            clips += synthetic
            share = np.append(share, np.full(len(synthetic), config.synthetic / len(synthetic)))
        self._clips, self._share = clips, share

    def batch(self, step: int) -> Windows:
        """The windows of one training step."""
        rng = np.random.default_rng([self.seed, step])
        if self._detected is None:
            return _finish(self._simulate(self.size, rng))
        real = rng.random(self.size) < self.config.detected
        parts = [
            (rows, draw(int(rows.sum()), rng))
            for rows, draw in ((~real, self._simulate), (real, self._detected.draw))
            if rows.any()
        ]
        pose_2d = np.empty((self.size, self.frames, 17, 2), dtype=np.float32)
        pose_3d = np.empty((self.size, self.frames, 17, 3), dtype=np.float32)
        mirrored = np.empty(self.size, dtype=bool)
        clips: list[TrainingClip] = [self._clips[0]] * self.size
        for rows, drawn in parts:
            pose_2d[rows], pose_3d[rows], mirrored[rows] = drawn.pose_2d, drawn.pose_3d, drawn.mirrored
            for row, clip in zip(np.flatnonzero(rows).tolist(), drawn.clips, strict=True):
                clips[row] = clip
        return _finish(DrawnWindows(pose_2d, pose_3d, tuple(clips), mirrored))

    def _simulate(self, size: int, rng: np.random.Generator) -> DrawnWindows:
        """Windows with simulated detections."""
        chosen = rng.choice(len(self._clips), size=size, p=self._share)
        world = self._cut(chosen, rng)
        # An unused augmentation draws no random numbers, so that runs of older versions get the same windows.
        if self.config.reverse > 0:
            world = augment.reverse(world, self.config.reverse, rng)
        if self.config.recombine > 0:
            donors = self._cut(rng.choice(len(self._clips), size=size, p=self._share), rng)
            world = augment.recombine(world, donors, self.config.recombine, rng)
        world = augment.reshape_bodies(world, self.config.stature, self.config.bones, rng)
        world = augment.turn(world, self.config.turn, rng)
        clips = tuple(self._clips[index] for index in chosen)
        pose_3d = np.empty((size, self.frames, 17, 3), dtype=np.float32)
        simulated = self.config.detections == "simulated"
        views = [clip.cameras[rng.integers(len(clip.cameras))] if clip.cameras else None for clip in clips]
        if self.config.new_cameras > 0:
            for row in np.flatnonzero(rng.random(size) < self.config.new_cameras).tolist():
                views[row] = None
        cameras = [random_camera(world[row], rng) if view is None else view for row, view in enumerate(views)]
        pixels = np.empty((size, self.span, 17, 2), dtype=np.float32)
        for row, camera in enumerate(cameras):
            points = camera.to_camera(world[row])
            pose_3d[row] = (points - points[:, :1])[:: self.stride]
            pixels[row] = camera.project(points)
        # Drawn before the detections, so that simulated and true 2D poses get the same mirroring.
        mirrored = rng.random(size) < self.config.flip
        if simulated:
            pixels = self.detector.detect(pixels, rng)
        pose_2d = np.empty((size, self.frames, 17, 2), dtype=np.float32)
        for row, camera in enumerate(cameras):
            pose_2d[row] = normalise_screen(pixels[row, :: self.stride], camera.image_size)
        return DrawnWindows(pose_2d, pose_3d, clips, mirrored)

    def _cut(self, chosen: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
        """Cut the frames from the first to the last of a window from a random position of each chosen clip.

        Returns:
            ``(B, span, 17, 3)``, with the frames that the stride skips.
        """
        world = np.empty((len(chosen), self.span, 17, 3), dtype=np.float64)
        for row, index in enumerate(chosen):
            clip = self._clips[index].positions
            start = rng.integers(0, len(clip) - self.span + 1)
            world[row] = clip[start : start + self.span]
        return world


def _finish(drawn: DrawnWindows) -> Windows:
    """Mirror the windows that must be mirrored, in place, and build the batch."""
    rows = drawn.mirrored
    drawn.pose_2d[rows], drawn.pose_3d[rows] = flip_pose(drawn.pose_2d[rows]), flip_pose(drawn.pose_3d[rows])
    owners, actions = zip(*((clip.subject, clip.action) for clip in drawn.clips), strict=True)
    return Windows(drawn.pose_2d, drawn.pose_3d, np.array(owners), actions=np.array(actions))


def _synthetic_clips(frames: int, cameras: tuple[Camera, ...]) -> list[TrainingClip]:
    from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion

    return [
        TrainingClip(
            "synthetic", action, action, synthetic_motion(SYNTHETIC_SEED + person, action, max(250, frames)), cameras
        )
        for person in range(SYNTHETIC_PEOPLE)
        for action in SYNTHETIC_ACTIONS
    ]
