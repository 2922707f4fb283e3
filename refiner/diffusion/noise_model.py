"""The conditional Gaussian of a lifter's error, eq. 5 and 6: p(e | x, y_est), one frame at a time.

The condition c is the frame's 2D pose (normalised screen coordinates) and the lifter's root-relative 3D pose,
concatenated. The root of a root-relative pose is always 0, so its variance is 0 and S_cc is singular there:
every coordinate that does not vary in the data is left out of the fit, and its error is its constant mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from refiner.errors import CheckpointError, EmptySequenceError, NonFiniteError, ShapeError

Array = NDArray[np.float64]

# Frames per update: small enough for the cache, large enough for the matrix product.
CHUNK_FRAMES = 16384
# A coordinate whose standard deviation is below this (metres, screen units) does not vary: the root's is exactly 0.
LEAST_DEVIATION = 1e-9


def condition_vectors(pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], dtype: Any = np.float64) -> NDArray[Any]:
    """c = concat(x, y_est): ``(..., J, 2)`` and ``(..., J, 3)`` -> ``(frames, 5 J)``, leading axes flattened.

    Raises ShapeError when the two do not belong together.
    """
    pose_2d, noisy_pose_3d = np.asarray(pose_2d), np.asarray(noisy_pose_3d)
    if pose_2d.ndim < 2 or pose_2d.shape[-1] != 2 or noisy_pose_3d.shape != (*pose_2d.shape[:-1], 3):
        raise ShapeError(
            "expected pose_2d (..., joints, 2) and noisy_pose_3d (..., joints, 3) with equal leading axes, "
            f"got {pose_2d.shape} and {noisy_pose_3d.shape}"
        )
    joints = pose_2d.shape[-2]
    flat = np.empty((int(np.prod(pose_2d.shape[:-2], dtype=np.int64)), 5 * joints), dtype=dtype)
    flat[:, : 2 * joints] = pose_2d.reshape(-1, 2 * joints)
    flat[:, 2 * joints :] = noisy_pose_3d.reshape(-1, 3 * joints)
    return flat


class ConditionalMoments:
    """Streaming joint moments of (c, e) in float64: any number of frames, constant memory.

    Chunks are merged by the pairwise update of Chan, Golub and LeVeque (1983), so that a large mean does not
    cancel the covariance.
    """

    def __init__(self, joints: int = 17) -> None:
        self.joints = joints
        self.frames = 0
        size = 8 * joints
        self._mean: Array = np.zeros(size)
        self._scatter: Array = np.zeros((size, size))

    def update(self, pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], pose_error: NDArray[Any]) -> None:
        """Add frames: ``(..., J, 2)`` normalised, ``(..., J, 3)`` and ``(..., J, 3)`` metres.

        Raises ShapeError and NonFiniteError.
        """
        condition = condition_vectors(pose_2d, noisy_pose_3d)
        error = np.asarray(pose_error, dtype=np.float64)
        if np.shape(pose_error) != np.shape(noisy_pose_3d) or condition.shape[1] != 5 * self.joints:
            raise ShapeError(
                f"expected pose_error {np.shape(noisy_pose_3d)} with {self.joints} joints, got {error.shape}"
            )
        error = error.reshape(-1, 3 * self.joints)
        for start in range(0, len(error), CHUNK_FRAMES):
            rows = slice(start, start + CHUNK_FRAMES)
            chunk = np.concatenate([condition[rows], error[rows]], axis=1)
            if not np.isfinite(chunk).all():
                raise NonFiniteError("the noise model cannot be fitted on poses that hold NaN or infinite values")
            self._merge(chunk)

    def _merge(self, chunk: Array) -> None:
        count = len(chunk)
        mean = chunk.mean(axis=0)
        centred = chunk - mean
        total = self.frames + count
        shift = mean - self._mean
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self.frames * count / total)
        self._mean += shift * (count / total)
        self.frames = total

    def condition_moments(self) -> tuple[Array, Array]:
        """Mean and covariance of the conditions so far, ``(5 J,)`` and ``(5 J, 5 J)``."""
        split = 5 * self.joints
        return self._mean[:split].copy(), self._scatter[:split, :split] / max(self.frames - 1, 1)

    def finish(self, conditional: bool = True) -> ConditionalGaussian:
        """The Gaussian of eq. 5 and 6 from the moments (unbiased covariance). Raises EmptySequenceError.

        With ``conditional=False`` that of all errors alike: no gain, the covariance of e.
        """
        if self.frames < 2:
            raise EmptySequenceError(f"the noise model needs at least 2 frames, got {self.frames}")
        split = 5 * self.joints
        covariance = self._scatter / (self.frames - 1)
        return ConditionalGaussian.from_moments(
            mean_condition=self._mean[:split],
            mean_error=self._mean[split:],
            covariance_condition=covariance[:split, :split],
            covariance_error=covariance[split:, split:],
            covariance_cross=covariance[split:, :split] * float(conditional),
        )


@dataclass(frozen=True)
class ConditionalGaussian:
    """p(e | c) = N(mean_error + gain (c - mean_condition), covariance), eq. 5 and 6.

    Attributes, all float64 (J joints, D = 3 J error and 5 J condition coordinates):
        mean_error: ``(D,)``, metres. mean_condition: ``(5 J,)``. gain: ``(D, 5 J)``, S_ec S_cc^-1.
        covariance: ``(D, D)``, square metres, the same for every c. factor: ``(D, D)`` lower triangular with
        factor @ factor.T = covariance; the rows of coordinates that do not vary (the root) are 0.
    """

    mean_error: Array
    mean_condition: Array
    gain: Array
    covariance: Array
    factor: Array

    @property
    def joints(self) -> int:
        return len(self.mean_error) // 3

    @classmethod
    def fit(cls, pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], pose_error: NDArray[Any]) -> ConditionalGaussian:
        """Fit on frames: normalised 2D ``(..., J, 2)``, the lifter's 3D and its error ``(..., J, 3)`` in metres.

        pose_error = noisy_pose_3d - ground truth. For data that do not fit in memory use `ConditionalMoments`.
        Raises ShapeError, NonFiniteError, EmptySequenceError.
        """
        moments = ConditionalMoments(joints=np.shape(pose_2d)[-2] if np.ndim(pose_2d) >= 2 else 0)
        moments.update(pose_2d, noisy_pose_3d, pose_error)
        return moments.finish()

    @classmethod
    def from_moments(
        cls,
        mean_condition: Array,
        mean_error: Array,
        covariance_condition: Array,
        covariance_error: Array,
        covariance_cross: Array,
    ) -> ConditionalGaussian:
        """Eq. 5 and 6 from the joint moments; ``covariance_cross`` is S_ec, ``(3 J, 5 J)``."""
        varying_c = np.flatnonzero(np.sqrt(np.diag(covariance_condition)) > LEAST_DEVIATION)
        varying_e = np.flatnonzero(np.sqrt(np.diag(covariance_error)) > LEAST_DEVIATION)
        cross = covariance_cross[np.ix_(varying_e, varying_c)]
        scc = covariance_condition[np.ix_(varying_c, varying_c)]
        # A condition that is a linear function of others (few frames, a joint midway between two others) leaves
        # S_cc singular; the pseudo-inverse then gives the same regression, and equals S_cc^-1 otherwise.
        gain_core = cross @ scipy.linalg.pinvh(scc) if len(varying_c) else np.zeros(cross.shape)
        core = covariance_error[np.ix_(varying_e, varying_e)] - gain_core @ cross.T
        core = (core + core.T) / 2.0
        size_e, size_c = len(mean_error), len(mean_condition)
        gain, covariance, factor = np.zeros((size_e, size_c)), np.zeros((size_e, size_e)), np.zeros((size_e, size_e))
        gain[np.ix_(varying_e, varying_c)] = gain_core
        covariance[np.ix_(varying_e, varying_e)] = core
        factor[np.ix_(varying_e, varying_e)] = lower_factor(core)
        return cls(mean_error.copy(), mean_condition.copy(), gain, covariance, factor)

    def mean(self, pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any]) -> Array:
        """Eq. 5: the expected error ``(..., J, 3)`` in metres for normalised 2D and the lifter's 3D poses."""
        condition = condition_vectors(pose_2d, noisy_pose_3d)
        self._check_joints(condition)
        expected = self.mean_error + (condition - self.mean_condition) @ self.gain.T
        result: Array = expected.reshape(np.shape(noisy_pose_3d))
        return result

    def centred(self) -> ConditionalGaussian:
        """What is left when the conditional mean is known and taken off: mean 0, the same covariance."""
        return replace(self, mean_error=np.zeros_like(self.mean_error), gain=np.zeros_like(self.gain))

    def sample(
        self,
        pose_2d: NDArray[Any],
        noisy_pose_3d: NDArray[Any],
        seed: int = 0,
        first_frame: int = 0,
        threads: int = 0,
    ) -> NDArray[np.float32]:
        """Draw one error ``(..., J, 3)`` in metres for every frame, float32.

        The sample of frame i (leading axes flattened) depends on its condition and on (seed, first_frame + i)
        alone: not on the batch around it, nor on ``threads``.
        """
        from refiner import native  # the mean and the fit need no compiled part

        condition = condition_vectors(pose_2d, noisy_pose_3d, dtype=np.float32)
        self._check_joints(condition)
        drawn = native.sample_conditional(
            condition, **self.kernel_arguments(), seed=seed, first_frame=first_frame, threads=threads
        )
        result: NDArray[np.float32] = drawn.reshape(np.shape(noisy_pose_3d))
        return result

    def kernel_arguments(self) -> dict[str, NDArray[np.float32]]:
        """The fitted numbers as the float32 arrays that `refiner.native.sample_conditional` takes."""
        return {
            "mean_error": self.mean_error.astype(np.float32),
            "mean_condition": self.mean_condition.astype(np.float32),
            "gain": np.ascontiguousarray(self.gain, dtype=np.float32),
            "cholesky": np.ascontiguousarray(self.factor, dtype=np.float32),
        }

    def to_tensors(self) -> dict[str, Array]:
        """Named arrays for a checkpoint (float64; about 60 kB)."""
        return {
            "mean_error": self.mean_error,
            "mean_condition": self.mean_condition,
            "gain": self.gain,
            "covariance": self.covariance,
            "factor": self.factor,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> ConditionalGaussian:
        """The inverse of `to_tensors`. Raises CheckpointError for a missing name."""
        try:
            arrays = {name: np.asarray(tensors[name], dtype=np.float64) for name in cls.__dataclass_fields__}
        except KeyError as error:
            raise CheckpointError(f"the checkpoint's noise model lacks {error}") from error
        return cls(**arrays)

    def _check_joints(self, condition: NDArray[Any]) -> None:
        if condition.shape[1] != len(self.mean_condition):
            raise ShapeError(
                f"the noise model was fitted on {self.joints} joints, the poses have {condition.shape[1] // 5}"
            )


def lower_factor(covariance: Array) -> Array:
    """Lower-triangular L with L L^T = covariance; also for a covariance that is only positive semi-definite."""
    if not len(covariance):
        return covariance
    try:
        return np.asarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        # Fewer frames than coordinates: rounding leaves eigenvalues at or just below 0. A = V sqrt(w) has
        # A A^T = covariance, and the R of A^T = Q R gives the triangular form.
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        lower: Array = np.asarray(np.linalg.qr(root.T, mode="r")).T
        return lower * np.where(np.diag(lower) < 0.0, -1.0, 1.0)
