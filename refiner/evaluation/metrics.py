"""Pose errors in the unit of the input; every sum is taken in float64.

The position metrics take two stacks of poses ``(N, J, 3)`` and return one value per pose; the motion metrics
take two sequences ``(F, J, 3)`` of consecutive frames and return one value per frame step. None of them moves
a pose to its root: Human3.6M's protocol scores root-relative poses, so pass both through `root_relative`
first (`refiner.evaluation.evaluate_sequences` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner import native
from refiner.errors import DTypeError, EmptySequenceError, NonFiniteError, ShapeError, UnitError

Array = NDArray[np.float64]

# MPI-INF-3DHP scores 14 joints: in the order of its 17-joint test annotation, pelvis, spine and head come last.
MPI_INF_3DHP_SCORED_JOINTS: tuple[int, ...] = tuple(range(14))
PCK_THRESHOLD_M = 0.150
# 0, 5, ..., 150 mm: 31 thresholds, zero included.
AUC_THRESHOLDS_M: tuple[float, ...] = tuple(step * 0.005 for step in range(31))


def _pose_stack(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    if array.ndim != 3 or array.shape[1] == 0 or array.shape[2] != 3:
        raise ShapeError(f"{name}: expected an array (poses, joints, 3) with at least one joint, got {array.shape}")
    if array.shape[0] == 0:
        raise EmptySequenceError(f"{name}: expected at least one pose, got {array.shape}")
    converted: Array = np.ascontiguousarray(array, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(converted).all(axis=(1, 2)))
    if len(bad):
        raise NonFiniteError(
            f"{name}: {len(bad)} of {len(converted)} poses hold NaN or infinite values, the first at index "
            f"{int(bad[0])}; leave those frames out before scoring"
        )
    return converted


def _pose_pair(pred: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Both stacks as float64, of equal shape. Raises the InputError subclass that says what is wrong."""
    predicted, expected = _pose_stack("pred", pred), _pose_stack("target", target)
    if predicted.shape != expected.shape:
        raise ShapeError(f"pred and target must have the same shape, got {predicted.shape} and {expected.shape}")
    return predicted, expected


def root_relative(pose_3d: ArrayLike, root: int = 0) -> NDArray[Any]:
    """Subtract the root joint: ``(..., J, 3)`` -> ``(..., J, 3)`` of the same float type, root exactly 0.

    Raises ShapeError when the array is no pose or has no joint ``root``.
    """
    pose = np.asarray(pose_3d)
    if pose.ndim < 2 or pose.shape[-1] != 3 or not 0 <= root < pose.shape[-2]:
        raise ShapeError(f"expected poses (..., joints, 3) with a joint {root}, got {pose.shape}")
    relative: NDArray[Any] = pose - pose[..., root : root + 1, :]
    return relative


def mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """Mean per-joint position error ("protocol 1"): ``(N, J, 3)`` twice -> ``(N,)``, unit of the input.

    Every joint counts, the root too: with root-relative poses it adds a 0 to the mean, as in the papers' tables.
    Raises ShapeError, EmptySequenceError, NonFiniteError or DTypeError.
    """
    predicted, expected = _pose_pair(pred, target)
    return _mean_over_joints(_joint_errors(predicted, expected))


def p_mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """MPJPE after a similarity alignment of each pose (scale, rotation, translation; "protocol 2").

    ``(N, J, 3)`` twice -> ``(N,)``, unit of the input. Reflections are excluded. A prediction whose joints
    coincide has no scale and is placed at the target's centroid. Raises as `mpjpe`.
    """
    predicted, expected = _pose_pair(pred, target)
    return np.asarray(native.p_mpjpe(predicted, expected), dtype=np.float64)


