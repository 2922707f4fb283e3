"""P-MPJPE and alignment against the float64 SVD formula."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import native
from refiner.errors import DTypeError, ShapeError

RNG = np.random.default_rng(20240101)


def svd_align(pred, target, scale=True):
    """Umeyama (1991), written with the SVD, pose by pose in float64."""
    aligned = np.empty(pred.shape)
    for n, (p, t) in enumerate(zip(pred.astype(np.float64), target.astype(np.float64), strict=True)):
        p0, t0 = p - p.mean(0), t - t.mean(0)
        u, s, vt = np.linalg.svd(p0.T @ t0)
        d = np.sign(np.linalg.det(u @ vt))
        rotation = u @ np.diag([1, 1, d]) @ vt
        spread = (p0**2).sum()
        factor = ((s * [1, 1, d]).sum() / spread if spread > 1e-18 else 0.0) if scale else 1.0
        aligned[n] = factor * p0 @ rotation + t.mean(0)
    return aligned


def error(aligned, target):
    return np.linalg.norm(aligned - target.astype(np.float64), axis=-1).mean(-1)


def body(count):
    return RNG.normal(0, 0.4, (count, 17, 3))


def line(count):
    return RNG.normal(0, 0.5, (count, 17, 1)) * RNG.normal(size=(count, 1, 3))


CASES = {
    "random": lambda n: (body(n), body(n)),
    "similar": lambda n: (lambda t: (t + RNG.normal(0, 0.05, t.shape), t))(body(n)),
    "far from the origin": lambda n: (body(n) + np.array([10, -4, 3]), body(n) - np.array([2, 9, 7])),
    "reflected": lambda n: (lambda t: (t * [1, 1, -1], t))(body(n)),
    "nearly planar, reflected": lambda n: (lambda t: (t * [1, 1, -1], t))(body(n) * [1, 1, 1e-3]),
    "on a line": lambda n: (line(n), body(n)),
    "both on lines": lambda n: (line(n), line(n)),
    "coincident prediction": lambda n: (np.repeat(RNG.normal(size=(n, 1, 3)), 17, 1), body(n)),
    "coincident target": lambda n: (body(n), np.repeat(RNG.normal(size=(n, 1, 3)), 17, 1)),
    "identical": lambda n: (lambda t: (t, t.copy()))(body(n)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [True, False])
def test_agrees_with_the_svd_formula(case, dtype, scale):
    pred, target = (pose.astype(dtype) for pose in CASES[case](257))
    expected = error(svd_align(pred, target, scale), target)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    assert native.p_mpjpe(pred, target, scale=scale) == pytest.approx(expected, abs=tolerance)
    aligned = native.procrustes_align(pred, target, scale=scale)
    assert aligned.dtype == dtype
    assert error(aligned, target) == pytest.approx(expected, abs=2 * tolerance)


def test_aligned_poses_are_the_svd_formulas():
    pred, target = CASES["similar"](100)
    np.testing.assert_allclose(native.procrustes_align(pred, target), svd_align(pred, target), atol=1e-12)


def test_a_similarity_is_undone():
    target = body(50)
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    moved = 0.37 * target @ rotation + [1.0, -2.0, 5.0]
    np.testing.assert_allclose(native.procrustes_align(moved, target), target, atol=1e-12)


def test_a_reflection_is_not_undone():
    target = body(50)
    assert (native.p_mpjpe(target * [-1, 1, 1], target) > 0.05).all()


@pytest.mark.parametrize("count", [0, 1, 255, 1001])
def test_any_number_of_poses_and_threads(count):
    pred, target = body(count), body(count)
    one = native.p_mpjpe(pred, target, threads=1)
    assert one.shape == (count,)
    np.testing.assert_array_equal(one, native.p_mpjpe(pred, target, threads=3))


def test_nan_stays_in_its_pose():
    pred, target = body(5), body(5)
    clean = native.p_mpjpe(pred, target)
    pred[2, 3, 1] = np.nan
    spoilt = native.p_mpjpe(pred, target)
    assert np.isnan(spoilt[2])
    np.testing.assert_array_equal(np.delete(spoilt, 2), np.delete(clean, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("which", ["prediction", "target", "coincident prediction's target"])
def test_one_bad_coordinate_spoils_its_whole_pose(which, scale, value):
    pred, target = body(3), body(3)
    if which == "coincident prediction's target":
        pred[:] = pred[:, :1]
    (pred if which == "prediction" else target)[1, 4, 2] = value
    aligned = native.procrustes_align(pred, target, scale=scale)
    assert np.isnan(aligned[1]).all()
    assert np.isfinite(aligned[[0, 2]]).all()
    assert np.isnan(native.p_mpjpe(pred, target, scale=scale)[1])


def test_strided_readonly_and_mixed_inputs():
    pred, target = body(40), body(40)
    expected = native.p_mpjpe(pred[::2].copy(), target[::-2].copy())
    pred.flags.writeable = False
    np.testing.assert_array_equal(native.p_mpjpe(pred[::2], target[::-2]), expected)
    mixed = native.p_mpjpe(pred[::2].astype(np.float32), target[::-2])
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed, expected, atol=1e-6)


def test_torch_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    pred, target = body(8), body(8)
    result = native.p_mpjpe(torch.from_numpy(pred), torch.from_numpy(target))
    np.testing.assert_array_equal(result.numpy(), native.p_mpjpe(pred, target))


@pytest.mark.parametrize(
    "shapes", [((4, 17, 2), (4, 17, 2)), ((4, 17, 3), (5, 17, 3)), ((17, 3), (17, 3)), ((4, 0, 3), (4, 0, 3))]
)
def test_wrong_shapes_are_named(shapes):
    with pytest.raises(ShapeError, match=r"expected two arrays \(poses, joints, 3\)"):
        native.p_mpjpe(*(RNG.normal(size=shape) for shape in shapes))


def test_integers_are_refused():
    with pytest.raises(DTypeError, match="float32 or float64"):
        native.p_mpjpe(np.ones((2, 17, 3), int), np.ones((2, 17, 3), int))


def test_types_that_would_lose_digits_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(DTypeError, match="float32 or float64"):
        native.p_mpjpe(body(2).astype(np.longdouble), body(2).astype(np.longdouble))
    with pytest.raises(DTypeError, match="bfloat16"):
        native.p_mpjpe(torch.from_numpy(body(2)).bfloat16(), torch.from_numpy(body(2)))
