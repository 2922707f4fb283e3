"""One body shape for a sequence: bones do not change their length from frame to frame, estimates of them do."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.inputs import check_pose_3d
from refiner.errors import InputError
from refiner.skeleton import H36M17

# Over what a body shape is pooled: one clip by one camera, all clips of a person by one camera, or by every camera.
ShapeOf = Literal["clip", "camera", "person"]

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


def check_bone_lengths(lengths: ArrayLike) -> NDArray[np.float64]:
    """``(17,)`` metres from each joint to its parent, as they are given. Raises InputError for anything else."""
    try:
        found = np.asarray(lengths, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected 17 bone lengths in metres, got {lengths!r}") from error
    if found.shape != (17,) or not np.isfinite(found).all() or (found < 0).any():
        raise InputError(
            f"expected 17 bone lengths in metres, of 0 or more, as refiner.shape.pooled_lengths gives them; got "
            f"{found.shape if found.shape != (17,) else found}"
        )
    return found


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
    return pool_checked(check_pose_3d(pose_3d, H36M17), None if lengths is None else check_bone_lengths(lengths))


def pool_checked(pose_3d: NDArray[np.float32], lengths: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """`pool_shape` for poses and lengths that have been checked."""
    pose, found = pose_3d.astype(np.float64), bone_lengths(pose_3d)
    target = pooled_lengths(pose_3d) if lengths is None else lengths
    pooled = pose.copy()
    for parent, joint in H36M17.bones:
        length = found[:, joint]
        usable = length > SHORTEST_M
        factor = np.where(usable, target[joint] / np.where(usable, length, 1.0), 1.0)
        pooled[:, joint] = pooled[:, parent] + factor[:, None] * (pose[:, joint] - pose[:, parent])
    return pooled.astype(np.float32)


def pool_together(poses: Sequence[NDArray[np.float32]], people: Sequence[Hashable]) -> list[NDArray[np.float32]]:
    """One body shape for all sequences of a person: each ``(F, 17, 3)`` metres with the `pooled_lengths` of all frames
    that share its entry of ``people``, its frames and its root as they were.

    ``people`` has a name for each sequence. Raises InputError for other shapes than these, and for unequal numbers.

    A clip of a few seconds shows a person in few poses, and an estimator's mistakes about the bones belong to poses;
    over many clips they even out.
    """
    if isinstance(people, str) or len(poses) != len(people):
        raise InputError(f"expected a name for each of {len(poses)} sequences, got {people!r}")
    for pose in poses:
        if pose.ndim != 3 or pose.shape[1:] != (17, 3) or not len(pose):
            raise InputError(f"expected sequences of (frames, 17, 3) metres, got one of {pose.shape}")
    members: dict[Hashable, list[NDArray[np.float32]]] = {}
    for pose, person in zip(poses, people, strict=True):
        members.setdefault(person, []).append(pose)
    lengths = {person: pooled_lengths(np.concatenate(parts)) for person, parts in members.items()}
    return [pool_checked(pose, lengths[person]) for pose, person in zip(poses, people, strict=True)]
