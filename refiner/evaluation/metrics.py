"""Pose errors in the unit of the input. All sums are computed in float64.

The position metrics take two stacks of poses ``(N, J, 3)`` and return one value per pose. The motion metrics take two
sequences ``(F, J, 3)`` of consecutive frames and return one value per frame step. No metric makes the poses
root-relative. Human3.6M's protocol scores root-relative poses, so pass both arrays through `root_relative` first
(`refiner.evaluation.evaluate_sequences` does this).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner import native
from refiner.errors import DTypeError, EmptySequenceError, NonFiniteError, ShapeError, UnitError

Array = NDArray[np.float64]

# MPI-INF-3DHP scores 14 joints. Pelvis, spine and head are the last three of its 17 test joints and are not scored.
MPI_INF_3DHP_SCORED_JOINTS: tuple[int, ...] = tuple(range(14))
PCK_THRESHOLD_M = 0.150
# 0, 5, ..., 150 mm: 31 thresholds, including 0.
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
    """Check both stacks and convert them to float64. Raises an InputError subclass if they cannot be scored."""
    predicted, expected = _pose_stack("pred", pred), _pose_stack("target", target)
    if predicted.shape != expected.shape:
        raise ShapeError(f"pred and target must have the same shape, got {predicted.shape} and {expected.shape}")
    return predicted, expected


def root_relative(pose_3d: ArrayLike, root: int = 0) -> NDArray[Any]:
    """Subtract the root joint from all joints.

    Args:
        pose_3d: ``(..., J, 3)`` in any unit.
        root: The index of the root joint.

    Returns:
        ``(..., J, 3)`` of the same float type. The root is exactly 0.

    Raises:
        ShapeError: The array does not hold poses, or there is no joint ``root``.
    """
    pose = np.asarray(pose_3d)
    if pose.ndim < 2 or pose.shape[-1] != 3 or not 0 <= root < pose.shape[-2]:
        raise ShapeError(f"expected poses (..., joints, 3) with a joint {root}, got {pose.shape}")
    relative: NDArray[Any] = pose - pose[..., root : root + 1, :]
    return relative


def mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """Compute the mean per-joint position error (MPJPE, "protocol 1").

    The mean includes the root, whose error is 0 for root-relative poses. The papers' tables do the same.

    Args:
        pred: ``(N, J, 3)`` in any unit.
        target: The same shape and unit.

    Returns:
        ``(N,)`` in the unit of the input.

    Raises:
        ShapeError: The arrays do not hold poses, or their shapes differ.
        EmptySequenceError: There are no poses.
        NonFiniteError: A pose holds NaN or infinite values.
        DTypeError: An array does not hold real numbers.
    """
    predicted, expected = _pose_pair(pred, target)
    return _mean_over_joints(_joint_errors(predicted, expected))


def p_mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """Compute the MPJPE after a similarity alignment (scale, rotation, translation) of each pose ("protocol 2").

    Reflections are excluded. If all joints of a prediction coincide, its scale is undefined, and the alignment moves it
    to the target's centroid.

    The arguments, the result ``(N,)`` and the errors are the same as for `mpjpe`.
    """
    predicted, expected = _pose_pair(pred, target)
    return np.asarray(native.p_mpjpe(predicted, expected), dtype=np.float64)


def n_mpjpe(pred: ArrayLike, target: ArrayLike) -> Array:
    """Compute the MPJPE after a least-squares scaling of each prediction about the origin.

    The scale is s = <pred, target> / <pred, pred>; a prediction of zeros stays zero. Pass root-relative poses.

    The arguments, the result ``(N,)`` and the errors are the same as for `mpjpe`.
    """
    predicted, expected = _pose_pair(pred, target)
    power = np.einsum("njc,njc->n", predicted, predicted)
    overlap = np.einsum("njc,njc->n", predicted, expected)
    scale = np.divide(overlap, power, out=np.zeros_like(power), where=power > 0.0)
    return _mean_over_joints(_joint_errors(scale[:, None, None] * predicted, expected))


def mpjve(pred: ArrayLike, target: ArrayLike) -> Array:
    """Compute the mean per-joint velocity error: the mean norm of the difference of frame-to-frame displacements.

    Args:
        pred: ``(F, J, 3)``, consecutive frames of one clip, in any unit.
        target: The same shape and unit.

    Returns:
        ``(F - 1,)`` in the unit of the input per frame; empty for a single frame.

    Raises:
        ShapeError, EmptySequenceError, NonFiniteError, DTypeError: See `mpjpe`.
    """
    return _motion_error(pred, target, order=1)


def acceleration_error(pred: ArrayLike, target: ArrayLike) -> Array:
    """Compute the acceleration error: the mean norm of the difference of second differences.

    Args:
        pred: ``(F, J, 3)``, consecutive frames of one clip, in any unit.
        target: The same shape and unit.

    Returns:
        ``(F - 2,)`` in the unit of the input per frame squared; empty for fewer than three frames.

    Raises:
        ShapeError, EmptySequenceError, NonFiniteError, DTypeError: See `mpjpe`.
    """
    return _motion_error(pred, target, order=2)


def pck(
    pred: ArrayLike,
    target: ArrayLike,
    threshold: float = PCK_THRESHOLD_M,
    joints: Sequence[int] = MPI_INF_3DHP_SCORED_JOINTS,
) -> Array:
    """Compute PCK, the fraction of the scored joints whose error is strictly below ``threshold``.

    Args:
        pred: ``(N, J, 3)`` in any unit.
        target: The same shape and unit.
        threshold: The largest error in the unit of the input; the default is 150 mm for poses in metres.
        joints: The scored joints; the default is MPI-INF-3DHP's 14 joints, in its own joint order.

    Returns:
        ``(N,)`` between 0 and 1.

    Raises:
        ShapeError: See `mpjpe`, or a scored joint does not exist.
        EmptySequenceError, NonFiniteError, DTypeError: See `mpjpe`.
    """
    return _mean_over_joints(_scored_errors(pred, target, joints) < threshold)


def auc(
    pred: ArrayLike,
    target: ArrayLike,
    thresholds: Sequence[float] = AUC_THRESHOLDS_M,
    joints: Sequence[int] = MPI_INF_3DHP_SCORED_JOINTS,
) -> Array:
    """Compute AUC, the mean of `pck` over several thresholds.

    No error is strictly below a threshold of 0, so a perfect pose scores 30 / 31 with the default thresholds.

    Args:
        pred: ``(N, J, 3)`` in any unit.
        target: The same shape and unit.
        thresholds: The thresholds in the unit of the input; the default is MPI-INF-3DHP's 31 thresholds in metres.
        joints: The scored joints; see `pck`.

    Returns:
        ``(N,)`` between 0 and 1.

    Raises:
        UnitError: There are no thresholds.
        ShapeError, EmptySequenceError, NonFiniteError, DTypeError: See `pck`.
    """
    if len(thresholds) == 0:
        raise UnitError("auc needs at least one threshold")
    errors = _scored_errors(pred, target, joints)
    # The thresholds to the right of the insertion point are the thresholds strictly above the error.
    ordered = np.sort(np.asarray(thresholds, dtype=np.float64))
    above = len(ordered) - np.searchsorted(ordered, errors, side="right")
    return _mean_over_joints(above) / len(ordered)


def _scored_errors(pred: ArrayLike, target: ArrayLike, joints: Sequence[int]) -> Array:
    predicted, expected = _pose_pair(pred, target)
    chosen = list(joints)
    if not chosen or min(chosen) < 0 or max(chosen) >= predicted.shape[1]:
        raise ShapeError(f"the scored joints {chosen} do not all exist in poses of {predicted.shape[1]} joints")
    return _joint_errors(predicted[:, chosen], expected[:, chosen])


def _motion_error(pred: ArrayLike, target: ArrayLike, order: int) -> Array:
    predicted, expected = _pose_pair(pred, target)
    # The difference of the two motions is the motion of the error, so one pass is enough.
    change = np.diff(predicted - expected, n=order, axis=0)
    return _mean_over_joints(np.linalg.norm(change, axis=-1))


def _joint_errors(predicted: Array, expected: Array) -> Array:
    errors: Array = np.linalg.norm(predicted - expected, axis=-1)
    return errors


def _mean_over_joints(values: NDArray[Any]) -> Array:
    mean: Array = values.mean(axis=-1, dtype=np.float64)
    return mean
