"""One body shape for a sequence: a person's bones have constant lengths, but estimated poses change them per frame."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_numbers
from refiner.data.inputs import check_pose_3d
from refiner.errors import InputError
from refiner.skeleton import H36M17

# The frames that share one body shape: one clip from one camera, all clips of a person from one camera, or all clips of
# a person from all cameras.
ShapeOf = Literal["clip", "camera", "person"]

# The direction of a bone shorter than this is undefined.
SHORTEST_M = 1e-6


def bone_lengths(pose_3d: ArrayLike) -> NDArray[np.float64]:
    """Return the distance from each joint to its parent.

    Args:
        pose_3d: ``(F, 17, 3)`` metres, in Human3.6M's joints.

    Returns:
        ``(F, 17)`` metres; 0 for the root.
    """
    pose = np.asarray(pose_3d, dtype=np.float64)
    lengths = np.zeros(pose.shape[:-1])
    for parent, joint in H36M17.bones:
        lengths[..., joint] = np.linalg.norm(pose[..., joint, :] - pose[..., parent, :], axis=-1)
    return lengths


def pooled_lengths(pose_3d: ArrayLike) -> NDArray[np.float64]:
    """Return one length per bone for a person: the median over the frames, averaged over left and right.

    Args:
        pose_3d: ``(F, 17, 3)`` metres, poses of one person.

    Returns:
        ``(17,)`` metres from each joint to its parent.
    """
    pooled = np.median(bone_lengths(pose_3d), axis=0)
    halves: NDArray[np.float64] = 0.5 * (pooled + pooled[list(H36M17.flip_order)])
    return halves


def check_bone_lengths(lengths: ArrayLike) -> NDArray[np.float64]:
    """Check a caller's bone lengths ``(17,)``, in metres from each joint to its parent.

    Raises InputError if they have another shape or are negative or not finite.
    """
    checked = as_numbers(lengths, "pool_shape", "expected 17 bone lengths in metres")
    if checked.shape != (17,) or not np.isfinite(checked).all() or (checked < 0).any():
        raise InputError(
            f"expected 17 bone lengths in metres, each 0 or more, like the result of refiner.shape.pooled_lengths; got "
            f"{checked.shape if checked.shape != (17,) else checked}"
        )
    return checked


def pool_shape(pose_3d: ArrayLike, lengths: ArrayLike | None = None) -> NDArray[np.float32]:
    """Give every frame of a sequence the same bone lengths. The bones keep their directions.

    An estimator guesses the size of a person again in every frame. The median over a clip is a better guess, and the
    true bone lengths are the same in all frames.

    Args:
        pose_3d: ``(F, 17, 3)`` metres, poses of **one** person in Human3.6M's joints. The root may be anywhere; it does
            not move.
        lengths: ``(17,)`` metres from each joint to its parent, if they are known; the root's value is not used. None:
            `pooled_lengths` of this sequence.

    Returns:
        ``(F, 17, 3)``. A bone whose two joints coincide has no direction and stays unchanged.

    Raises:
        InputError: An input is wrong. The subclasses are the same as for `refiner.Refiner.refine`.
    """
    return pool_checked(check_pose_3d(pose_3d, H36M17), None if lengths is None else check_bone_lengths(lengths))


def pool_checked(pose_3d: NDArray[np.float32], lengths: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Do the same as `pool_shape`, for poses and lengths that have already been checked."""
    pose, estimated = pose_3d.astype(np.float64), bone_lengths(pose_3d)
    target = pooled_lengths(pose_3d) if lengths is None else lengths
    pooled = pose.copy()
    for parent, joint in H36M17.bones:
        length = estimated[:, joint]
        usable = length > SHORTEST_M
        factor = np.where(usable, target[joint] / np.where(usable, length, 1.0), 1.0)
        pooled[:, joint] = pooled[:, parent] + factor[:, None] * (pose[:, joint] - pose[:, parent])
    return pooled.astype(np.float32)


def pool_together(poses: Sequence[NDArray[np.float32]], people: Sequence[Hashable]) -> list[NDArray[np.float32]]:
    """Give all sequences of a person the same bone lengths: `pooled_lengths` over all frames of that person.

    An estimator's error in a bone length depends on the pose. A clip of a few seconds shows few poses; over many clips
    the errors average out.

    Args:
        poses: One array ``(F, 17, 3)`` in metres per sequence.
        people: One name per sequence. Sequences of the same name belong to one person.

    Returns:
        One array ``(F, 17, 3)`` per sequence, with the same frames and root positions.

    Raises:
        InputError: An array has another shape, or the numbers of sequences and names differ.
    """
    if isinstance(people, str) or len(poses) != len(people):
        raise InputError(f"expected a name for each of {len(poses)} sequences, got {people!r}")
    for pose in poses:
        if pose.ndim != 3 or pose.shape[1:] != (17, 3) or not len(pose):
            raise InputError(f"expected sequences of (frames, 17, 3) metres, got one of shape {pose.shape}")
    members: dict[Hashable, list[NDArray[np.float32]]] = {}
    for pose, person in zip(poses, people, strict=True):
        members.setdefault(person, []).append(pose)
    lengths = {person: pooled_lengths(np.concatenate(parts)) for person, parts in members.items()}
    return [pool_checked(pose, lengths[person]) for pose, person in zip(poses, people, strict=True)]
