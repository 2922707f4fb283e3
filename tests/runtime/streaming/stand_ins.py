"""What stands for models where a stream itself is tested."""

from __future__ import annotations

import numpy as np

from refiner.runtime.engine import ModelDefaults
from refiner.runtime.streaming.intake import STANDING

WINDOW = 9


class SmoothingEngine(ModelDefaults):
    """Stands for a refiner: mixes the frames of a window by their place, so that every window says something else."""

    fps, least_batch, largest_batch, inputs, reach = 50.0, 1, 2**31 - 1, None, None
    rays = False

    def __init__(self, frames=WINDOW):
        self.frames, self.calls, self.engine, self.steps = frames, 0, "stand-in", 2
        rng = np.random.default_rng(3)
        self.mixing = rng.dirichlet(np.ones(frames), frames).astype(np.float32)

    def __call__(self, pose_2d, pose_3d, image_size):
        self.calls += 1
        assert pose_2d.shape[1:] == (self.frames, 17, 2) and np.isfinite(pose_2d).all() and np.isfinite(pose_3d).all()
        place = (pose_2d / image_size[:, None, None]).mean(axis=(2, 3))[..., None, None]
        mixed = np.einsum("tf,bfjc->btjc", self.mixing, pose_3d) + 0.01 * place
        mixed[:, :, 0] = 0.0
        return mixed.astype(np.float32)


def motion(frames, seed=0):
    """A body four metres away whose joints tremble, each on its own way, and its picture; seeds side by side."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.02, (frames, 17, 3)).cumsum(axis=0)
    body = STANDING + rng.normal(0, 0.03, (17, 3)) + 0.1 * np.tanh(4 * steps)
    body += np.array([0.7 * (seed % 5) - 1.3, 0.1, 4.0])
    pixels = 1000 * body[..., :2] / body[..., 2:] + np.array([500, 500])
    return pixels.astype(np.float32), body.astype(np.float32)


def stream(refiner, pixels, poses, fps=50.0, begin=0.0):
    found = [
        frame
        for index, (pose_2d, pose_3d) in enumerate(zip(pixels, poses, strict=True))
        for frame in refiner.push(pose_2d, pose_3d, begin + index / fps)
    ]
    return found + refiner.flush()


class OffsetLifter(ModelDefaults):
    """Stands for a lifter: the body follows from the pixels."""

    fps, least_batch, largest_batch = 50.0, 1, 2**31 - 1
    rays = False

    def __init__(self, frames=WINDOW):
        self.frames = frames

    def __call__(self, pose_2d, image_size):
        flat = (pose_2d - pose_2d[..., :1, :]) / image_size[:, None, None, :1]
        lifted = np.concatenate([flat, 0.5 * flat.sum(axis=-1, keepdims=True)], axis=-1)
        return lifted.astype(np.float32)
