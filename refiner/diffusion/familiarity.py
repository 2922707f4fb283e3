"""Whether an input looks like what a refiner was trained on, told from the 2D and 3D poses alone.

Two numbers, each compared with its distribution over the training windows: how far a frame's pair of poses lies from
the training pairs (Mahalanobis distance of eq. 5's condition c: a strange pose, camera, scale or joint order), and how
much the 3D poses shake (a smoother or rougher estimator, another frame rate). Neither knows the ground truth: a
familiar input can still be wrong, but what is far outside is better left alone or given a refiner of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.noise_model import condition_vectors
from refiner.errors import CheckpointError, EmptySequenceError

Array = NDArray[np.float64]

QUANTILES = np.linspace(0.0, 1.0, 101)
# Directions in which the training conditions hardly vary (the root, joints midway between others) say nothing.
LEAST_SHARE = 1e-6
# A frame is unusual beyond the training frames' 99th percentile; 1 % of them are.
UNUSUAL = 99
# What is warned of: found by scoring the study's transfer rows, see the accuracy report.
LARGEST_UNUSUAL_SHARE = 0.25
LARGEST_JITTER_RATIO = 3.0


@dataclass(frozen=True)
class Familiarity:
    """``unusual_share``: share of the frames that are further out than 99 % of the training frames. ``jitter_ratio``:
    the median of how much the poses shake over that of the training; NaN for fewer than three frames and for models of
    rays."""

    unusual_share: float
    jitter_ratio: float

    @property
    def warnings(self) -> list[str]:
        """What is outside, in words; empty for a familiar input."""
        found = []
        if self.unusual_share > LARGEST_UNUSUAL_SHARE:
            found.append(
                f"{100 * self.unusual_share:.0f} % of the frames are unlike the training frames (1 % of those are): "
                "another joint order, scale, camera or kind of pose"
            )
        if self.jitter_ratio > LARGEST_JITTER_RATIO or self.jitter_ratio < 1.0 / LARGEST_JITTER_RATIO:
            found.append(
                f"the 3D poses shake {self.jitter_ratio:.2g} times as much as in training: another estimator, filter "
                "or frame rate"
            )
        return found


def merge_familiarity(parts: Sequence[tuple[int, Familiarity]]) -> Familiarity | None:
    """That of several sequences ``(frames, Familiarity)``, frame by frame; None for none."""
    if not parts:
        return None
    frames = np.array([count for count, _ in parts], dtype=np.float64)
    share = np.array([entry.unusual_share for _, entry in parts])
    ratio = np.array([entry.jitter_ratio for _, entry in parts])
    known = np.isfinite(ratio)
    merged = float(np.average(ratio[known], weights=frames[known])) if known.any() else float("nan")
    return Familiarity(float(np.average(share, weights=frames)), merged)


def jitter(pose_3d: NDArray[Any]) -> Array:
    """Mean length of the joints' second differences, ``(..., F, J, 3)`` metres -> ``(..., F - 2)`` metres/frame^2."""
    pose = np.asarray(pose_3d, dtype=np.float64)
    second = pose[..., 2:, :, :] - 2.0 * pose[..., 1:-1, :, :] + pose[..., :-2, :, :]
    length: Array = np.linalg.norm(second, axis=-1).mean(axis=-1)
    return length


@dataclass(frozen=True, eq=False)
class InputModel:
    """What the training inputs looked like: c's mean ``(C,)``, a whitener ``(R, C)``, and 101 quantiles each."""

    mean: Array
    whitener: Array
    distance_quantiles: Array
    jitter_quantiles: Array

    @classmethod
    def fit(cls, mean: Array, covariance: Array, pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> InputModel:
        """From c's moments, and training windows ``(N, T, J, 2)`` normalised and ``(N, T, J, 3)`` root-relative."""
        values, vectors = np.linalg.eigh(covariance)
        kept = values > LEAST_SHARE * values.max()
        whitener = (vectors[:, kept] / np.sqrt(values[kept])).T
        unfinished = cls(mean, whitener, QUANTILES, QUANTILES)
        distances = unfinished.distance(pose_2d, pose_3d)
        return cls(mean, whitener, np.quantile(distances, QUANTILES), np.quantile(jitter(pose_3d), QUANTILES))

    def distance(self, pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> Array:
        """Root mean square of the whitened coordinates of c: about 1 on training frames; ``(frames,)``."""
        white = (condition_vectors(pose_2d, pose_3d) - self.mean) @ self.whitener.T
        distance: Array = np.sqrt(np.mean(white**2, axis=1))
        return distance

    def compare(self, pose_2d: NDArray[Any], pose_3d: NDArray[Any], shaking: bool = True) -> Familiarity:
        """A sequence ``(F, J, 2)`` normalised and ``(F, J, 3)`` root-relative metres, at the model's frame rate.

        ``shaking`` False leaves the jitter out, as NaN: windows of every third frame shake by their motion.

        Raises EmptySequenceError for no frames, ShapeError as `condition_vectors`.
        """
        if not len(pose_2d):
            raise EmptySequenceError("there are no frames to compare with the training's")
        unusual = self.distance(pose_2d, pose_3d) > self.distance_quantiles[UNUSUAL]
        shakes = jitter(pose_3d) if shaking else ()
        ratio = float(np.median(shakes) / self.jitter_quantiles[50]) if len(shakes) else float("nan")
        return Familiarity(float(unusual.mean()), ratio)

    def to_tensors(self) -> dict[str, Array]:
        """Named arrays for a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> InputModel:
        """The inverse of `to_tensors`. Raises CheckpointError for a missing name."""
        try:
            return cls(**{name: np.asarray(tensors[name], dtype=np.float64) for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise CheckpointError(f"the checkpoint's model of its inputs lacks {error}") from error
