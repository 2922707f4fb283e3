"""The correlation of a lifter's error over the frames of a window. Eq. 6 models only the covariance within a frame.

The paper draws the errors of different frames independently. The error of a real lifter changes slowly, and independent
errors teach a denoiser little more than averaging over time. This module therefore mixes the draws of a window,
Z -> L Z, with the factor L of a correlation matrix over frames. Together with the factor of eq. 6, this is a
matrix-normal distribution. Its covariance within a frame is still the covariance of eq. 6.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.noise_model import lower_factor
from refiner.errors import ShapeError, TrainingError

TimeModel = Literal["white", "ar1", "full"]


class TemporalMoments:
    """The average of r_s r_t over windows and coordinates, for standardised residuals r = e - mean(c).

    Windows are added in parts, so that they do not need to be in memory together.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._products = np.zeros((frames, frames))

    def update(self, residual: NDArray[Any], deviation: NDArray[Any]) -> None:
        """Add residuals.

        Args:
            residual: ``(N, T, D)`` metres.
            deviation: The standard deviation of each coordinate, ``(D,)``. A coordinate of deviation 0 (the root's) is
                not used.

        Raises:
            ShapeError: The arrays have other shapes.
        """
        if residual.ndim != 3 or residual.shape[1] != self.frames or residual.shape[2:] != deviation.shape:
            raise ShapeError(
                f"expected residuals (windows, {self.frames}, {len(deviation)}), got {tuple(residual.shape)}"
            )
        varying = deviation > 0
        standard = residual[..., varying].astype(np.float64) / deviation[varying]
        self._products += np.tensordot(standard, standard, axes=((0, 2), (0, 2)))

    def correlation(self, model: TimeModel) -> NDArray[np.float64]:
        """Return the correlation matrix ``(T, T)``.

        Args:
            model: "full": the measured matrix. "ar1": rho^|s - t| with the rho of neighbouring frames. "white": the
                identity.

        Raises:
            TrainingError: The residuals do not vary.
        """
        scale = np.sqrt(np.diag(self._products))
        if model != "white" and not (scale > 0).all():
            raise TrainingError("the lifter's errors do not vary: no correlation over time can be fitted")
        if model == "white":
            return np.eye(self.frames)
        measured: NDArray[np.float64] = self._products / np.outer(scale, scale)
        if model == "full" or self.frames == 1:
            return measured
        lags = np.abs(np.subtract.outer(np.arange(self.frames), np.arange(self.frames)))
        fitted: NDArray[np.float64] = float(np.mean(np.diag(measured, 1))) ** lags
        return fitted


def temporal_factor(correlation: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the lower-triangular L ``(T, T)`` with L L^T = ``correlation``, which may be singular."""
    return lower_factor(correlation).astype(np.float32)


def correlate_in_time(white: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix independent draws ``(windows x T, D)`` over the frames of each window by ``factor`` ``(T, T)``."""
    frames = len(factor)
    mixed: NDArray[np.float32] = factor @ white.reshape(-1, frames, white.shape[-1])
    return mixed.reshape(white.shape)
