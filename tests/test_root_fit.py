"""The fit of the root: against exact cameras, an independent minimiser, a dense solver, and awkward inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from refiner import root_fit
from refiner.data.synthetic import synthetic_motion
from refiner.errors import EmptySequenceError
from refiner.root_fit import FloorFit, fit_root

FPS = 50.0


def walking(frames, seed=3):
    """A body relative to its root, in camera axes."""
    motion = np.asarray(synthetic_motion(seed, "Walking", max(frames, 2)), dtype=np.float64)[:frames]
    body = motion[..., [0, 2, 1]] * [1.0, -1.0, 1.0]
    return body - body[:, :1]


def rays_of(body, root):
    points = body + root[:, None]
    return points[..., :2] / points[..., 2:]


def steady(frames, begin, velocity):
    return np.asarray(begin) + np.arange(frames)[:, None] / FPS * np.asarray(velocity)


@pytest.mark.parametrize(
    ("begin", "velocity"),
    [
        ((0.0, 0.0, 5.0), (0.0, 0.0, 0.0)),
        ((-1.0, 0.3, 4.0), (1.4, 0.0, 0.9)),
        ((0.4, -0.2, 1.3), (0.0, 0.0, 0.2)),  # close: the perspective is strong
        ((12.0, 1.0, 7.0), (-2.0, 0.0, 0.0)),  # 60 degrees off the axis of a very wide lens
        ((3.0, 1.0, 80.0), (0.0, 0.0, -8.0)),
    ],
)
@pytest.mark.parametrize("frames", [1, 2, 3, 60])
def test_exact_rays_give_the_exact_root(begin, velocity, frames):
    body, root = walking(frames), steady(frames, begin, velocity)
    found = fit_root(rays_of(body, root), np.ones((frames, 17)), body, FPS)
    np.testing.assert_allclose(found, root, atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(12))
def test_one_frame_has_the_least_robust_error(seed):
    """The reference minimises Cauchy's error of the reprojection by its values alone."""
    rng = np.random.default_rng(seed)
    body = walking(1, seed) * rng.uniform(0.8, 1.2)
    root = np.array([[*rng.uniform(-2, 2, 2), rng.uniform(2.5, 8.0)]])
    rays = rays_of(body, root) + rng.normal(0, 0.03, (1, 17, 2)) / root[0, 2]
    rays[0, rng.integers(17)] += 0.3 / root[0, 2]
    weights = rng.uniform(0.1, 1.0, (1, 17))
    weights[0, rng.permutation(17)[:4]] = 0.0
    (found,) = fit_root(rays, weights, body, FPS)
    limit = root_fit.OUTLIER_M / found[2]  # metres at the distance of the root

    def error(place):
        off = np.linalg.norm(rays_of(body, place[None])[0] - rays[0], axis=-1)
        return (weights[0] * np.log1p((off / limit) ** 2)).sum()

    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 5000, "maxfev": 5000}
    best = minimize(error, root[0], method="Nelder-Mead", options=options).x
    best = minimize(error, best, method="Nelder-Mead", options=options).x
    np.testing.assert_allclose(found, best, atol=2e-4, rtol=0)
    assert np.linalg.norm(found - root[0]) < 0.5


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 25])
def test_the_banded_system_is_the_dense_one(frames):
    rng = np.random.default_rng(frames)
    root, gradient = rng.normal(size=(2, frames, 3))
    factor = rng.normal(size=(frames, 3, 3))
    system = factor @ factor.swapaxes(1, 2) + np.eye(3)
    bands = root_fit._acceleration_bands(frames, FPS)
    differences = np.diff(np.eye(frames), n=2, axis=0) if frames > 2 else np.zeros((1, frames))
    weight = 17 * (FPS / (2 * np.pi * root_fit.CUTOFF_HZ)) ** 4
    dense = np.kron(weight * differences.T @ differences, np.eye(3))
    for frame in range(frames):
        dense[3 * frame : 3 * frame + 3, 3 * frame : 3 * frame + 3] += system[frame]
    right = (np.einsum("fij,fj->fi", system, root) + gradient).ravel()
    expected = np.linalg.solve(dense, right).reshape(frames, 3)
    np.testing.assert_allclose(root_fit._solve(system, gradient, root, bands), expected, rtol=1e-5, atol=1e-6)


def test_twice_the_frames_are_the_same_trajectory():
    """The smoothing has a duration, and not a number of frames."""

    def found(fps):
        times = np.arange(int(4 * fps)) / fps
        swing = np.sin(2 * np.pi * times)
        root = np.stack([0.4 * swing, 0 * times, 5 + 0.4 * swing], axis=-1)
        body = np.tile(walking(1), (len(times), 1, 1))
        size = 1 + 0.05 * np.sin(6 * np.pi * times)[:, None, None]  # an error of the body that trembles
        return fit_root(rays_of(body * size, root), np.ones((len(times), 17)), body, fps), root

    slow, root = found(FPS)
    fast, _ = found(2 * FPS)
    assert np.abs(fast[::2] - slow)[20:-20].max() < 0.005
    assert np.abs(slow - root)[20:-20].max() > 0.05


