"""Joint sets, their left/right symmetry, and conversions to and from Human3.6M's 17 joints.

The functions take NumPy arrays with any leading dimensions: ``(..., joints, 2 or 3)``. `flip_pose` also takes
tensors of other libraries, because it only indexes and multiplies.

If a joint set lacks a joint of the target set, the conversion computes the joint as an affine combination (weights
that sum to 1) of existing joints. Therefore a conversion commutes with translation, rotation and scaling of the pose,
in 3D and in pixels. Joints of weight zero do not take part in the sum. A NaN in one joint therefore reaches only the
joints that are computed from it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arguments import check_choice
from refiner.arrays import REAL, as_array
from refiner.errors import ConfigError, DTypeError, JointCountError, ShapeError, UsageError
from refiner.joint_sets import (
    AIC14,
    BODY25,
    COCO17,
    COCO18,
    CROWDPOSE14,
    H36M17,
    H36M32,
    HALPE26,
    JOINT_SETS,
    MEDIAPIPE33,
    MPI_INF_3DHP,
    MPI_INF_3DHP28,
    MPII16,
    JointSet,
)

__all__ = [
    "AIC14",
    "BODY25",
    "COCO17",
    "COCO18",
    "CROWDPOSE14",
    "H36M17",
    "H36M32",
    "H36M_32_TO_17",
    "HALPE26",
    "JOINT_NAMES",
    "JOINT_SETS",
    "LEFT",
    "MEDIAPIPE33",
    "MPII16",
    "MPI_INF_3DHP",
    "MPI_INF_3DHP28",
    "PARENTS",
    "RIGHT",
    "JointSet",
    "confidence_to_h36m17",
    "flip_pose",
    "from_h36m17",
    "joint_set",
    "to_h36m17",
]

PoseT = TypeVar("PoseT")
Recipe = tuple[tuple[tuple[int, float], ...], ...]
_Pair = tuple[int, int]


JOINT_NAMES = H36M17.joint_names
PARENTS = list(H36M17.parents)
LEFT = list(H36M17.left)
RIGHT = list(H36M17.right)

_REMOVED_FROM_32 = (4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31)
H36M_32_TO_17 = [joint for joint in range(32) if joint not in _REMOVED_FROM_32]
"""The indices of the 17 joints that VideoPose3D keeps from Human3.6M's 32 raw joints.

In the raw tree, the parents of the shoulders are joints 16 and 24, which are copies of the thorax and are removed. In
`PARENTS` the parent of the shoulders is the thorax, as in VideoPose3D.
"""

# The height of the top of the head above the ears, divided by the height of the ears above the shoulder joints. The
# value comes from means of the US Army's survey of 1988 (men): stature 1.756 m, acromion height 1.443 m, ear to crown
# 0.131 m. The shoulder joint lies about 0.04 m below the acromion: 0.131 / (1.756 - 0.131 - 1.443 + 0.04) = 0.59.
_CROWN = 0.6


def _same(*joints: int) -> Recipe:
    return tuple(((joint, 1.0),) for joint in joints)


def _mean(*joints: int) -> tuple[tuple[int, float], ...]:
    return tuple((joint, 1.0 / len(joints)) for joint in joints)


def _from_face(hips: _Pair, shoulders: _Pair, ears: _Pair, nose: int, legs: Recipe, arms: Recipe) -> Recipe:
    """Compute Human3.6M's joints from a joint set that has limbs and a face but no joints of the trunk."""
    head = (
        *((ear, (1 + _CROWN) / 2) for ear in ears),
        *((shoulder, -_CROWN / 2) for shoulder in shoulders),
    )
    spine = _mean(*shoulders, *hips)  # half-way between Hip and Thorax
    return (_mean(*hips), *legs, spine, _mean(*shoulders), *_same(nose), head, *arms)


