"""An archive of synthetic motion for measurements: a folder with one .npz for each sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.archive.sequences import Stated
from refiner.data.synthetic.archive import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.data.synthetic.body import turn_z

FPS = 50.0
SIDE, FOCAL = 1000.0, 1145.0
# What the files do not say about themselves.
STATED = Stated(fps=FPS, joints="h36m17", image_size=(SIDE, SIDE), focal_length=(FOCAL,))
# The sequences are views of this many motions: more would take minutes to make and nothing to refine.
MOTIONS = 40
HEIGHT_M, DISTANCE_M = 0.9, 4.0
# The errors of an estimator, alike in size.
NOISE_PX, NOISE_M = 3.0, 0.03


def make_archive(folder: Path, sequences: int, frames: int, advance: Callable[[], None] = lambda: None) -> None:
    """Write an archive: each sequence is a motion, seen from another side, with 2D and 3D poses and their errors.

    Args:
        folder: is made.
        sequences: how many there are.
        frames: of each.
        advance: called after each sequence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    motions = [
        synthetic_motion(seed, SYNTHETIC_ACTIONS[seed % len(SYNTHETIC_ACTIONS)], frames, FPS)
        for seed in range(min(MOTIONS, sequences))
    ]
    for number in range(sequences):
        pose_2d, pose_3d = _seen(motions[number % len(motions)], rng)
        np.savez(folder / f"sequence-{number:06d}.npz", pose_2d=pose_2d, pose_3d=pose_3d)
        advance()


def _seen(world: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pixels ``(F, 17, 2)`` and metres ``(F, 17, 3)`` of a motion ``(F, 17, 3)``, by an estimator."""
    turned = world @ turn_z(rng.uniform(0.0, 2.0 * np.pi)).T
    camera = np.stack([turned[..., 0], HEIGHT_M - turned[..., 2], turned[..., 1] + DISTANCE_M], axis=-1)
    pixels = SIDE / 2 + FOCAL * camera[..., :2] / camera[..., 2:]
    return (
        (pixels + rng.normal(0, NOISE_PX, pixels.shape)).astype(np.float32),
        (camera + rng.normal(0, NOISE_M, camera.shape)).astype(np.float32),
    )


def bytes_of(folder: Path, pattern: str = "*") -> int:
    """The bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())