def n_mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """MPJPE after the least-squares scale of each prediction, about the origin of the poses.

    ``(N, J, 3)`` twice -> ``(N,)``, unit of the input; pass root-relative poses. s = <pred, target> / <pred, pred>;
    a prediction that is all 0 stays so. Raises as `mpjpe`.
    """
    predicted, expected = _pose_pair(pred, target)
    power = np.einsum("njc,njc->n", predicted, predicted)
    overlap = np.einsum("njc,njc->n", predicted, expected)
    scale = np.divide(overlap, power, out=np.zeros_like(power), where=power > 0.0)
    return _mean_over_joints(_joint_errors(scale[:, None, None] * predicted, expected))


def mpjve(pred: ArrayLike, target: ArrayLike) -> Array:
    """Mean per-joint velocity error: mean norm of the difference of frame-to-frame displacements.

    ``(F, J, 3)`` twice -> ``(F - 1,)``, unit of the input per frame; empty for a single frame. The frames must
    be consecutive frames of one clip. Raises as `mpjpe`.
    """
    return _motion_error(pred, target, order=1)


def acceleration_error(pred: ArrayLike, target: ArrayLike) -> Array:
    """Mean norm of the difference of second differences: ``(F, J, 3)`` twice -> ``(F - 2,)``.

    Unit of the input per frame squared; empty for fewer than three frames. The frames must be consecutive
    frames of one clip. Raises as `mpjpe`.
    """
    return _motion_error(pred, target, order=2)


def pck(
    pred: ArrayLike,
    target: ArrayLike,
    threshold: float = PCK_THRESHOLD_M,
    joints: Sequence[int] = MPI_INF_3DHP_SCORED_JOINTS,
) -> Array:
    """Share of the scored joints strictly below ``threshold``: ``(N, J, 3)`` twice -> ``(N,)`` in 0..1.

    ``threshold`` is in the unit of the input; the default, 150 mm, is for metres. ``joints`` are the ones that
    count; the default is MPI-INF-3DHP's 14 in that data set's own joint order. Raises as `mpjpe`.
    """
    return _mean_over_joints(_scored_errors(pred, target, joints) < threshold)


def auc(
    pred: ArrayLike,
    target: ArrayLike,
    thresholds: Sequence[float] = AUC_THRESHOLDS_M,
    joints: Sequence[int] = MPI_INF_3DHP_SCORED_JOINTS,
) -> Array:
    """Mean PCK over ``thresholds``: ``(N, J, 3)`` twice -> ``(N,)`` in 0..1; MPI-INF-3DHP's 31 by default.

    A threshold of 0 is never met (the comparison is strict), so a perfect pose scores 30 / 31 with the default.
    Raises as `mpjpe`, and UnitError for no thresholds.
    """
    if len(thresholds) == 0:
        raise UnitError("auc needs at least one threshold")
    errors = _scored_errors(pred, target, joints)
    # Number of thresholds above an error, strictly: the thresholds that remain right of its insertion point.
    ordered = np.sort(np.asarray(thresholds, dtype=np.float64))
    met = len(ordered) - np.searchsorted(ordered, errors, side="right")
    return _mean_over_joints(met) / len(ordered)


def _scored_errors(pred: ArrayLike, target: ArrayLike, joints: Sequence[int]) -> Array:
    predicted, expected = _pose_pair(pred, target)
    chosen = list(joints)
    if not chosen or min(chosen) < 0 or max(chosen) >= predicted.shape[1]:
        raise ShapeError(f"the scored joints {chosen} do not all exist in poses of {predicted.shape[1]} joints")
    return _joint_errors(predicted[:, chosen], expected[:, chosen])


def _motion_error(pred: ArrayLike, target: ArrayLike, order: int) -> Array:
    predicted, expected = _pose_pair(pred, target)
    # The difference of the differences is the difference of the error: one pass instead of two.
    change = np.diff(predicted - expected, n=order, axis=0)
    return _mean_over_joints(np.linalg.norm(change, axis=-1))


def _joint_errors(predicted: Array, expected: Array) -> Array:
    errors: Array = np.linalg.norm(predicted - expected, axis=-1)
    return errors


def _mean_over_joints(values: NDArray[Any]) -> Array:
    mean: Array = values.mean(axis=-1, dtype=np.float64)
    return mean
