"""A check whether an input resembles the training data of a refiner, from the 2D and 3D poses only.

The check compares two quantities with their distributions over the training windows:

- The Mahalanobis distance of a frame's condition c (eq. 5) from the training frames. It is large for an unusual pose,
  camera, scale or joint order.
- The jitter of the 3D poses. It shows a smoother or noisier estimator, or another frame rate.

Neither quantity uses the ground truth, so a familiar input can still be wrong. An input that is very different from the
training data should not be refined, or needs a refiner trained for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.diffusion.noise_model import condition_vectors
from refiner.errors import CheckpointError, EmptySequenceError

Array = NDArray[np.float64]

QUANTILES = np.linspace(0.0, 1.0, 101)
# Directions in which the training conditions hardly vary (the root, joints midway between others) are not used. The
# limit is a fraction of the largest variance.
LEAST_SHARE = 1e-6
# A frame is unusual if its distance exceeds this percentile of the training frames; 1 % of the training frames do.
UNUSUAL = 99
# The limits for a warning. They were chosen from the transfer rows of the accuracy study; see its report.
LARGEST_UNUSUAL_SHARE = 0.25
LARGEST_JITTER_RATIO = 3.0


@dataclass(frozen=True)
class Familiarity:
    """The comparison of an input with the training data.

    Attributes:
        unusual_share: The fraction of frames whose distance exceeds the distance of 99 % of the training frames.
        jitter_ratio: The median jitter of the input divided by the median jitter of the training poses. NaN for fewer
            than three frames and for models of rays.
    """

    unusual_share: float
    jitter_ratio: float

    @property
    def warnings(self) -> list[str]:
        """One message per quantity outside its limits; empty for a familiar input."""
        messages = []
        if self.unusual_share > LARGEST_UNUSUAL_SHARE:
            messages.append(
                f"{100 * self.unusual_share:.0f} % of the frames are unlike the training frames (1 % of those are): "
                "another joint order, scale, camera or kind of pose"
            )
        if self.jitter_ratio > LARGEST_JITTER_RATIO or self.jitter_ratio < 1.0 / LARGEST_JITTER_RATIO:
            messages.append(
                f"the 3D poses shake {self.jitter_ratio:.2g} times as much as in training: another estimator, filter "
                "or frame rate"
            )
        return messages


def merge_familiarity(parts: Sequence[tuple[int, Familiarity]]) -> Familiarity | None:
    """Average the comparisons of several sequences, weighted by frames.

    Args:
        parts: Pairs (number of frames, comparison).

    Returns:
        The average; None if ``parts`` is empty.
    """
    if not parts:
        return None
    frames = np.array([count for count, _ in parts], dtype=np.float64)
    share = np.array([entry.unusual_share for _, entry in parts])
    ratio = np.array([entry.jitter_ratio for _, entry in parts])
    known = np.isfinite(ratio)
    merged = float(np.average(ratio[known], weights=frames[known])) if known.any() else float("nan")
    return Familiarity(float(np.average(share, weights=frames)), merged)


def jitter(pose_3d: NDArray[Any]) -> Array:
    """Compute the mean length of the joints' second differences.

    Args:
        pose_3d: ``(..., F, J, 3)`` metres.

    Returns:
        ``(..., F - 2)`` metres/frame^2.
    """
    pose = np.asarray(pose_3d, dtype=np.float64)
    second = pose[..., 2:, :, :] - 2.0 * pose[..., 1:-1, :, :] + pose[..., :-2, :, :]
    length: Array = np.linalg.norm(second, axis=-1).mean(axis=-1)
    return length


@dataclass(frozen=True, eq=False)
class InputModel:
    """The distribution of a refiner's training inputs.

    Attributes:
        mean: The mean of the condition c, ``(C,)``.
        whitener: A matrix ``(R, C)``. It whitens c - mean, where R is the number of directions that vary.
        distance_quantiles: The quantiles 0 %, 1 %, ..., 100 % of the distance, ``(101,)``.
        jitter_quantiles: The same quantiles of the jitter, ``(101,)``.
    """

    mean: Array
    whitener: Array
    distance_quantiles: Array
    jitter_quantiles: Array

    @classmethod
    def fit(cls, mean: Array, covariance: Array, pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> InputModel:
        """Fit the model to training windows.

        Args:
            mean: The mean of the condition c, ``(C,)``.
            covariance: The covariance of c, ``(C, C)``.
            pose_2d: ``(N, T, J, 2)``, normalised.
            pose_3d: ``(N, T, J, 3)`` metres, root-relative.
        """
        values, vectors = np.linalg.eigh(covariance)
        varying = values > LEAST_SHARE * values.max()
        whitener = (vectors[:, varying] / np.sqrt(values[varying])).T
        unfinished = cls(mean, whitener, QUANTILES, QUANTILES)
        distances = unfinished.distance(pose_2d, pose_3d)
        return cls(mean, whitener, np.quantile(distances, QUANTILES), np.quantile(jitter(pose_3d), QUANTILES))

    def distance(self, pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> Array:
        """Return the root mean square of the whitened coordinates of c, ``(frames,)``; about 1 on training frames."""
        white = (condition_vectors(pose_2d, pose_3d) - self.mean) @ self.whitener.T
        distance: Array = np.sqrt(np.mean(white**2, axis=1))
        return distance

    def compare(self, pose_2d: NDArray[Any], pose_3d: NDArray[Any], shaking: bool = True) -> Familiarity:
        """Compare a sequence at the model's frame rate with the training data.

        Args:
            pose_2d: ``(F, J, 2)``, normalised.
            pose_3d: ``(F, J, 3)`` metres, root-relative.
            shaking: Compare the jitter, too. If false, the ratio is NaN. Windows that take every third frame need this,
                because their second differences show the motion and not the jitter.

        Raises:
            EmptySequenceError: There are no frames.
            ShapeError: See `condition_vectors`.
        """
        if not len(pose_2d):
            raise EmptySequenceError("there are no frames to compare with the training data")
        unusual = self.distance(pose_2d, pose_3d) > self.distance_quantiles[UNUSUAL]
        jitters = jitter(pose_3d) if shaking else ()
        ratio = float(np.median(jitters) / self.jitter_quantiles[50]) if len(jitters) else float("nan")
        return Familiarity(float(unusual.mean()), ratio)

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays by name, for a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, ArrayLike]) -> InputModel:
        """Make the model from the arrays of `to_tensors`. Raises CheckpointError for a missing name."""
        try:
            return cls(**{name: np.asarray(tensors[name], dtype=np.float64) for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise CheckpointError(f"the checkpoint's model of its inputs lacks {error}") from error
