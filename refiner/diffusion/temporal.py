"""How long an error lasts: the correlation between a window's frames, beside eq. 6's between its coordinates.

The paper draws frame by frame. The error of a real lifter is slow, and what is drawn independently teaches a denoiser
to average over time and little else. Here every draw of a window is Z -> L Z with the factor L of a correlation matrix
over frames: with eq. 6's factor on the other side a matrix-normal distribution, whose covariance within a frame is
still eq. 6's.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.diffusion.noise_model import lower_factor
from refiner.errors import ShapeError, TrainingError

TimeModel = Literal["white", "ar1", "full"]


class TemporalMoments:
    """Streaming average, over windows and coordinates, of r_s r_t of standardised residuals r = e - mean(c)."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._products = np.zeros((frames, frames))

    def update(self, residual: NDArray[Any], deviation: NDArray[Any]) -> None:
        """Add ``(N, T, D)`` residuals; coordinates whose ``deviation`` ``(D,)`` is 0 (the root's) count for nothing."""
        if residual.ndim != 3 or residual.shape[1] != self.frames or residual.shape[2:] != deviation.shape:
            raise ShapeError(
                f"expected residuals (windows, {self.frames}, {len(deviation)}), got {tuple(residual.shape)}"
            )
        varying = deviation > 0
        standard = residual[..., varying].astype(np.float64) / deviation[varying]
        self._products += np.tensordot(standard, standard, axes=((0, 2), (0, 2)))

    def correlation(self, model: TimeModel) -> NDArray[np.float64]:
        """The correlation matrix ``(T, T)``: measured (``full``), or rho^|s - t| with the rho of neighbouring frames
        (``ar1``), or the identity (``white``)."""
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
    """Lower-triangular L ``(T, T)`` with L L^T = ``correlation``, a singular one included."""
    return lower_factor(correlation).astype(np.float32)


def correlate_in_time(white: NDArray[np.float32], factor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Independent draws ``(windows x T, D)`` mixed over each window's frames by ``factor`` ``(T, T)``: same shape."""
    frames = len(factor)
    mixed: NDArray[np.float32] = factor @ white.reshape(-1, frames, white.shape[-1])
    return mixed.reshape(white.shape)
