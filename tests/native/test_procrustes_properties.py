"""Alignment over random shapes, scales, offsets and degenerate sets; joint weights, and results into given memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner import native
from refiner.errors import DTypeError, InputError, ShapeError

RNG = np.random.default_rng(77)


def svd_error(pred, target, weights, scale):
    """Weighted Umeyama (1991) in float64, pose by pose: the weighted mean distance after alignment."""
    share = weights / weights.sum()
    errors = []
    for p, t in zip(pred.astype(np.float64), target.astype(np.float64), strict=True):
        pc, tc = share @ p, share @ t
        p0, t0 = p - pc, t - tc
        u, s, vt = np.linalg.svd((p0 * share[:, None]).T @ t0)
        sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
        spread = (share[:, None] * p0**2).sum()
        factor = ((s * sign).sum() / spread if spread > 1e-18 else 0.0) if scale else 1.0
        aligned = factor * p0 @ (u * sign) @ vt + tc
        errors.append(share @ np.linalg.norm(aligned - t, axis=1))
    return np.array(errors)


@st.composite
def pairs(draw):
    """Poses of metre size up to 10 m away, of full, planar, linear or no extent, mirrored or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, joints = draw(st.integers(1, 19)), draw(st.integers(3, 30))
    extent = np.array(draw(st.sampled_from([(1, 1, 1), (1, 1, 1e-4), (1, 1e-4, 1e-4), (1, 1, 0), (1, 0, 0)])))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    target = (rng.normal(0, 0.4, (count, joints, 3)) * extent) @ turn
    noise = draw(st.sampled_from([0.0, 1e-3, 0.05, 1.0]))
    pred = draw(st.sampled_from([0.3, 1.0, 2.0])) * target + noise * rng.normal(0, 0.4, target.shape)
    if draw(st.booleans()):
        pred = pred * [1, 1, -1]
    offset = draw(st.floats(0, 10))
    return pred + offset * rng.uniform(-1, 1, 3), target - offset * rng.uniform(-1, 1, 3), rng


@settings(max_examples=150, deadline=None)
@given(pairs(), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_any_pair_agrees_with_the_svd_formula(pair, scale, dtype):
    pred, target, _ = pair
    pred, target = pred.astype(dtype), target.astype(dtype)
    expected = svd_error(pred, target, np.ones(pred.shape[1]), scale)
    found = native.p_mpjpe(pred, target, scale=scale)
    np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == np.float32 else 1e-10, rtol=0)
    aligned = native.procrustes_align(pred, target, scale=scale)
    left = np.linalg.norm(aligned.astype(np.float64) - target, axis=-1).mean(axis=-1)
    np.testing.assert_allclose(left, expected, atol=3e-6 if dtype == np.float32 else 1e-10, rtol=0)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.booleans())
def test_weights_agree_with_the_weighted_formula(pair, scale):
    pred, target, rng = pair
    weights = rng.uniform(0.1, 3.0, pred.shape[1])
    expected = svd_error(pred, target, weights, scale)
    np.testing.assert_allclose(native.p_mpjpe(pred, target, scale=scale, weights=weights), expected, atol=1e-10, rtol=0)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_a_pose_does_not_depend_on_the_poses_beside_it(pair):
    pred, target, _ = pair
    whole = native.p_mpjpe(pred, target)
    alone = np.concatenate([native.p_mpjpe(pred[i : i + 1], target[i : i + 1]) for i in range(len(pred))])
    np.testing.assert_array_equal(whole, alone)
    aligned = native.procrustes_align(pred, target)
    np.testing.assert_array_equal(aligned[3:], native.procrustes_align(pred[3:], target[3:]))


def test_a_joint_of_no_weight_counts_for_nothing():
    pred, target = RNG.normal(size=(2, 9, 17, 3))
    weights = np.ones(17)
    weights[4] = 0
    spoilt = pred.copy()
    spoilt[:, 4] += 5.0
    kept = [j for j in range(17) if j != 4]
    expected = native.p_mpjpe(pred[:, kept], target[:, kept])
    np.testing.assert_allclose(native.p_mpjpe(spoilt, target, weights=weights), expected, rtol=1e-12)
    np.testing.assert_allclose(native.p_mpjpe(pred, target, weights=np.full(17, 3.0)), native.p_mpjpe(pred, target))


def test_more_joints_than_the_vector_code_keeps():
    pred, target = RNG.normal(size=(2, 5, 133, 3))
    np.testing.assert_allclose(
        native.p_mpjpe(pred, target), svd_error(pred, target, np.ones(133), True), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.ones(16), ShapeError),
        (np.zeros(17), InputError),
        (-np.ones(17), InputError),
        (np.full(17, np.nan), InputError),
    ],
)
def test_what_cannot_be_weights_is_refused(weights, error):
    pred, target = RNG.normal(size=(2, 4, 17, 3))
    with pytest.raises(error, match="weights"):
        native.p_mpjpe(pred, target, weights=weights)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_go_where_they_are_told(dtype):
    pred, target = RNG.normal(size=(2, 21, 17, 3)).astype(dtype)
    error, aligned = np.empty(21, dtype), np.empty_like(pred)
    assert native.p_mpjpe(pred, target, out=error) is error
    assert native.procrustes_align(pred, target, out=aligned) is aligned
    np.testing.assert_array_equal(error, native.p_mpjpe(pred, target))
    np.testing.assert_array_equal(aligned, native.procrustes_align(pred, target))


def test_memory_that_cannot_take_the_result_is_refused():
    pred, target = RNG.normal(size=(2, 21, 17, 3))
    with pytest.raises(InputError, match="overlaps an input"):
        native.procrustes_align(pred, target, out=pred)
    with pytest.raises(DTypeError, match="out has type float32"):
        native.p_mpjpe(pred, target, out=np.empty(21, np.float32))
    with pytest.raises(ShapeError, match="out has shape"):
        native.p_mpjpe(pred, target, out=np.empty(20))
    with pytest.raises(InputError, match="contiguous and writeable"):
        native.p_mpjpe(pred, target, out=np.empty(42)[::2])


@pytest.mark.parametrize("name", ["p_mpjpe", "procrustes_align"])
def test_an_empty_batch_gives_an_empty_result(name):
    empty = np.empty((0, 17, 3), np.float32)
    assert len(getattr(native, name)(empty, empty)) == 0
