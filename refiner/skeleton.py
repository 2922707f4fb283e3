"""Joint sets, their left/right symmetry, and conversions to and from Human3.6M's 17 joints.

NumPy arrays only, with any leading dimensions: ``(..., joints, 2 or 3)``. `flip_pose` also takes tensors of
other libraries, since it only indexes and multiplies.

A joint that a set lacks is an affine combination (weights that sum to 1) of the joints it has, so that a
conversion commutes with moving, turning and scaling the pose, in 3D and in pixels. A joint takes part only
where its weight is not zero: NaN in one joint reaches those that are made from it and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import DTypeError, JointCountError, ShapeError, UsageError

PoseT = TypeVar("PoseT")
Recipe = tuple[tuple[tuple[int, float], ...], ...]
_Pair = tuple[int, int]


@dataclass(frozen=True)
class JointSet:
    """Names, tree and symmetry of a skeleton; ``left[i]`` mirrors ``right[i]``, a root has parent -1."""

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def joints(self) -> int:
        """Number of joints."""
        return len(self.joint_names)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """For each joint, the joint whose place it takes in the mirror."""
        order = list(range(self.joints))
        for left, right in zip(self.left, self.right, strict=True):
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, joint) for every joint but the root."""
        return tuple((parent, joint) for joint, parent in enumerate(self.parents) if parent >= 0)


