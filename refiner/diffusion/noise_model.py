"""The conditional Gaussian of a lifter's error, p(e | x, y_est), frame by frame (D3PRefiner, eq. 5 and 6).

The condition c is the concatenation of the frame's 2D pose (normalised image coordinates) and the lifter's
root-relative 3D pose. The root of a root-relative pose is always 0, so its variance is 0 and S_cc is singular. The fit
therefore leaves out every coordinate that does not vary in the data; the error of such a coordinate is its constant
mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, DTypeLike, NDArray

from refiner.errors import CheckpointError, EmptySequenceError, NonFiniteError, ShapeError

Array = NDArray[np.float64]

# The number of frames per update: small enough for the cache, large enough for an efficient matrix product.
CHUNK_FRAMES = 16384
# A coordinate whose standard deviation is below this (metres, or normalised image coordinates) counts as constant. The
# root's standard deviation is exactly 0.
LEAST_DEVIATION = 1e-9


def condition_vectors(
    pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Concatenate 2D and 3D poses to the conditions c = concat(x, y_est).

    Args:
        pose_2d: ``(..., J, 2)``, normalised.
        noisy_pose_3d: ``(..., J, 3)``, the lifter's poses.
        dtype: The type of the result.

    Returns:
        ``(frames, 5 J)``; the leading axes are flattened.

    Raises:
        ShapeError: The leading axes or the joints differ.
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
    """The joint moments of (c, e) in float64, for any number of frames in constant memory.

    Chunks are merged with the pairwise update of Chan, Golub and LeVeque (1983), which avoids cancellation if the mean
    is large compared with the covariance.
    """

    def __init__(self, joints: int = 17) -> None:
        self.joints = joints
        self.frames = 0
        size = 8 * joints
        self._mean: Array = np.zeros(size)
        self._scatter: Array = np.zeros((size, size))

    def update(self, pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], pose_error: NDArray[Any]) -> None:
        """Add frames.

        Args:
            pose_2d: ``(..., J, 2)``, normalised.
            noisy_pose_3d: The lifter's poses ``(..., J, 3)``, root-relative metres.
            pose_error: The errors of these poses ``(..., J, 3)`` in metres.

        Raises:
            ShapeError: The shapes do not match.
            NonFiniteError: An array holds NaN or infinite values.
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
            mean = chunk.mean(axis=0)
            centred = chunk - mean
            self._merge(len(chunk), mean, centred.T @ centred)

    @classmethod
    def merged(cls, parts: Sequence[ConditionalMoments]) -> ConditionalMoments:
        """The moments of the frames of all ``parts``, which have the same number of joints."""
        whole = cls(parts[0].joints)
        for part in parts:
            if part.frames:
                whole._merge(part.frames, part._mean, part._scatter)
        return whole

    def _merge(self, count: int, mean: Array, scatter: Array) -> None:
        total = self.frames + count
        shift = mean - self._mean
        self._scatter += scatter + np.outer(shift, shift) * (self.frames * count / total)
        self._mean += shift * (count / total)
        self.frames = total

    def condition_moments(self) -> tuple[Array, Array]:
        """Return the mean ``(5 J,)`` and the covariance ``(5 J, 5 J)`` of the conditions so far."""
        split = 5 * self.joints
        return self._mean[:split].copy(), self._scatter[:split, :split] / max(self.frames - 1, 1)

    def finish(self, conditional: bool = True) -> ConditionalGaussian:
        """Compute the Gaussian of eq. 5 and 6 from the moments, with the unbiased covariance.

        Args:
            conditional: If false, the result is the marginal Gaussian of the errors: the gain is 0, and the covariance
                is the covariance of e.

        Raises:
            EmptySequenceError: There are fewer than 2 frames.
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
    """The conditional Gaussian p(e | c) = N(mean_error + gain (c - mean_condition), covariance), eq. 5 and 6.

    All arrays are float64. J is the number of joints, and D = 3 J is the number of error coordinates.

    Attributes:
        mean_error: ``(D,)``, metres.
        mean_condition: ``(5 J,)``.
        gain: ``(D, 5 J)``, S_ec S_cc^-1.
        covariance: ``(D, D)``, square metres; it does not depend on c.
        factor: ``(D, D)``, lower triangular, with factor @ factor.T = covariance. The rows of coordinates that do not
            vary (the root) are 0.
    """

    mean_error: Array
    mean_condition: Array
    gain: Array
    covariance: Array
    factor: Array

    @property
    def joints(self) -> int:
        """J, the number of joints."""
        return len(self.mean_error) // 3

    @classmethod
    def fit(cls, pose_2d: NDArray[Any], noisy_pose_3d: NDArray[Any], pose_error: NDArray[Any]) -> ConditionalGaussian:
        """Fit the Gaussian to frames. Use `ConditionalMoments` for data that do not fit into memory.

        Args:
            pose_2d: ``(..., J, 2)``, normalised.
            noisy_pose_3d: The lifter's poses ``(..., J, 3)``, root-relative metres.
            pose_error: ``noisy_pose_3d`` minus the ground truth, ``(..., J, 3)`` metres.

        Raises:
            ShapeError: The shapes do not match.
            NonFiniteError: An array holds NaN or infinite values.
            EmptySequenceError: There are fewer than 2 frames.
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
        """Compute the Gaussian of eq. 5 and 6 from the joint moments.

        Args:
            mean_condition: ``(5 J,)``.
            mean_error: ``(3 J,)``.
            covariance_condition: S_cc, ``(5 J, 5 J)``.
            covariance_error: S_ee, ``(3 J, 3 J)``.
            covariance_cross: S_ec, ``(3 J, 5 J)``.
        """
        varying_c = np.flatnonzero(np.sqrt(np.diag(covariance_condition)) > LEAST_DEVIATION)
        varying_e = np.flatnonzero(np.sqrt(np.diag(covariance_error)) > LEAST_DEVIATION)
        cross = covariance_cross[np.ix_(varying_e, varying_c)]
        scc = covariance_condition[np.ix_(varying_c, varying_c)]
        # If a condition coordinate is a linear function of others (few frames, a joint midway between two joints), S_cc
        # is singular. The pseudo-inverse then gives the same regression; otherwise it equals S_cc^-1.
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
        """Return the expected error (eq. 5).

        Args:
            pose_2d: ``(..., J, 2)``, normalised.
            noisy_pose_3d: The lifter's poses ``(..., J, 3)``, root-relative metres.

        Returns:
            ``(..., J, 3)`` metres.

        Raises:
            ShapeError: The shapes do not match, or the number of joints differs.
        """
        condition = condition_vectors(pose_2d, noisy_pose_3d)
        self._check_joints(condition)
        expected = self.mean_error + (condition - self.mean_condition) @ self.gain.T
        result: Array = expected.reshape(np.shape(noisy_pose_3d))
        return result

    def centred(self) -> ConditionalGaussian:
        """Return the distribution of the error minus its conditional mean: mean 0 and the same covariance."""
        return replace(self, mean_error=np.zeros_like(self.mean_error), gain=np.zeros_like(self.gain))

    def sample(
        self,
        pose_2d: NDArray[Any],
        noisy_pose_3d: NDArray[Any],
        seed: int = 0,
        first_frame: int = 0,
        threads: int = 0,
    ) -> NDArray[np.float32]:
        """Draw one error for every frame.

        The sample of frame i (with flattened leading axes) depends only on its condition and on
        (seed, first_frame + i). It does not depend on the rest of the batch or on ``threads``.

        Args:
            pose_2d: ``(..., J, 2)``, normalised.
            noisy_pose_3d: The lifter's poses ``(..., J, 3)``, root-relative metres.
            seed: The seed of the generator.
            first_frame: The frame number of the first frame.
            threads: The number of threads; see `refiner.native.p_mpjpe`.

        Returns:
            ``(..., J, 3)`` float32, metres.

        Raises:
            ShapeError: The shapes do not match, or the number of joints differs.
            MissingComponentError: The compiled module is missing.
        """
        from refiner import native  # imported here: the mean and the fit do not need the compiled module

        condition = condition_vectors(pose_2d, noisy_pose_3d, dtype=np.float32)
        self._check_joints(condition)
        drawn = native.sample_conditional(
            condition, **self.kernel_arguments(), seed=seed, first_frame=first_frame, threads=threads
        )
        result: NDArray[np.float32] = drawn.reshape(np.shape(noisy_pose_3d))
        return result

    def kernel_arguments(self) -> dict[str, NDArray[np.float32]]:
        """Return the float32 arrays that `refiner.native.sample_conditional` takes."""
        return {
            "mean_error": self.mean_error.astype(np.float32),
            "mean_condition": self.mean_condition.astype(np.float32),
            "gain": np.ascontiguousarray(self.gain, dtype=np.float32),
            "cholesky": np.ascontiguousarray(self.factor, dtype=np.float32),
        }

    def to_tensors(self) -> dict[str, Array]:
        """Return the arrays by name, for a checkpoint (float64; about 60 kB)."""
        return {
            "mean_error": self.mean_error,
            "mean_condition": self.mean_condition,
            "gain": self.gain,
            "covariance": self.covariance,
            "factor": self.factor,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, ArrayLike]) -> ConditionalGaussian:
        """Make the Gaussian from the arrays of `to_tensors`. Raises CheckpointError for a missing name."""
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
    """Return the lower-triangular L with L L^T = covariance, which may be only positive semi-definite."""
    if not len(covariance):
        return covariance
    try:
        return np.asarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        # With fewer frames than coordinates, rounding makes some eigenvalues 0 or slightly negative. A = V sqrt(w) has
        # A A^T = covariance, and the R of A^T = Q R gives the triangular form.
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        lower: Array = np.asarray(np.linalg.qr(root.T, mode="r")).T
        return lower * np.where(np.diag(lower) < 0.0, -1.0, 1.0)
