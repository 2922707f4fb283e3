"""The correlation of a window's errors over time: what is measured is what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.diffusion.temporal import TemporalMoments, correlate_in_time, temporal_factor
from refiner.errors import ShapeError, TrainingError

RNG = np.random.default_rng(12)
FRAMES = 9
LAGS = np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES)))


def smooth_correlation():
    """The correlation of a process whose neighbouring frames nearly agree; no AR(1) process comes near it."""
    return 0.97 * np.exp(-((LAGS / 5.0) ** 2)) + 0.03 * np.eye(FRAMES)


@pytest.mark.parametrize("correlation", [np.eye(FRAMES), 0.6**LAGS, 0.98**LAGS, smooth_correlation()])
def test_draws_have_the_correlation_and_keep_the_covariance_of_a_frame(correlation):
    windows = 200_000
    mix = np.array([[1.0, 0.0], [0.5, 2.0]], np.float32)
    white = RNG.standard_normal((windows * FRAMES, 2), dtype=np.float32) @ mix.T
    drawn = correlate_in_time(white, temporal_factor(correlation)).reshape(windows, FRAMES, 2).astype(np.float64)
    covariance = (mix @ mix.T).astype(np.float64)
    for first, second in ((0, 0), (8, 8), (0, 1), (3, 7), (0, 8)):
        found = drawn[:, first].T @ drawn[:, second] / windows
        # Five standard errors of a mean product of two unit normals, at most sqrt(2 / windows).
        allowed = 5 * np.sqrt(2 / windows) * covariance.max()
        assert np.abs(found - correlation[first, second] * covariance).max() < allowed


def test_what_is_drawn_is_measured_again():
    correlation = smooth_correlation()
    deviation = np.array([0.0, 0.5, 3.0])
    moments = TemporalMoments(FRAMES)
    for _ in range(20):
        white = RNG.standard_normal((2000 * FRAMES, 3)).astype(np.float32) * deviation.astype(np.float32)
        moments.update(correlate_in_time(white, temporal_factor(correlation)).reshape(2000, FRAMES, 3), deviation)
    np.testing.assert_allclose(moments.correlation("full"), correlation, atol=0.02)
    neighbours = np.mean(np.diag(correlation, 1))
    np.testing.assert_allclose(moments.correlation("ar1"), neighbours**LAGS, atol=0.03)
    np.testing.assert_array_equal(moments.correlation("white"), np.eye(FRAMES))


def test_a_window_does_not_see_the_one_before():
    white = RNG.standard_normal((2 * FRAMES, 3), dtype=np.float32)
    factor = temporal_factor(0.9**LAGS)
    whole = correlate_in_time(white, factor)
    np.testing.assert_array_equal(whole[FRAMES:], correlate_in_time(white[FRAMES:], factor))


def test_errors_that_do_not_vary_and_wrong_shapes_are_refused():
    moments = TemporalMoments(FRAMES)
    with pytest.raises(TrainingError, match="do not vary"):
        moments.correlation("full")
    with pytest.raises(ShapeError, match="expected residuals"):
        moments.update(np.zeros((4, 8, 3)), np.ones(3))


def test_a_singular_correlation_is_drawn_from():
    factor = temporal_factor(np.ones((FRAMES, FRAMES)))
    drawn = correlate_in_time(RNG.standard_normal((FRAMES, 2), dtype=np.float32), factor)
    np.testing.assert_allclose(drawn, np.broadcast_to(drawn[:1], drawn.shape), atol=1e-3)