H36M17 = JointSet(
    name="h36m17",
    joint_names=(
        "Hip",
        "RHip",
        "RKnee",
        "RFoot",
        "LHip",
        "LKnee",
        "LFoot",
        "Spine",
        "Thorax",
        "Neck/Nose",
        "Head",
        "LShoulder",
        "LElbow",
        "LWrist",
        "RShoulder",
        "RElbow",
        "RWrist",
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    left=(4, 5, 6, 11, 12, 13),
    right=(1, 2, 3, 14, 15, 16),
)
"""Human3.6M as lifters use it (VideoPose3D's order). RFoot and LFoot are the ankles."""

COCO17 = JointSet(
    name="coco17",
    joint_names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    # COCO defines no tree; this one hangs everything from the nose.
    parents=(-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    left=(1, 3, 5, 7, 9, 11, 13, 15),
    right=(2, 4, 6, 8, 10, 12, 14, 16),
)
"""The keypoints of COCO, in the order of its annotations."""

MPI_INF_3DHP = JointSet(
    name="3dhp",
    joint_names=(
        "head_top",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "spine",
        "head",
    ),
    parents=(16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
    left=(5, 6, 7, 11, 12, 13),
    right=(2, 3, 4, 8, 9, 10),
)
"""MPI-INF-3DHP in the order of its test set's annotations, which the lifters' ``data_train_3dhp.npz`` and
``data_test_3dhp.npz`` share (root 14); not the 28 joints of its raw training annotations."""

HALPE26 = JointSet(
    name="halpe26",
    joint_names=(
        *COCO17.joint_names,
        "head_top",
        "neck",
        "pelvis",
        "left_big_toe",
        "right_big_toe",
        "left_small_toe",
        "right_small_toe",
        "left_heel",
        "right_heel",
    ),
    parents=(18, 0, 0, 1, 2, 18, 18, 5, 6, 7, 8, 19, 19, 11, 12, 13, 14, 0, 19, -1, 15, 16, 15, 16, 15, 16),
    left=(1, 3, 5, 7, 9, 11, 13, 15, 20, 22, 24),
    right=(2, 4, 6, 8, 10, 12, 14, 16, 21, 23, 25),
)
"""Halpe's body and feet, as RTMPose's body models give them (rtmlib, MMPose); its neck lies between the shoulders."""

MEDIAPIPE33 = JointSet(
    name="mediapipe33",
    joint_names=(
        "nose",
        "left_eye_inner",
        "left_eye",
        "left_eye_outer",
        "right_eye_inner",
        "right_eye",
        "right_eye_outer",
        "left_ear",
        "right_ear",
        "left_mouth",
        "right_mouth",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_pinky",
        "right_pinky",
        "left_index",
        "right_index",
        "left_thumb",
        "right_thumb",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "left_heel",
        "right_heel",
        "left_foot_index",
        "right_foot_index",
    ),
    # BlazePose defines no tree; this one hangs everything from the nose, as in `COCO17`.
    parents=(
        *(-1, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16, 11, 12, 23, 24, 25, 26),
        *(27, 28, 29, 30),
    ),
    left=(1, 2, 3, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
    right=(4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32),
)
"""BlazePose's landmarks, as MediaPipe gives them. Its 3D ("world landmarks") is in metres about the middle of the hips;
its 2D is a share of the image: multiply by (width, height) for pixels."""

BODY25 = JointSet(
    name="body25",
    joint_names=(
        "nose",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "mid_hip",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
        "left_big_toe",
        "left_small_toe",
        "left_heel",
        "right_big_toe",
        "right_small_toe",
        "right_heel",
    ),
    parents=(1, 8, 1, 2, 3, 1, 5, 6, -1, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11),
    left=(5, 6, 7, 12, 13, 14, 16, 18, 19, 20, 21),
    right=(2, 3, 4, 9, 10, 11, 15, 17, 22, 23, 24),
)
"""OpenPose's BODY_25; its neck lies between the shoulders."""

COCO18 = JointSet(
    name="coco18",
    joint_names=(
        "nose",
        "neck",
        "right_shoulder",
        "right_elbow",
        "right_wrist",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "right_hip",
        "right_knee",
        "right_ankle",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_eye",
        "left_eye",
        "right_ear",
        "left_ear",
    ),
    parents=(1, -1, 1, 2, 3, 1, 5, 6, 1, 8, 9, 1, 11, 12, 0, 0, 14, 15),
    left=(5, 6, 7, 11, 12, 13, 15, 17),
    right=(2, 3, 4, 8, 9, 10, 14, 16),
)
"""OpenPose's COCO model: COCO's keypoints in another order, and the neck."""

H36M32 = JointSet(
    name="h36m32",
    joint_names=(
        "Hip",
        "RHip",
        "RKnee",
        "RFoot",
        "RToe",
        "RToeEnd",
        "LHip",
        "LKnee",
        "LFoot",
        "LToe",
        "LToeEnd",
        "SpineBase",
        "Spine",
        "Thorax",
        "Neck/Nose",
        "Head",
        "LClavicle",
        "LShoulder",
        "LElbow",
        "LWrist",
        "LWristCopy",
        "LThumb",
        "LHandEnd",
        "LHandEndCopy",
        "RClavicle",
        "RShoulder",
        "RElbow",
        "RWrist",
        "RWristCopy",
        "RThumb",
        "RHandEnd",
        "RHandEndCopy",
    ),
    parents=(
        *(-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 12, 16, 17, 18, 19, 20, 19, 22, 12, 24, 25, 26, 27, 28),
        *(27, 30),
    ),
    left=(6, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23),
    right=(1, 2, 3, 4, 5, 24, 25, 26, 27, 28, 29, 30, 31),
)
"""All joints of Human3.6M's skeleton, of which lifters use 17 (`H36M_32_TO_17`)."""

JOINT_NAMES = H36M17.joint_names
PARENTS = list(H36M17.parents)
LEFT = list(H36M17.left)
RIGHT = list(H36M17.right)

_REMOVED_FROM_32 = (4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31)
H36M_32_TO_17 = [joint for joint in range(32) if joint not in _REMOVED_FROM_32]
"""The raw joints that VideoPose3D keeps. In the raw tree the shoulders hang from joints that are removed
(16 and 24, copies of the thorax); in `PARENTS` they hang from the thorax, as in VideoPose3D."""

JOINT_SETS = {
    joints.name: joints for joints in (H36M17, COCO17, MPI_INF_3DHP, HALPE26, MEDIAPIPE33, BODY25, COCO18, H36M32)
}

# How far the top of the head lies above the ears, in units of ears above shoulder joints. From means of the
# US Army's survey of 1988 (men): stature 1.756 m, acromion height 1.443 m, ear to crown 0.131 m; the shoulder
# joint about 0.04 m below the acromion: 0.131 / (1.756 - 0.131 - 1.443 + 0.04) = 0.59.
_CROWN = 0.6


def _same(*joints: int) -> Recipe:
    return tuple(((joint, 1.0),) for joint in joints)


def _mean(*joints: int) -> tuple[tuple[int, float], ...]:
    return tuple((joint, 1.0 / len(joints)) for joint in joints)


def _from_face(hips: _Pair, shoulders: _Pair, ears: _Pair, nose: int, legs: Recipe, arms: Recipe) -> Recipe:
    """Human3.6M's joints from a set that has limbs and a face and nothing of the trunk."""
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
# The middle between the ears undoes the rule for Head; the middle between the eyes is put half-way from
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
_TO_H36M = {
    "h36m17": _same(*range(17)),
    "coco17": _COCO_TO_H36M,
    "3dhp": _same(*_3DHP_ORDER),
    "halpe26": _HALPE_TO_H36M,
    "mediapipe33": _MEDIAPIPE_TO_H36M,
    "body25": _BODY25_TO_H36M,
    "coco18": _COCO18_TO_H36M,
    "h36m32": _same(*H36M_32_TO_17),
}
_FROM_H36M = {
    "h36m17": _same(*range(17)),
    "coco17": _H36M_TO_COCO,
    "3dhp": _same(*(_3DHP_ORDER.index(joint) for joint in range(17))),
}


def joint_set(name: str) -> JointSet:
    """The joint set of that name, one of `JOINT_SETS`; raises UsageError for any other name."""
    if name not in JOINT_SETS:
        raise UsageError(f"there is no joint set {name!r}; choose among {', '.join(JOINT_SETS)}")
    return JOINT_SETS[name]


def to_h36m17(pose: ArrayLike, source: str | JointSet) -> NDArray[Any]:
    """``(..., J of source, 2 or 3)`` -> ``(..., 17, 2 or 3)`` in Human3.6M's joints.

    MPI-INF-3DHP: a reordering, nothing is lost (its neck is Thorax, its head Neck/Nose, its head top Head).
    COCO and MediaPipe: limbs as they are, Neck/Nose is the nose, and these are made up: Hip and Thorax, the
    middles of the hips and of the shoulders; Spine, half-way between those two; Head, 0.6 of the way from
    shoulders to ears beyond the ears. Human3.6M's thorax lies some centimetres above the middle of the
    shoulders; this one does not. Halpe: its pelvis, neck and head top, Spine half-way. The float type is
    kept, integers become float64. Raises UsageError for an unknown set,
    JointCountError or ShapeError for arrays of another shape, DTypeError for what is no real number.
    """
    joints = _named(source)
    return _combine(_checked(pose, joints), _TO_H36M[joints.name])


def confidence_to_h36m17(confidence: ArrayLike, source: str | JointSet) -> NDArray[Any]:
    """``(..., J of source)`` confidences -> ``(..., 17)`` of Human3.6M's joints: of a joint that `to_h36m17` makes up
    of several, the least. Raises UsageError for an unknown set and JointCountError for another number of joints."""
    joints = _named(source)
    array = np.asarray(confidence)
    if array.ndim < 1 or array.shape[-1] != joints.joints:
        raise JointCountError(
            f"the confidence has shape {array.shape}, expected (..., {joints.joints}) of the joint set {joints.name}"
        )
    recipe = _TO_H36M[joints.name]
    parts = [array[..., [joint for joint, _ in terms]].min(axis=-1) for terms in recipe]
    return np.stack(parts, axis=-1)


def from_h36m17(pose: ArrayLike, target: str | JointSet) -> NDArray[Any]:
    """``(..., 17, 2 or 3)`` in Human3.6M's joints -> ``(..., J of target, 2 or 3)``; undoes `to_h36m17`.

    MPI-INF-3DHP: exact. COCO: limbs and nose are exact; how far apart the eyes and the ears are cannot be
    recovered, so both ears get the middle that Head and the shoulders imply, and both eyes the middle
    between it and the nose; Hip, Spine and Thorax have no place in COCO. ``to_h36m17(from_h36m17(p))``
    changes Hip, Spine and Thorax only, and nothing in a pose that came from COCO. Halpe and MediaPipe have
    feet and hands, which Human3.6M's joints do not say: UsageError. Raises as `to_h36m17` otherwise.
    """
    joints = _named(target)
    if joints.name not in _FROM_H36M:
        raise UsageError(f"{joints.name} has joints that Human3.6M's 17 do not give; choose {', '.join(_FROM_H36M)}")
    return _combine(_checked(pose, H36M17), _FROM_H36M[joints.name])


def flip_pose(pose: PoseT, joint_set: JointSet = H36M17) -> PoseT:
    """The mirror image: x (coordinate 0) negated, left and right joints swapped; a copy.

    For root-relative 3D ``(..., J, 3)`` and normalised 2D ``(..., J, 2)``, whose x = 0 is the middle; not
    for pixels. Takes NumPy arrays and PyTorch tensors. Raises JointCountError for another number of joints.
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
    return joint_set(joints if isinstance(joints, str) else joints.name)


def _checked(pose: ArrayLike, joints: JointSet) -> NDArray[Any]:
    array = np.asarray(pose)
    if array.dtype.kind not in "fiu":
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
        # A plain copy where nothing is mixed, so that a reordering is exact to the bit.
        value = pose[..., first, :] if first_weight == 1.0 else first_weight * pose[..., first, :]
        for other, weight in terms[1:]:
            value = value + weight * pose[..., other, :]
        result[..., joint, :] = value
    return result