_COCO_TO_H36M = _from_face(
    hips=(11, 12),
    shoulders=(5, 6),
    ears=(3, 4),
    nose=0,
    legs=_same(12, 14, 16, 11, 13, 15),
    arms=_same(5, 7, 9, 6, 8, 10),
)
_MEDIAPIPE_TO_H36M = _from_face(
    hips=(23, 24),
    shoulders=(11, 12),
    ears=(7, 8),
    nose=0,
    legs=_same(24, 26, 28, 23, 25, 27),
    arms=_same(11, 13, 15, 12, 14, 16),
)
# Spine: half-way between Hip and Thorax.
_HALPE_TO_H36M: Recipe = (
    *_same(19, 12, 14, 16, 11, 13, 15),
    _mean(19, 18),
    *_same(18, 0, 17, 5, 7, 9, 6, 8, 10),
)
_BODY25_TO_H36M: Recipe = (
    *_same(8, 9, 10, 11, 12, 13, 14),
    _mean(8, 1),
    *_same(1, 0),
    ((17, (1 + _CROWN) / 2), (18, (1 + _CROWN) / 2), (2, -_CROWN / 2), (5, -_CROWN / 2)),
    *_same(5, 6, 7, 2, 3, 4),
)
_COCO18_TO_H36M = _from_face(
    hips=(8, 11),
    shoulders=(2, 5),
    ears=(16, 17),
    nose=0,
    legs=_same(8, 9, 10, 11, 12, 13),
    arms=_same(5, 6, 7, 2, 3, 4),
)
_MPII_TO_H36M: Recipe = (*_same(6, 2, 1, 0, 3, 4, 5), _mean(6, 7), *_same(7, 8, 9, 13, 14, 15, 12, 11, 10))


def _from_head_and_neck(hips: _Pair, neck: int, head_top: int, legs: Recipe, arms: Recipe) -> Recipe:
    """Compute Human3.6M's joints from limbs, the lower end of the neck and the top of the head.

    In Human3.6M's skeleton Neck/Nose lies half-way between Thorax and Head (0.117 and 0.115 m).
    """
    spine = ((neck, 0.5), *((hip, 0.25) for hip in hips))
    return (_mean(*hips), *legs, spine, *_same(neck), _mean(neck, head_top), *_same(head_top), *arms)


_AIC_TO_H36M = _from_head_and_neck(
    (6, 9), neck=13, head_top=12, legs=_same(6, 7, 8, 9, 10, 11), arms=_same(3, 4, 5, 0, 1, 2)
)
_CROWDPOSE_TO_H36M = _from_head_and_neck(
    (6, 7), neck=13, head_top=12, legs=_same(7, 9, 11, 6, 8, 10), arms=_same(0, 2, 4, 1, 3, 5)
)
# Both ears get the midpoint between the ears, which inverts the rule for Head. Both eyes get the point half-way from
# there to the nose.
_EARS = ((10, 1 / (1 + _CROWN)), (11, _CROWN / (2 * (1 + _CROWN))), (14, _CROWN / (2 * (1 + _CROWN))))
_EYES = ((9, 0.5), *((joint, weight / 2) for joint, weight in _EARS))
_H36M_TO_COCO: Recipe = (
    *_same(9),
    _EYES,
    _EYES,
    _EARS,
    _EARS,
    *_same(11, 14, 12, 15, 13, 16, 4, 1, 5, 2, 6, 3),
)
_3DHP_ORDER = (14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4)
# The joints of MPI-INF-3DHP's test set among the 28 of its training set, as P-STMO's scripts choose them.
_3DHP_OF_28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)
_TO_H36M = {
    "h36m17": _same(*range(17)),
    "coco17": _COCO_TO_H36M,
    "3dhp": _same(*_3DHP_ORDER),
    "halpe26": _HALPE_TO_H36M,
    "mediapipe33": _MEDIAPIPE_TO_H36M,
    "body25": _BODY25_TO_H36M,
    "coco18": _COCO18_TO_H36M,
    "h36m32": _same(*H36M_32_TO_17),
    "mpii16": _MPII_TO_H36M,
    "aic14": _AIC_TO_H36M,
    "crowdpose14": _CROWDPOSE_TO_H36M,
    "3dhp28": _same(*(_3DHP_OF_28[joint] for joint in _3DHP_ORDER)),
}
_FROM_H36M = {
    "h36m17": _same(*range(17)),
    "coco17": _H36M_TO_COCO,
    "3dhp": _same(*(_3DHP_ORDER.index(joint) for joint in range(17))),
}