def test_fast_motion_is_kept_and_tremble_is_not():
    body, times = walking(200), np.arange(200) / FPS
    root = np.stack([0.3 * np.sin(4 * np.pi * times), 0.2 * np.abs(np.sin(2 * np.pi * times)), 0 * times + 5], axis=-1)
    weights = np.ones((200, 17))
    found = fit_root(rays_of(body, root), weights, body, FPS)
    assert np.abs(found - root)[10:-10, :2].max() < 0.02  # 2 Hz across the view, and a bounce
    towards = np.stack([0 * times, 0 * times, 5 + 0.3 * np.sin(2 * np.pi * times)], axis=-1)
    found = fit_root(rays_of(body, towards), weights, body, FPS)
    assert np.ptp(found[20:-20, 2]) > 0.7 * 0.6  # 1 Hz along it
    sized = body * (1 + 0.04 * np.where(np.arange(200) % 2, 1, -1))[:, None, None]
    found = fit_root(rays_of(body, steady(200, (0, 0, 5), (0, 0, 0))), weights, sized, FPS)
    assert np.abs(np.diff(found[10:-10, 2])).max() < 0.01  # alone, the frames would jump by 0.4 m


def test_frames_with_few_joints_take_what_they_tell():
    """One joint tells the ray and no distance; the neighbours tell the distance."""
    frames = 40
    body, root = walking(frames), steady(frames, (-0.5, 0.0, 5.0), (1.0, 0.0, 0.5))
    weights = np.ones((frames, 17))
    weights[10:20] = 0.0
    weights[10:20, 13] = 1.0
    weights[30] = 0.0
    found = fit_root(rays_of(body, root), weights, body, FPS)
    np.testing.assert_allclose(found, root, atol=1e-3)


def test_long_gaps_are_straight_and_the_ends_are_held():
    frames = 200
    body, root = walking(frames), steady(frames, (-1.0, 0.0, 5.0), (0.5, 0.0, 0.3))
    weights = np.ones((frames, 17))
    weights[:30] = weights[80:140] = weights[190:] = 0.0
    weights[100, 5] = 1.0  # in the middle of a gap, a single joint that is wrong
    rays = rays_of(body, root)
    rays[100, 5] += 1.0
    found = fit_root(np.where(weights[..., None] > 0, rays, np.nan), weights, body, FPS)
    np.testing.assert_allclose(found[30:190], root[30:190], atol=1e-3)
    np.testing.assert_array_equal(found[:30], np.tile(found[30], (30, 1)))
    np.testing.assert_array_equal(found[190:], np.tile(found[189], (10, 1)))


def test_an_outlier_hardly_counts():
    body, root = walking(50), steady(50, (0.0, 0.0, 5.0), (0.2, 0.0, 0.0))
    rays = rays_of(body, root)
    rays[:, 16] += 1.5 / 5.0  # a wrist on somebody else, 1.5 m to the side, in all frames
    found = fit_root(rays, np.ones((50, 17)), body, FPS)
    assert np.linalg.norm(found - root, axis=-1).max() < 0.1
    assert np.linalg.norm(found[:, :2] - root[:, :2], axis=-1).max() < 0.01


def test_a_foot_on_the_floor_corrects_the_distance():
    frames = 100
    body, root = walking(frames), steady(frames, (0.0, 1.0, 5.0), (0.0, 0.0, 0.0))
    down = np.array([0.0, np.cos(0.3), np.sin(0.3)])
    ankle = body[:, 3]
    distance = (root + ankle) @ down
    floor = FloorFit(down, 0.0, ankle, np.ones(frames))
    wrong = body * 1.1  # too large by 10 %: 0.5 m too far without a floor
    plain = fit_root(rays_of(body, root), np.ones((frames, 17)), wrong, FPS)
    # The foot of this body swings; the floor follows it, so that only the fit is tested.
    floor = FloorFit(down, float(distance.mean()), ankle - (distance - distance.mean())[:, None] * down, floor.weight)
    fitted = fit_root(rays_of(body, root), np.ones((frames, 17)), wrong, FPS, floor)
    before, after = (np.abs(found[:, 2] - root[:, 2]).mean() for found in (plain, fitted))
    assert before > 0.45 and after < 0.6 * before


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 12),
    spread=st.sampled_from([1e-4, 0.05, 1.0, 3.0]),
    seen=st.floats(0.15, 1.0),
)
def test_any_rays_give_a_finite_root_with_the_body_in_front(seed, frames, spread, seen):
    """Rays of nobody: a person behind the camera, mirrored, a point, all directions at once."""
    rng = np.random.default_rng(seed)
    body = rng.normal(0, 0.4, (frames, 17, 3))
    body -= body[:, :1]
    rays = rng.normal(0, spread, (frames, 17, 2))
    weights = rng.uniform(0.05, 1.0, (frames, 17)) * (rng.random((frames, 17)) < seen)
    weights[0, :2] = 0.5
    found = fit_root(rays, weights, body, FPS)
    assert np.isfinite(found).all()
    assert (found[:, 2] + body[..., 2].min(axis=1) > 0).all()


def test_a_person_behind_the_camera_is_put_in_front():
    """The rays of points behind a pinhole are those of a body that is upside down and mirrored in front of it."""
    body = walking(30)
    root = steady(30, (0.2, 0.1, -4.0), (0, 0, 0))
    found = fit_root(rays_of(body, root), np.ones((30, 17)), body, FPS)
    assert np.isfinite(found).all() and (found[:, 2] > 0.1).all()


def test_nobody_is_nowhere():
    weights = np.zeros((5, 17))
    weights[:, 3] = 1.0
    with pytest.raises(EmptySequenceError, match="no frame shows two joints"):
        fit_root(np.zeros((5, 17, 2)), weights, walking(5), FPS)
