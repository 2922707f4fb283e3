"""One body shape for a sequence: bones do not change their length from frame to frame, estimates of them do."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.inputs import check_pose_3d
from refiner.skeleton import H36M17

# A bone shorter than this has no direction to be drawn in.
SHORTEST_M = 1e-6


def bone_lengths(pose_3d: ArrayLike) -> NDArray[np.float64]:
    """``(F, 17, 3)`` metres in Human3.6M's joints -> ``(F, 17)`` metres from each joint to its parent, the root's 0."""
    pose = np.asarray(pose_3d, dtype=np.float64)
    lengths = np.zeros(pose.shape[:-1])
    for parent, joint in H36M17.bones:
        lengths[..., joint] = np.linalg.norm(pose[..., joint, :] - pose[..., parent, :], axis=-1)
    return lengths


def pooled_lengths(pose_3d: ArrayLike) -> NDArray[np.float64]:
    """``(F, 17, 3)`` metres of one person -> ``(17,)``: the median of each bone over the frames, left and right the
    same."""
    pooled = np.median(bone_lengths(pose_3d), axis=0)
    halves: NDArray[np.float64] = 0.5 * (pooled + pooled[list(H36M17.flip_order)])
    return halves


def pool_shape(pose_3d: ArrayLike, lengths: ArrayLike | None = None) -> NDArray[np.float32]:
    """Give every frame the same bones: directions are kept, lengths are replaced, from the root outwards.

    Args:
        pose_3d: ``(F, 17, 3)`` metres of **one** person in Human3.6M's joints, the root anywhere; it stays.
        lengths: ``(17,)`` metres from each joint to its parent where they are known (the root's is not used);
            by default `pooled_lengths` of the sequence itself.

    Returns ``(F, 17, 3)``. A bone whose ends coincide has no direction and stays as it is. An estimator guesses the
    size of a person anew in every frame; the median over a clip is a better guess, and no frame has a reason to differ.
    Raises as `refiner.Refiner.refine` for wrong input.
    """
    return pool_checked(check_pose_3d(pose_3d, H36M17), lengths)


def pool_checked(pose_3d: NDArray[np.float32], lengths: ArrayLike | None = None) -> NDArray[np.float32]:
    """`pool_shape` for poses that have been checked."""
    pose, found = pose_3d.astype(np.float64), bone_lengths(pose_3d)
    target = pooled_lengths(pose_3d) if lengths is None else np.asarray(lengths, dtype=np.float64)
    pooled = pose.copy()
    for parent, joint in H36M17.bones:
        length = found[:, joint]
        usable = length > SHORTEST_M
        factor = np.where(usable, target[joint] / np.where(usable, length, 1.0), 1.0)
        pooled[:, joint] = pooled[:, parent] + factor[:, None] * (pose[:, joint] - pose[:, parent])
    return pooled.astype(np.float32)