def joint_set(name: str) -> JointSet:
    """Return the joint set with this name. Raises UsageError if the name is not in `JOINT_SETS`."""
    return JOINT_SETS[check_choice(name, "joint set", JOINT_SETS)]


def to_h36m17(pose: ArrayLike, source: str | JointSet) -> NDArray[Any]:
    """Convert poses of a joint set to Human3.6M's 17 joints.

    - MPI-INF-3DHP: the conversion is a reordering and is exact. Its neck becomes Thorax, its head becomes Neck/Nose,
      and its head top becomes Head.
    - COCO and MediaPipe: the limbs are copied, and the nose becomes Neck/Nose. Four joints are computed. Hip is the
      midpoint of the hips, Thorax is the midpoint of the shoulders, and Spine is half-way between Hip and Thorax. Head
      lies on the line from the shoulders' midpoint to the ears' midpoint, beyond the ears by 0.6 of that distance.
      Human3.6M's own thorax lies a few centimetres above the midpoint of the shoulders; the computed one does not.
    - Halpe: the pelvis becomes Hip, the neck becomes Thorax, and the head top becomes Head. Spine is half-way between
      Hip and Thorax.
    - MPII: the pelvis becomes Hip, the upper neck becomes Neck/Nose, and the head top becomes Head; Spine is half-way
      between Hip and Thorax.
    - AI Challenger and CrowdPose: the neck becomes Thorax, and the head top becomes Head. Hip is the midpoint of the
      hips, Spine is half-way between Hip and Thorax, and Neck/Nose is half-way between Thorax and Head.

    Args:
        pose: ``(..., J, 2 or 3)`` in any unit, where J is the number of joints of ``source``.
        source: The joint set of ``pose``, or its name.

    Returns:
        ``(..., 17, 2 or 3)``. The float type stays the same; integers become float64.

    Raises:
        UsageError: The joint set is unknown.
        JointCountError: The pose has another number of joints.
        ShapeError: The array is not a stack of poses.
        DTypeError: The array does not hold real numbers.
    """
    joints = _named(source)
    return _combine(_checked(pose, joints), _TO_H36M[joints.name])


def confidence_to_h36m17(confidence: ArrayLike, source: str | JointSet) -> NDArray[Any]:
    """Convert a detector's confidence per joint to Human3.6M's 17 joints.

    Where `to_h36m17` computes a joint from several joints, its confidence is the lowest confidence of these joints.

    Args:
        confidence: ``(..., J)``, where J is the number of joints of ``source``.
        source: The joint set of ``confidence``, or its name.

    Returns:
        ``(..., 17)``.

    Raises:
        UsageError: The joint set is unknown.
        JointCountError: The array has another number of joints.
        DTypeError: The array does not hold real numbers.
    """
    joints = _named(source)
    array = as_array(confidence, "confidence", f"expected (..., {joints.joints})")
    if array.dtype.kind not in f"{REAL}b":
        raise DTypeError(f"the confidence is of type {array.dtype}, expected real numbers")
    if array.ndim < 1 or array.shape[-1] != joints.joints:
        raise JointCountError(
            f"the confidence has shape {array.shape}, expected (..., {joints.joints}) for the joint set {joints.name}"
        )
    recipe = _TO_H36M[joints.name]
    parts = [array[..., [joint for joint, _ in terms]].min(axis=-1) for terms in recipe]
    return np.stack(parts, axis=-1)


