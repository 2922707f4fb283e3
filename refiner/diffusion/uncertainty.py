"""How far a refined joint may be off: a standard deviation that varies with the frame, calibrated on ground truth.

The conditional covariance (eq. 6) gives each joint a prior spread, but a constant one, and the lifter's. What varies
with the frame and is known without ground truth: how far the refiner moved the joint (what it had to correct it did not
correct entirely), and how fast the joint moves. The logarithm of a joint's spread is linear in the logarithms of both.

Errors are not Gaussian: nine tenths of them reach twice as far as half of them, where a Gaussian's reach 1.6 times as
far. So the regions that hold half and nine tenths are calibrated too, as multiples of the standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import CheckpointError, ShapeError

# Added to distances before their logarithm, metres: less is noise of the arithmetic and says nothing.
FLOOR_M = 0.002
LEAST_ERROR_M = 1e-4
FEATURES = ("constant", "log correction", "log speed")
SHARES = (0.5, 0.9)
# Where a model says nothing of its errors: a guess, and a Gaussian's regions (square roots of chi-squared quantiles).
DEFAULT_STD_M = 0.05
GAUSSIAN_RADII = (1.5382, 2.5003)


@dataclass(frozen=True, eq=False)
class JointUncertainty:
    """``coefficients`` ``(17, 3)``: of `FEATURES`, for the logarithm of each joint's standard deviation along one axis,
    in metres. ``radii`` ``(17, 2)``: the distance from the refined joint within which half, and nine tenths, of the
    errors lie, in standard deviations. The root's are 0: its error is by definition."""

    coefficients: NDArray[np.float64]
    radii: NDArray[np.float64]

    def std(self, correction: ArrayLike, speed: ArrayLike) -> NDArray[np.float32]:
        """``(..., 17)`` metres the refiner moved each joint, ``(..., 17)`` metres that it moves from one frame of the
        model's rate to the next -> ``(..., 17)`` metres along one axis."""
        spread: NDArray[np.float64] = np.exp((features(correction, speed) * self.coefficients).sum(axis=-1))
        spread[..., 0] = 0.0
        return spread.astype(np.float32)

    @classmethod
    def fit(cls, error: ArrayLike, correction: ArrayLike, speed: ArrayLike) -> JointUncertainty:
        """From ``(N, 17)`` distances to the truth, corrections and speeds, metres.

        Least squares on the logarithms, then each joint scaled so that its standard deviation is that of the errors
        (their root mean square over the square root of 3), and the quantiles of what is left. Raises ShapeError.
        """
        distance = np.asarray(error, dtype=np.float64)
        columns = features(correction, speed)
        if distance.ndim != 2 or len(distance) < 10 or columns.shape != (*distance.shape, len(FEATURES)):
            raise ShapeError(
                f"errors {distance.shape} and features {columns.shape}; expected (N, 17) and (N, 17, 3), N at least 10"
            )
        joints = distance.shape[1]
        coefficients, radii = np.zeros((joints, len(FEATURES))), np.zeros((joints, len(SHARES)))
        for joint in range(1, joints):
            target = np.log(distance[:, joint] + LEAST_ERROR_M)
            coefficients[joint] = np.linalg.lstsq(columns[:, joint], target, rcond=None)[0]
            ratio = distance[:, joint] / np.exp(columns[:, joint] @ coefficients[joint])
            scale = np.sqrt(np.mean(ratio**2) / 3.0)
            coefficients[joint, 0] += np.log(scale)
            radii[joint] = np.quantile(ratio / scale, SHARES)
        return cls(coefficients, radii)

    def coverage(self, error: ArrayLike, std: ArrayLike) -> tuple[float, float]:
        """The shares of ``(N, 17)`` errors inside the regions that should hold half and nine tenths of them, the root
        left out."""
        ratio = np.asarray(error, dtype=np.float64)[:, 1:] / np.asarray(std, dtype=np.float64)[:, 1:]
        half, most = ((ratio <= self.radii[1:, place]).mean() for place in range(len(SHARES)))
        return float(half), float(most)

    def to_config(self) -> dict[str, Any]:
        """For a checkpoint's configuration, from which manifests copy it."""
        return {
            "features": list(FEATURES),
            "coefficients": np.round(self.coefficients, 6).tolist(),
            "radii": np.round(self.radii, 6).tolist(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> JointUncertainty:
        """The inverse; None gives every joint `DEFAULT_STD_M`, a guess. Raises CheckpointError for another form."""
        if config is None:
            constant = np.zeros((17, len(FEATURES)))
            constant[:, 0] = np.log(DEFAULT_STD_M)
            return cls(constant, np.tile(GAUSSIAN_RADII, (17, 1)))
        try:
            coefficients = np.asarray(config["coefficients"], dtype=np.float64)
            radii = np.asarray(config["radii"], dtype=np.float64)
            known = tuple(config["features"]) == FEATURES
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the model's uncertainty cannot be read: {error!r}") from error
        shapes = coefficients.shape, radii.shape
        if not known or shapes != ((17, len(FEATURES)), (17, len(SHARES))) or not np.isfinite(coefficients).all():
            raise CheckpointError(f"the model's uncertainty has not the features {', '.join(FEATURES)} of 17 joints")
        return cls(coefficients, radii)


def features(correction: ArrayLike, speed: ArrayLike) -> NDArray[np.float64]:
    """``(..., 17)`` twice -> ``(..., 17, 3)``."""
    moved, fast = (np.log(np.asarray(values, dtype=np.float64) + FLOOR_M) for values in (correction, speed))
    return np.stack([np.ones_like(moved), moved, fast], axis=-1)
