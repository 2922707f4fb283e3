"""Oracles: what the best choice among hypotheses would score. They see the ground truth, so that no result that a
reader might take for an accuracy may come from here without the word oracle beside it (D3DP's P-Best and J-Best).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import ShapeError
from refiner.evaluation.metrics import root_relative
from refiner.hypotheses import take_joints

# How the columns of a report are labelled.
ORACLE_POSE, ORACLE_JOINTS = "oracle P-Best", "oracle J-Best"


def oracle_best_pose(hypotheses: ArrayLike, target: ArrayLike) -> NDArray[Any]:
    """Of every pose the hypothesis with the least MPJPE (P-Best): ``(H, F, J, 3)``, ``(F, J, 3)`` -> ``(F, J, 3)``.

    Both are made root-relative. Every pose is chosen by itself; the published code takes one hypothesis for a whole
    batch, a number that depends on the size of the batch.
    """
    poses, distance = _distances(hypotheses, target)
    chosen = distance.mean(axis=-1).argmin(axis=0)
    return take_joints(poses, np.broadcast_to(chosen[:, None], poses.shape[1:3]))


def oracle_best_joints(hypotheses: ArrayLike, target: ArrayLike) -> NDArray[Any]:
    """Of every joint the hypothesis that is nearest to the truth (J-Best): as `oracle_best_pose`."""
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
