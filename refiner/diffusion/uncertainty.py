"""The uncertainty of a refined joint: a standard deviation that varies with the frame, calibrated on ground truth.

The conditional covariance (eq. 6) gives each joint a constant standard deviation, of the lifter's error. Two quantities
vary with the frame and are known without ground truth: the distance by which the refiner moved the joint (a large error
is not corrected completely), and the speed of the joint. The model is linear: the logarithm of the standard deviation
is a linear function of the logarithms of these two quantities.

The errors are not Gaussian: the radius that contains 90 % of them is twice the radius that contains 50 %, but for a
Gaussian it is 1.6 times. The radii of the 50 % and 90 % regions are therefore calibrated too, as multiples of the
standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.diffusion.unseen import DEFAULT_UNSEEN, UnseenSpread
from refiner.errors import CheckpointError, ShapeError

# Added to distances in metres before their logarithm. Smaller distances are numerical noise.
FLOOR_M = 0.002
LEAST_ERROR_M = 1e-4
FEATURES = ("constant", "log correction", "log speed")
SHARES = (0.5, 0.9)
# For a model without calibrated uncertainty: a guess, and the radii of a Gaussian (square roots of chi-squared
# quantiles).
DEFAULT_STD_M = 0.05
GAUSSIAN_RADII = (1.5382, 2.5003)


@dataclass(frozen=True, eq=False)
class JointUncertainty:
    """The uncertainty model of the 17 joints.

    Attributes:
        coefficients: ``(17, 3)``, the coefficients of `FEATURES` for the logarithm of each joint's standard deviation
            along one axis, in metres.
        radii: ``(17, 2)``, the distances from the refined joint that contain 50 % and 90 % of the errors, in standard
            deviations. The values of the root are 0, because its error is 0 by definition.
        unseen: what is added for joints that were not seen.
    """

    coefficients: NDArray[np.float64]
    radii: NDArray[np.float64]
    unseen: UnseenSpread = field(default=DEFAULT_UNSEEN)

    def std(self, correction: ArrayLike, speed: ArrayLike) -> NDArray[np.float32]:
        """Return the standard deviation of each joint along one axis.

        Args:
            correction: ``(..., 17)`` metres, the distance by which the refiner moved each joint.
            speed: ``(..., 17)`` metres, the motion of each joint from one frame at the model's frame rate to the next.

        Returns:
            ``(..., 17)`` float32 metres.
        """
        spread: NDArray[np.float64] = np.exp((features(correction, speed) * self.coefficients).sum(axis=-1))
        spread[..., 0] = 0.0
        return spread.astype(np.float32)

    @classmethod
    def fit(cls, error: ArrayLike, correction: ArrayLike, speed: ArrayLike) -> JointUncertainty:
        """Fit the model to errors.

        The fit is least squares on the logarithms. Then each joint's standard deviation is scaled to the standard
        deviation of its errors (their root mean square divided by the square root of 3). The radii are quantiles of the
        errors divided by this standard deviation.

        Args:
            error: ``(N, 17)`` metres, the distances to the ground truth.
            correction: ``(N, 17)`` metres; see `std`.
            speed: ``(N, 17)`` metres; see `std`.

        Raises:
            ShapeError: The arrays have other shapes, or N is below 10.
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

    def widened(self, std: ArrayLike, unseen_s: ArrayLike) -> NDArray[np.float32]:
        """The standard deviation of joints of which some are guessed.

        Args:
            std: ``(..., 17)`` metres, the result of `std`.
            unseen_s: ``(..., 17)``, see `UnseenSpread.added`.
        """
        return self.unseen.widened(std, unseen_s)

    def coverage(self, error: ArrayLike, std: ArrayLike) -> tuple[float, float]:
        """Return the fractions of errors inside the 50 % and 90 % regions, without the root.

        Args:
            error: ``(N, 17)`` metres, the distances to the ground truth.
            std: ``(N, 17)`` metres, the result of `std`.
        """
        ratio = np.asarray(error, dtype=np.float64)[:, 1:] / np.asarray(std, dtype=np.float64)[:, 1:]
        half, most = ((ratio <= self.radii[1:, index]).mean() for index in range(len(SHARES)))
        return float(half), float(most)

    def to_config(self) -> dict[str, Any]:
        """Return the model as a section of a checkpoint's configuration; manifests copy this section."""
        config: dict[str, Any] = {
            "features": list(FEATURES),
            "coefficients": np.round(self.coefficients, 6).tolist(),
            "radii": np.round(self.radii, 6).tolist(),
        }
        return config if self.unseen is DEFAULT_UNSEEN else {**config, "unseen": self.unseen.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> JointUncertainty:
        """Read the section that `to_config` wrote.

        For None, every joint has the standard deviation `DEFAULT_STD_M`, which is a guess. Raises CheckpointError if
        the section has another form.
        """
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
            raise CheckpointError(
                f"the model's uncertainty does not have the features {', '.join(FEATURES)} for 17 joints"
            )
        return cls(coefficients, radii, UnseenSpread.from_config(config.get("unseen")))


def features(correction: ArrayLike, speed: ArrayLike) -> NDArray[np.float64]:
    """Compute `FEATURES` from corrections and speeds in metres: ``(..., 17)`` twice -> ``(..., 17, 3)``."""
    log_correction, log_speed = (
        np.log(np.asarray(values, dtype=np.float64) + FLOOR_M) for values in (correction, speed)
    )
    return np.stack([np.ones_like(log_correction), log_correction, log_speed], axis=-1)
