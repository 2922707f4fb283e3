"""Training windows, drawn on the fly: another view, body and detector error for each, from (seed, step) alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, normalise_screen
from refiner.data.clips import MotionFolder, action_of
from refiner.data.viewpoints import random_camera
from refiner.errors import ConfigError
from refiner.skeleton import flip_pose
from refiner.training import augment
from refiner.training.config import DataConfig

Array = NDArray[np.float32]
SYNTHETIC_PEOPLE = 24
SYNTHETIC_SEED = 1000


@dataclass(frozen=True)
class Windows:
    """A batch: ``pose_2d`` ``(B, T, 17, 2)`` normalised, ``pose_3d`` ``(B, T, 17, 3)`` metres, root at 0.

    ``subjects`` ``(B,)`` says whose they are, which cross-fitting needs. ``lifted`` ``(B, T, 17, 3)``: the poses to
    refine, where they come with the windows instead of from a lifter. ``actions`` ``(B,)``: what is done, where the
    data says it.
    """

    pose_2d: Array
    pose_3d: Array
    subjects: NDArray[np.str_]
    lifted: Array | None = None
    actions: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class _Clip:
    subject: str
    action: str
    world: Array
    cameras: tuple[Camera, ...]


class Sampler(Protocol):
    """Where the batches of a run come from: a function of the step alone."""

    def batch(self, step: int) -> Any: ...


class WindowSampler:
    """Draws batches of windows from the training people of a motion folder.

    ``batch(step)`` depends on the seed and the step alone, so that a resumed run sees what it would have seen.
    Raises ConfigError when no clip is left.
    """

    def __init__(
        self,
        folder: MotionFolder,
        config: DataConfig,
        frames: int,
        batch: int,
        seed: int,
        subjects: Collection[str],
    ) -> None:
        self.config, self.frames, self.size, self.seed = config, frames, batch, seed
        self.detector = folder.detector
        clips: list[_Clip] = []
        weights: list[float] = []
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for subject in subjects:
            cameras = folder.cameras[subject] if isinstance(folder.cameras, dict) else folder.cameras
            for key, world in folder.positions[subject].items():
                if len(world) >= frames:
                    groups[subject, action_of(key)].append(len(clips))
                    clips.append(_Clip(subject, action_of(key), world, tuple(cameras)))  # type: ignore[arg-type]
                    weights.append(float(len(world) - frames + 1))
        if not clips:
            raise ConfigError(f"no clip of {', '.join(subjects)} has {frames} frames")
        share = np.array(weights)
        if config.balance:
            # Square roots: one person's 22,000 frames of salsa must not outweigh eight others, and 200 frames of
            # walking must not be seen a hundred times as often as each of them.
            for members in groups.values():
                share[members] *= share[members].sum() ** -0.5
        share /= share.sum()
        if config.synthetic > 0:
            share *= 1.0 - config.synthetic
            synthetic = _synthetic_clips(frames, clips[0].cameras)
            clips += synthetic
            share = np.append(share, np.full(len(synthetic), config.synthetic / len(synthetic)))
        self._clips, self._share = clips, share

    def batch(self, step: int) -> Windows:
        """The windows of one training step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(len(self._clips), size=self.size, p=self._share)
        world = self._cut(chosen, rng)
        # Draws nothing where it is not asked for, so that runs from before it was there see what they saw.
        if self.config.reverse > 0:
            world = augment.reverse(world, self.config.reverse, rng)
        if self.config.recombine > 0:
            donors = self._cut(rng.choice(len(self._clips), size=self.size, p=self._share), rng)
            world = augment.recombine(world, donors, self.config.recombine, rng)
        world = augment.reshape_bodies(world, self.config.stature, self.config.bones, rng)
        world = augment.turn(world, self.config.turn, rng)
        pose_2d = np.empty((self.size, self.frames, 17, 2), dtype=np.float32)
        pose_3d = np.empty((self.size, self.frames, 17, 3), dtype=np.float32)
        simulated = self.config.detections == "simulated"
        views = [self._clips[index].cameras[rng.integers(len(self._clips[index].cameras))] for index in chosen]
        if self.config.new_cameras > 0:
            for row in np.flatnonzero(rng.random(self.size) < self.config.new_cameras).tolist():
                views[row] = random_camera(world[row], rng)
        pixels = np.empty_like(pose_2d)
        for row, camera in enumerate(views):
            points = camera.to_camera(world[row])
            pose_3d[row] = points - points[:, :1]
            pixels[row] = camera.project(points)
        # Drawn before the detections, so that both kinds of 2D see the same poses.
        mirrored = rng.random(self.size) < self.config.flip
        if simulated:
            pixels = self.detector.detect(pixels, rng)
        for row, camera in enumerate(views):
            pose_2d[row] = normalise_screen(pixels[row], camera.image_size)
        pose_2d[mirrored], pose_3d[mirrored] = flip_pose(pose_2d[mirrored]), flip_pose(pose_3d[mirrored])
        owners, actions = zip(
            *((self._clips[index].subject, self._clips[index].action) for index in chosen), strict=True
        )
        return Windows(pose_2d, pose_3d, np.array(owners), actions=np.array(actions))

    def _cut(self, chosen: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float64]:
        """A window from any place of each chosen clip."""
        world = np.empty((len(chosen), self.frames, 17, 3), dtype=np.float64)
        for row, index in enumerate(chosen):
            clip = self._clips[index].world
            start = rng.integers(0, len(clip) - self.frames + 1)
            world[row] = clip[start : start + self.frames]
        return world


def _synthetic_clips(frames: int, cameras: tuple[Camera, ...]) -> list[_Clip]:
    from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion

    return [
        _Clip("synthetic", action, synthetic_motion(SYNTHETIC_SEED + person, action, max(250, frames)), cameras)
        for person in range(SYNTHETIC_PEOPLE)
        for action in SYNTHETIC_ACTIONS
    ]
