"""The spread of refined joints: recovered where it is known, calibrated where it is not Gaussian."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.diffusion.uncertainty import DEFAULT_STD_M, FLOOR_M, JointUncertainty
from refiner.errors import CheckpointError, ShapeError


def drawn(frames, seed, tails=False):
    """Errors whose spread is a known function of correction and speed."""
    rng = np.random.default_rng(seed)
    correction = rng.lognormal(np.log(0.015), 0.6, (frames, 17))
    speed = rng.lognormal(np.log(0.006), 0.8, (frames, 17))
    spread = 0.4 * (correction + FLOOR_M) ** 0.5 * (speed + FLOOR_M) ** 0.2
    direction = rng.standard_t(4, (frames, 17, 3)) / np.sqrt(2.0) if tails else rng.normal(size=(frames, 17, 3))
    return np.linalg.norm(spread[..., None] * direction, axis=-1), correction, speed, spread


def test_a_known_spread_is_recovered():
    error, correction, speed, spread = drawn(20_000, 0)
    found = JointUncertainty.fit(error, correction, speed)
    std = found.std(correction, speed)
    np.testing.assert_allclose(std[:, 1:], spread[:, 1:], rtol=0.06)
    assert (std[:, 0] == 0).all() and std.dtype == np.float32
    # The regions of a Gaussian in three dimensions.
    np.testing.assert_allclose(found.radii[1:].mean(axis=0), [1.538, 2.5], atol=0.03)


@pytest.mark.parametrize("tails", [False, True])
def test_coverage_on_other_frames(tails):
    fitted = JointUncertainty.fit(*drawn(20_000, 1, tails)[:3])
    error, correction, speed, _ = drawn(20_000, 2, tails)
    half, most = fitted.coverage(error, fitted.std(correction, speed))
    assert half == pytest.approx(0.5, abs=0.01) and most == pytest.approx(0.9, abs=0.01)
    if tails:
        assert (fitted.radii[1:, 1] / fitted.radii[1:, 0]).mean() > 1.75


def test_there_and_back_and_what_is_refused():
    fitted = JointUncertainty.fit(*drawn(500, 3)[:3])
    again = JointUncertainty.from_config(fitted.to_config())
    np.testing.assert_allclose(again.coefficients, fitted.coefficients, atol=1e-6)
    guess = JointUncertainty.from_config(None)
    assert guess.std(np.ones((4, 17)), np.ones((4, 17)))[0, 5] == pytest.approx(DEFAULT_STD_M)
    for broken in ({}, {"features": ["a"]}, fitted.to_config() | {"radii": [[1, 2]]}, {"coefficients": "x"}):
        with pytest.raises(CheckpointError):
            JointUncertainty.from_config(broken)
    with pytest.raises(ShapeError):
        JointUncertainty.fit(np.ones((5, 17)), np.ones((5, 17)), np.ones((5, 17)))
    with pytest.raises(ShapeError):
        JointUncertainty.fit(np.ones((50, 17)), np.ones((50, 16)), np.ones((50, 16)))
