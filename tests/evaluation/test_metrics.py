"""Metrics against formulas written here a second time, pose by pose, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import DTypeError, EmptySequenceError, NonFiniteError, RefinerError, ShapeError, UnitError
from refiner.evaluation import (
    acceleration_error,
    auc,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    pck,
    root_relative,
)
from refiner.evaluation.metrics import AUC_THRESHOLDS_M

POSE_METRICS = [mpjpe, p_mpjpe, n_mpjpe, pck, auc]
MOTION_METRICS = [mpjve, acceleration_error]


def random_poses(seed: int, count: int = 40, joints: int = 17, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = rng.normal(0.0, 0.35, (count, joints, 3))
    return target + rng.normal(0.0, noise, target.shape), target


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    return q


def svd_p_mpjpe(pred: np.ndarray, target: np.ndarray) -> float:
    """Umeyama's similarity alignment of one pose, the reflection excluded, then the mean distance."""
    mean_p, mean_t = pred.mean(0), target.mean(0)
    p, t = pred - mean_p, target - mean_t
    power = float((p**2).sum())
    if power == 0.0:
        return float(np.linalg.norm(t, axis=1).mean())
    u, s, vt = np.linalg.svd(p.T @ t)
    signs = np.ones(3)
    signs[2] = np.sign(np.linalg.det(u @ vt))
    aligned = (s * signs).sum() / power * (p @ (u * signs) @ vt)
    return float(np.linalg.norm(aligned - t, axis=1).mean())


def test_mpjpe_is_the_mean_joint_distance():
    pred, target = random_poses(1)
    expected = [
        sum(float(np.sqrt(((p[j] - t[j]) ** 2).sum())) for j in range(17)) / 17
        for p, t in zip(pred, target, strict=True)
    ]
    result = mpjpe(pred, target)
    assert result.shape == (40,) and result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_the_root_counts_as_zero_in_the_mean():
    target = root_relative(random_poses(2)[1])
    pred = target.copy()
    pred[:, 1:] += [0.0, 0.0, 0.017]
    np.testing.assert_allclose(mpjpe(pred, target), 0.017 * 16 / 17, rtol=1e-12)


def test_float32_input_is_summed_in_float64():
    pred, target = (array.astype(np.float32) for array in random_poses(3))
    np.testing.assert_array_equal(mpjpe(pred, target), mpjpe(pred.astype(np.float64), target.astype(np.float64)))


def test_p_mpjpe_agrees_with_the_svd_formula():
    pred, target = random_poses(4, count=200)
    expected = [svd_p_mpjpe(p, t) for p, t in zip(pred, target, strict=True)]
    np.testing.assert_allclose(p_mpjpe(pred, target), expected, rtol=0, atol=1e-6)


def test_p_mpjpe_removes_a_similarity():
    rng = np.random.default_rng(5)
    target = random_poses(5)[1]
    pred = np.stack([rng.uniform(0.3, 3.0) * t @ random_rotation(rng) + rng.normal(size=3) for t in target])
    assert p_mpjpe(pred, target).max() < 1e-6


def test_p_mpjpe_does_not_reflect():
    target = random_poses(6)[1]
    mirrored = target * [-1.0, 1.0, 1.0]
    expected = [svd_p_mpjpe(p, t) for p, t in zip(mirrored, target, strict=True)]
    result = p_mpjpe(mirrored, target)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)
    assert result.min() > 0.05


@pytest.mark.parametrize("kind", ["collinear", "planar", "collinear_target"])
def test_p_mpjpe_of_degenerate_poses(kind):
    rng = np.random.default_rng(7)
    pred, target = random_poses(7)
    if kind == "planar":
        pred[..., 2] = 0.0
    line = rng.normal(size=(40, 17, 1)) * rng.normal(size=(40, 1, 3))
    if kind == "collinear":
        pred = line
    elif kind == "collinear_target":
        target = line
    expected = [svd_p_mpjpe(p, t) for p, t in zip(pred, target, strict=True)]
    np.testing.assert_allclose(p_mpjpe(pred, target), expected, rtol=0, atol=1e-6)


def test_p_mpjpe_of_coincident_joints_is_the_spread_about_the_centroid():
    target = random_poses(8)[1]
    pred = np.broadcast_to(np.array([0.25, -0.5, 4.0]), target.shape)
    expected = np.linalg.norm(target - target.mean(axis=1, keepdims=True), axis=-1).mean(axis=-1)
    np.testing.assert_allclose(p_mpjpe(pred, target), expected, rtol=0, atol=1e-6)


def test_n_mpjpe_is_the_best_scale():
    pred, target = random_poses(9, noise=0.2)
    expected = []
    for p, t in zip(pred, target, strict=True):
        scale = float((p * t).sum() / (p * p).sum())
        expected.append(float(np.linalg.norm(scale * p - t, axis=1).mean()))
        squared = [float(((s * p - t) ** 2).sum()) for s in (scale * 0.99, scale, scale * 1.01)]
        assert squared[1] == min(squared)
    np.testing.assert_allclose(n_mpjpe(pred, target), expected, rtol=1e-12)
    np.testing.assert_allclose(n_mpjpe(pred * 7.5, target), expected, rtol=1e-12)


def test_n_mpjpe_of_coincident_joints_at_the_origin():
    target = random_poses(10)[1]
    np.testing.assert_allclose(
        n_mpjpe(np.zeros_like(target), target), np.linalg.norm(target, axis=-1).mean(-1), rtol=1e-12
    )


