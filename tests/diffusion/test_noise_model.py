"""The conditional Gaussian against SciPy and NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from refiner.diffusion import ConditionalGaussian
from refiner.diffusion.noise_model import ConditionalMoments, condition_vectors
from refiner.errors import CheckpointError, EmptySequenceError, NonFiniteError, ShapeError

RNG = np.random.default_rng(5)


def data(frames=4000, root=True):
    """Correlated poses and errors whose root is 0, and offsets that would cancel a careless covariance."""
    latent = RNG.normal(size=(frames, 20))
    mix = lambda size: latent @ RNG.normal(size=(20, size)) * 0.1 + RNG.normal(0, 0.05, (frames, size))  # noqa: E731
    pose_2d = (mix(34) + 30.0).reshape(frames, 17, 2)
    noisy, error = (mix(51) + 5.0).reshape(frames, 17, 3), (mix(51) * 0.1).reshape(frames, 17, 3)
    if root:
        noisy[:, 0], error[:, 0] = 0.0, 0.0
    return pose_2d, noisy, error


def reference(pose_2d, noisy, error):
    """Eq. 5 and 6 over the 16 joints that move, from np.cov and a solve."""
    frames = len(error)
    c = np.concatenate([pose_2d.reshape(frames, -1), noisy[:, 1:].reshape(frames, -1)], axis=1)
    e = error[:, 1:].reshape(frames, -1)
    joint = np.cov(np.concatenate([c, e], axis=1).T)
    k = c.shape[1]
    gain = scipy.linalg.solve(joint[:k, :k], joint[:k, k:], assume_a="pos").T
    mean = e.mean(0) + (c - c.mean(0)) @ gain.T
    return mean.reshape(frames, 16, 3), joint[k:, k:] - gain @ joint[:k, k:]


def test_mean_and_covariance_are_the_formulas():
    pose_2d, noisy, error = data()
    model = ConditionalGaussian.fit(pose_2d, noisy, error)
    mean, covariance = reference(pose_2d, noisy, error)
    got = model.mean(pose_2d, noisy)
    assert (got[:, 0] == 0).all()
    np.testing.assert_allclose(got[:, 1:], mean, rtol=1e-6, atol=1e-6 * np.abs(mean).max())
    np.testing.assert_allclose(model.covariance[3:, 3:], covariance, rtol=1e-6, atol=1e-6 * np.abs(covariance).max())
    assert (model.covariance[:3] == 0).all() and (model.factor[:3] == 0).all()
    np.testing.assert_allclose(model.factor @ model.factor.T, model.covariance, atol=1e-12)


def test_a_root_that_moves_is_fitted_too():
    pose_2d, noisy, error = data(root=False)
    model = ConditionalGaussian.fit(pose_2d, noisy, error)
    assert np.linalg.matrix_rank(model.covariance) == 51


def test_streaming_in_pieces_is_the_same_fit():
    pose_2d, noisy, error = data(3001)
    whole = ConditionalGaussian.fit(pose_2d, noisy, error)
    moments = ConditionalMoments()
    for start in range(0, 3001, 500):
        rows = slice(start, start + 500)
        moments.update(pose_2d[rows], noisy[rows], error[rows])
    pieces = moments.finish()
    for name, value in whole.to_tensors().items():
        np.testing.assert_allclose(pieces.to_tensors()[name], value, rtol=1e-7, atol=1e-9)


def test_samples_reproduce_mean_and_covariance():
    pose_2d, noisy, error = data()
    model = ConditionalGaussian.fit(pose_2d, noisy, error)
    count = 200_000
    drawn = model.sample(
        np.broadcast_to(pose_2d[:1], (count, 17, 2)), np.broadcast_to(noisy[:1], (count, 17, 3)), seed=1
    ).reshape(count, 51)
    deviation = np.sqrt(np.diag(model.covariance))
    mean = model.mean(pose_2d[:1], noisy[:1]).ravel()
    assert (np.abs(drawn.mean(0, dtype=np.float64) - mean) <= 5 * deviation / np.sqrt(count) + 1e-6).all()
    bound = 5 * np.sqrt((model.covariance**2 + np.outer(deviation, deviation) ** 2) / count)
    assert (np.abs(np.cov(drawn.T.astype(np.float64)) - model.covariance) <= bound + 1e-8).all()


def test_a_frame_depends_on_its_number_alone():
    pose_2d, noisy, error = data(600)
    model = ConditionalGaussian.fit(pose_2d, noisy, error)
    windows = model.sample(pose_2d.reshape(20, 30, 17, 2), noisy.reshape(20, 30, 17, 3), seed=8, first_frame=100)
    later = model.sample(pose_2d[450:], noisy[450:], seed=8, first_frame=550)
    np.testing.assert_array_equal(windows.reshape(600, 17, 3)[450:], later)


def test_few_frames_and_dependent_conditions_still_fit():
    pose_2d, noisy, error = data(40)  # fewer frames than coordinates: every covariance is singular
    pose_2d[:, 7] = (pose_2d[:, 0] + pose_2d[:, 8]) / 2
    model = ConditionalGaussian.fit(pose_2d, noisy, error)
    assert np.isfinite(model.mean(pose_2d, noisy)).all() and np.isfinite(model.factor).all()
    np.testing.assert_allclose(model.factor @ model.factor.T, model.covariance, atol=1e-9)


def test_it_survives_a_checkpoint():
    model = ConditionalGaussian.fit(*data(500))
    again = ConditionalGaussian.from_tensors(model.to_tensors())
    np.testing.assert_array_equal(again.gain, model.gain)
    tensors = model.to_tensors()
    del tensors["factor"]
    with pytest.raises(CheckpointError, match="factor"):
        ConditionalGaussian.from_tensors(tensors)


def test_bad_input_is_named():
    pose_2d, noisy, error = data(50)
    with pytest.raises(ShapeError, match="equal leading axes"):
        condition_vectors(pose_2d[:-1], noisy)
    with pytest.raises(ShapeError, match="pose_error"):
        ConditionalGaussian.fit(pose_2d, noisy, error[:, :16])
    with pytest.raises(EmptySequenceError, match="at least 2 frames"):
        ConditionalGaussian.fit(pose_2d[:1], noisy[:1], error[:1])
    error[3, 4, 1] = np.inf
    with pytest.raises(NonFiniteError):
        ConditionalGaussian.fit(pose_2d, noisy, error)
    model = ConditionalGaussian.fit(*data(200))
    with pytest.raises(ShapeError, match="17 joints"):
        model.mean(pose_2d[:, :5], noisy[:, :5])
