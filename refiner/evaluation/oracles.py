"""Oracles, which choose the best among several pose hypotheses (D3DP's P-Best and J-Best).

An oracle uses the ground truth. Its score is an upper bound and not the accuracy of a method, so every table must label
it with the word "oracle".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import ShapeError
from refiner.evaluation.metrics import root_relative
from refiner.hypotheses import take_joints

# The labels of the columns in a report.
ORACLE_POSE, ORACLE_JOINTS = "oracle P-Best", "oracle J-Best"


def oracle_best_pose(hypotheses: ArrayLike, target: ArrayLike) -> NDArray[Any]:
    """Choose, for every frame, the hypothesis with the lowest MPJPE (P-Best).

    Each frame is chosen separately. The published code chooses one hypothesis for a whole batch, so its score depends
    on the batch size.

    Args:
        hypotheses: ``(H, F, J, 3)``. Hypotheses and target are made root-relative.
        target: The ground truth ``(F, J, 3)``, in the same unit.

    Returns:
        ``(F, J, 3)``.

    Raises:
        ShapeError: The arrays have other shapes.
    """
    poses, distance = _distances(hypotheses, target)
    chosen = distance.mean(axis=-1).argmin(axis=0)
    return take_joints(poses, np.broadcast_to(chosen[:, None], poses.shape[1:3]))


def oracle_best_joints(hypotheses: ArrayLike, target: ArrayLike) -> NDArray[Any]:
    """Choose, for every joint, the hypothesis that is nearest to the ground truth (J-Best).

    The arguments, the result and the errors are the same as for `oracle_best_pose`.
    """
    poses, distance = _distances(hypotheses, target)
    return take_joints(poses, distance.argmin(axis=0))


def _distances(hypotheses: ArrayLike, target: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    poses, truth = np.asarray(hypotheses), np.asarray(target)
    if poses.ndim != 4 or poses.shape[1:] != truth.shape or truth.shape[-1] != 3:
        raise ShapeError(
            f"hypotheses have shape {poses.shape} and the truth {truth.shape}, expected (hypotheses, frames, joints, "
            "3) and (frames, joints, 3)"
        )
    poses = root_relative(poses)
    error = poses.astype(np.float64) - root_relative(truth.astype(np.float64))
    distance: NDArray[np.float64] = np.linalg.norm(error, axis=-1)
    return poses, distance