def test_motion_errors_against_loops():
    pred, target = random_poses(11, count=12)
    velocity = [
        np.mean([np.linalg.norm((pred[f + 1, j] - pred[f, j]) - (target[f + 1, j] - target[f, j])) for j in range(17)])
        for f in range(11)
    ]
    acceleration = [
        np.mean(
            [
                np.linalg.norm(
                    (pred[f + 2, j] - 2 * pred[f + 1, j] + pred[f, j])
                    - (target[f + 2, j] - 2 * target[f + 1, j] + target[f, j])
                )
                for j in range(17)
            ]
        )
        for f in range(10)
    ]
    np.testing.assert_allclose(mpjve(pred, target), velocity, rtol=1e-10)
    np.testing.assert_allclose(acceleration_error(pred, target), acceleration, rtol=1e-10)


def test_motion_errors_ignore_what_does_not_move():
    rng = np.random.default_rng(12)
    target = rng.normal(size=(9, 17, 3))
    offset = rng.normal(size=(1, 17, 3))
    drift = np.arange(9)[:, None, None] * rng.normal(size=(1, 17, 3))
    np.testing.assert_allclose(mpjve(target + offset, target), 0.0, atol=1e-12)
    np.testing.assert_allclose(acceleration_error(target + offset + drift, target), 0.0, atol=1e-12)
    assert mpjve(target + drift, target).min() > 0.1


@pytest.mark.parametrize(("frames", "velocities", "accelerations"), [(1, 0, 0), (2, 1, 0), (3, 2, 1), (10, 9, 8)])
def test_motion_errors_of_short_sequences(frames, velocities, accelerations):
    pred, target = random_poses(13, count=frames)
    assert mpjve(pred, target).shape == (velocities,)
    assert acceleration_error(pred, target).shape == (accelerations,)


@pytest.mark.parametrize("metric", [mpjpe, p_mpjpe, n_mpjpe, mpjve, acceleration_error])
def test_the_unit_is_the_input_s(metric):
    pred, target = random_poses(14)
    np.testing.assert_allclose(metric(pred * 1000, target * 1000), 1000 * metric(pred, target), rtol=1e-5)


def test_pck_is_strict_and_leaves_the_last_three_joints_out():
    target = random_poses(15, count=2)[1]
    pred = target.copy()
    pred[0, :4, 1] += 0.151
    pred[0, 14:, 1] += 5.0
    np.testing.assert_allclose(pck(pred, target), [10 / 14, 1.0])
    distances = np.zeros((1, 17, 3))
    distances[0, :, 0] = 0.150
    assert pck(distances, np.zeros_like(distances))[0] == 0.0
    assert pck(distances, np.zeros_like(distances), threshold=np.nextafter(0.150, 1))[0] == 1.0


def test_auc_is_the_mean_pck_over_31_thresholds():
    pred, target = random_poses(16, noise=0.06)
    assert len(AUC_THRESHOLDS_M) == 31 and AUC_THRESHOLDS_M[0] == 0.0
    assert AUC_THRESHOLDS_M[-1] == pytest.approx(0.150, abs=1e-15)
    expected = np.mean([pck(pred, target, threshold=t) for t in AUC_THRESHOLDS_M], axis=0)
    np.testing.assert_allclose(auc(pred, target), expected, rtol=1e-12)
    np.testing.assert_allclose(auc(target, target), 30 / 31)


def test_pck_and_auc_refuse_bad_options():
    pred, target = random_poses(17)
    with pytest.raises(ShapeError, match="scored joints"):
        pck(pred, target, joints=[3, 17])
    with pytest.raises(ShapeError, match="scored joints"):
        auc(pred, target, joints=[])
    with pytest.raises(UnitError, match="threshold"):
        auc(pred, target, thresholds=[])


def test_root_relative():
    pose = random_poses(18)[1].astype(np.float32)
    for root in (0, 7):
        relative = root_relative(pose, root=root)
        assert relative.dtype == np.float32
        assert not relative[:, root].any()
        np.testing.assert_allclose(relative + pose[:, root : root + 1], pose, atol=1e-6)
    with pytest.raises(ShapeError, match="joint 17"):
        root_relative(pose, root=17)


@pytest.mark.parametrize("metric", POSE_METRICS + MOTION_METRICS)
def test_bad_input_is_named(metric):
    pred, target = random_poses(19)
    for bad, error, match in [
        (pred[:, :16], ShapeError, "same shape"),
        (pred[:5], ShapeError, "same shape"),
        (pred[..., :2], ShapeError, r"\(40, 17, 2\)"),
        (pred[0], ShapeError, r"\(17, 3\)"),
        (pred[:0], EmptySequenceError, "at least one pose"),
        (pred.astype(complex), DTypeError, "complex"),
        (pred.astype(object), DTypeError, "object"),
    ]:
        with pytest.raises(error, match=match):
            metric(bad, target)
        assert issubclass(error, RefinerError)
    for value in (np.nan, np.inf, -np.inf):
        broken = pred.copy()
        broken[23, 4, 1] = value
        with pytest.raises(NonFiniteError, match=r"1 of 40 poses.*index 23"):
            metric(broken, target)
        with pytest.raises(NonFiniteError, match="target"):
            metric(pred, broken)