def from_h36m17(pose: ArrayLike, target: str | JointSet) -> NDArray[Any]:
    """Convert poses in Human3.6M's 17 joints to another joint set. This is the inverse of `to_h36m17`.

    - MPI-INF-3DHP: the conversion is exact.
    - COCO: the limbs and the nose are exact. The distance between the eyes, and between the ears, cannot be recovered.
      Both ears get the midpoint that Head and the shoulders imply, and both eyes get the point half-way from there to
      the nose. Hip, Spine and Thorax do not exist in COCO and are dropped. ``to_h36m17(from_h36m17(p))`` changes only
      Hip, Spine and Thorax, and it changes nothing in a pose that came from COCO.
    - Halpe and MediaPipe have feet and hands, which cannot be computed from Human3.6M's joints.

    Args:
        pose: ``(..., 17, 2 or 3)`` in any unit.
        target: The joint set of the result, or its name.

    Returns:
        ``(..., J, 2 or 3)``, where J is the number of joints of ``target``.

    Raises:
        UsageError: The joint set is unknown, or it has joints that Human3.6M's joints do not determine.
        JointCountError, ShapeError, DTypeError: See `to_h36m17`.
    """
    joints = _named(target)
    if joints.name not in _FROM_H36M:
        raise UsageError(
            f"{joints.name} has joints that Human3.6M's 17 joints do not determine; choose {', '.join(_FROM_H36M)}"
        )
    return _combine(_checked(pose, H36M17), _FROM_H36M[joints.name])


def joint_order(joints: str) -> tuple[int, ...]:
    """The index in Human3.6M's order of each joint of a set that has the same 17 joints.

    Raises:
        ConfigError: The set has other joints.
        UsageError: The set is unknown.
    """
    numbers = np.repeat(np.arange(float(H36M17.joints))[:, None], 2, axis=1)
    order = numbers[:, 0] if joints == H36M17.name else np.asarray(from_h36m17(numbers, joints))[:, 0]
    if sorted(order.tolist()) != list(range(H36M17.joints)):
        raise ConfigError(f"{joints} is no order of Human3.6M's 17 joints")
    return tuple(int(joint) for joint in order)


def flip_pose(pose: PoseT, joint_set: JointSet = H36M17) -> PoseT:
    """Mirror poses: negate x (coordinate 0) and swap the left and right joints.

    Args:
        pose: Root-relative 3D poses ``(..., J, 3)`` or normalised 2D poses ``(..., J, 2)``, as a NumPy array or a
            PyTorch tensor. The mirror plane is x = 0, so pixels must be normalised first.
        joint_set: The joint set of ``pose``.

    Returns:
        A mirrored copy of the same kind, shape and type.

    Raises:
        JointCountError: The pose has another number of joints.
    """
    array: Any = pose
    if len(array.shape) < 2 or array.shape[-2] != joint_set.joints:
        raise JointCountError(
            f"the pose has shape {tuple(array.shape)}, expected (..., {joint_set.joints}, coordinates) for "
            f"the joint set {joint_set.name}"
        )
    flipped = array[..., list(joint_set.flip_order), :]  # a list as index makes a copy
    flipped[..., 0] *= -1
    return flipped  # type: ignore[no-any-return]


def _named(joints: str | JointSet) -> JointSet:
    return joint_set(joints.name if isinstance(joints, JointSet) else joints)


def _checked(pose: ArrayLike, joints: JointSet) -> NDArray[Any]:
    array = as_array(pose, "the pose", f"expected (..., {joints.joints}, 2 or 3)")
    if array.dtype.kind not in REAL:
        raise DTypeError(f"the pose is of type {array.dtype}, expected real numbers")
    if array.ndim < 2 or array.shape[-1] not in (2, 3):
        raise ShapeError(f"the pose has shape {array.shape}, expected (..., {joints.joints}, 2 or 3)")
    if array.shape[-2] != joints.joints:
        raise JointCountError(
            f"the pose has {array.shape[-2]} joints (shape {array.shape}), expected the {joints.joints} of "
            f"the joint set {joints.name}"
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _combine(pose: NDArray[Any], recipe: Recipe) -> NDArray[Any]:
    result = np.empty((*pose.shape[:-2], len(recipe), pose.shape[-1]), pose.dtype)
    for joint, terms in enumerate(recipe):
        first, first_weight = terms[0]
        # Weight 1 means a plain copy without arithmetic, so that a reordering is exact to the bit.
        value = pose[..., first, :] if first_weight == 1.0 else first_weight * pose[..., first, :]
        for other, weight in terms[1:]:
            value = value + weight * pose[..., other, :]
        result[..., joint, :] = value
    return result
