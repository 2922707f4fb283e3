"""Errors of a trajectory in millimetres."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from refiner_bench.arrays import FloatArray

MILLIMETRES = 1000.0
RESAMPLES, SEED, LEVEL = 2000, 0, 0.95


@dataclass(frozen=True)
class PlaceErrors:
    """Mean errors over frames. The field names are the keys of the JSON report.

    Attributes:
        mrpe: The mean distance of the root from its true place, in mm.
        along: The part of it along the ray from the camera to the root, in mm.
        across: The part across this ray, in mm.
        share: The distance as a share of the distance to the camera, in percent.
        absolute_mpjpe: The mean distance of all joints from their true places, in mm.
        root_acceleration: The mean error of the root's second differences, in mm/frame^2.
    """

    mrpe: float
    along: float
    across: float
    share: float
    absolute_mpjpe: float
    root_acceleration: float


def frame_place_errors(
    pose_3d: FloatArray, truth: FloatArray, joints: Sequence[int] | None = None
) -> dict[str, FloatArray]:
    """The errors of every frame by the fields of `PlaceErrors`, ``(F,)``; accelerations are ``(F - 2,)``.

    Args:
        pose_3d: ``(F, 17, 3)``, metres in camera axes.
        truth: The true poses, ``(F, 17, 3)``.
        joints: The joints of the absolute MPJPE; None takes all.
    """
    chosen = slice(None) if joints is None else list(joints)
    root = truth[:, 0]
    distance = np.linalg.norm(root, axis=-1)
    off = MILLIMETRES * (pose_3d[:, 0] - root)
    ray = root / distance[:, None]
    along = (off * ray).sum(axis=-1)
    error = np.linalg.norm(off, axis=-1)
    everywhere = MILLIMETRES * np.linalg.norm(pose_3d[:, chosen] - truth[:, chosen], axis=-1)
    return {
        "mrpe": error,
        "along": np.abs(along),
        "across": np.linalg.norm(off - along[:, None] * ray, axis=-1),
        "share": 100.0 * error / (MILLIMETRES * distance),
        "absolute_mpjpe": everywhere.mean(axis=-1),
        "root_acceleration": np.linalg.norm(np.diff(off, n=2, axis=0), axis=-1),
    }


def mean_errors(frames: Sequence[dict[str, FloatArray]]) -> PlaceErrors:
    """The mean over all frames of several views."""
    return PlaceErrors(**{name: float(np.concatenate([view[name] for view in frames]).mean()) for name in frames[0]})


def mrpe_interval(frames: Sequence[dict[str, FloatArray]], clips: Sequence[Hashable]) -> tuple[float, float]:
    """The 95 % interval of the MRPE by a bootstrap over whole clips.

    Args:
        frames: The errors of every view.
        clips: The clip of every view; the views of a clip stay together.
    """
    names = {clip: number for number, clip in enumerate(dict.fromkeys(clips))}
    sums, counts = np.zeros((2, len(names)))
    for clip, view in zip(clips, frames, strict=True):
        sums[names[clip]] += view["mrpe"].sum()
        counts[names[clip]] += len(view["mrpe"])
    drawn = np.random.default_rng(SEED).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
