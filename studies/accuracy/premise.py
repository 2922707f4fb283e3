"""Checks the paper's assumption: the error of a lifter is Gaussian, given the 2D pose and the lifted pose.

It also measures how long the errors are correlated over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.camera import normalise_screen
from refiner.data import CameraClip
from refiner.model_files.checkpoint import load_noise_model

EDGES = np.linspace(-6.0, 6.0, 61)
LAGS = (1, 2, 4, 8, 16, 26, 50, 100)


@dataclass(frozen=True)
class Premise:
    """The distribution of residuals. Each is divided by the standard deviation of its coordinate (eq. 6).

    Attributes:
        edges: The edges of the histogram.
        density: The histogram over all 48 coordinates.
        explained_share: The share of the squared error that the condition explains.
        spread: The standard deviation of each coordinate; 1 where the Gaussian holds.
        bias: The mean of each coordinate.
        excess_kurtosis: The excess kurtosis of each coordinate.
        time_correlation: The correlation over time, by distance in frames.
    """

    edges: list[float]
    density: list[float]
    explained_share: float
    spread: list[float]
    bias: list[float]
    excess_kurtosis: list[float]
    time_correlation: dict[str, float]


def check_premise(checkpoint: Path, clips: Sequence[CameraClip], lifted: Sequence[NDArray[np.float32]]) -> Premise:
    """Compare the residuals e - mean(c) of unseen people with the Gaussian that a refiner was trained on.

    Args:
        checkpoint: The refiner's checkpoint, which holds the Gaussian.
        clips: The clips of unseen people.
        lifted: The lifter's poses of every clip, ``(F, 17, 3)`` in metres, root-relative.

    Returns:
        The distribution of the residuals.
    """
    noise = load_noise_model(checkpoint)
    deviation = np.sqrt(np.diag(noise.covariance))[3:]
    histogram = np.zeros(len(EDGES) - 1)
    moments = np.zeros((4, 48))
    explained = np.zeros(2)
    products, counts = np.zeros(len(LAGS)), np.zeros(len(LAGS))
    variance, frames = 0.0, 0
    for clip, pose in zip(clips, lifted, strict=True):
        error = (pose - clip.pose_3d).astype(np.float64)
        residual = error - noise.mean(normalise_screen(clip.pose_2d.astype(np.float64), clip.image_size), pose)
        explained += np.square(error).sum(), np.square(residual).sum()
        standard = residual.reshape(len(pose), -1)[:, 3:] / deviation
        histogram += np.histogram(standard, EDGES)[0]
        moments += np.stack([(standard**power).sum(axis=0) for power in range(1, 5)])
        frames += len(pose)
        variance += float(np.square(standard).sum())
        for index, lag in enumerate(LAGS):
            if len(standard) > lag:
                products[index] += float((standard[lag:] * standard[:-lag]).sum())
                counts[index] += (len(standard) - lag) * standard.shape[1]
    first, second, third, fourth = moments / frames
    centred = second - first**2
    kurtosis = (fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4) / centred**2 - 3.0
    mean_square = variance / (frames * 48)
    return Premise(
        edges=EDGES.tolist(),
        density=(histogram / (frames * 48 * np.diff(EDGES))).tolist(),
        explained_share=float(1.0 - explained[1] / explained[0]),
        spread=np.sqrt(centred).tolist(),
        bias=first.tolist(),
        excess_kurtosis=kurtosis.tolist(),
        time_correlation={
            str(lag): float(products[i] / counts[i] / mean_square) for i, lag in enumerate(LAGS) if counts[i]
        },
    )
