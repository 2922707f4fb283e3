"""Joint sets: the names of joints, the tree that they form, and their left/right symmetry.

`refiner.skeleton` converts between them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JointSet:
    """The joint names, the kinematic tree and the left/right symmetry of a skeleton.

    Attributes:
        name: The key of this set in `JOINT_SETS`.
        joint_names: One name per joint, in the order of the joint axis.
        parents: The parent of each joint; the root has parent -1.
        left: The joints of the left side; ``left[i]`` is the mirror image of ``right[i]``.
        right: The joints of the right side.
    """

    name: str
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @property
    def joints(self) -> int:
        """The number of joints."""
        return len(self.joint_names)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """The joint order of a mirrored pose: joint i of the mirrored pose is joint ``flip_order[i]`` of the pose."""
        order = list(range(self.joints))
        for left, right in zip(self.left, self.right, strict=True):
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The pair (parent, joint) of every joint except the root."""
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
"""The 17 joints of Human3.6M that lifters use, in VideoPose3D's order. RFoot and LFoot are the ankles."""

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
    # COCO defines no tree; in this one the nose is the root.
    parents=(-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    left=(1, 3, 5, 7, 9, 11, 13, 15),
    right=(2, 4, 6, 8, 10, 12, 14, 16),
)
"""The 17 keypoints of COCO, in the order of its annotations."""

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
"""The 17 joints of MPI-INF-3DHP in the order of its test annotations; the root is joint 14.

The files ``data_train_3dhp.npz`` and ``data_test_3dhp.npz``, which lifters use, have the same order. The raw training
annotations have 28 joints and are another set.
"""

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
"""Halpe's 26 joints of the body and feet, the output of RTMPose's body models (rtmlib, MMPose).

The neck lies between the shoulders.
"""

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
    # BlazePose defines no tree; in this one the nose is the root, as in `COCO17`.
    parents=(
        *(-1, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 0, 0, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16, 11, 12, 23, 24, 25, 26),
        *(27, 28, 29, 30),
    ),
    left=(1, 2, 3, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31),
    right=(4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32),
)
"""BlazePose's 33 landmarks, the output of MediaPipe.

MediaPipe's 3D poses ("world landmarks") are in metres, with the origin between the hips. Its 2D poses are fractions of
the image size: multiply them by (width, height) to get pixels.
"""

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

MPII16 = JointSet(
    name="mpii16",
    joint_names=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    parents=(1, 2, 6, 6, 3, 4, -1, 6, 7, 8, 11, 12, 7, 7, 13, 14),
    left=(3, 4, 5, 13, 14, 15),
    right=(2, 1, 0, 12, 11, 10),
)
"""The 16 joints of the MPII Human Pose data set."""

AIC14 = JointSet(
    name="aic14",
    joint_names=(
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
        "head_top",
        "neck",
    ),
    parents=(13, 0, 1, 13, 3, 4, 13, 6, 7, 13, 9, 10, 13, -1),
    left=(3, 4, 5, 9, 10, 11),
    right=(0, 1, 2, 6, 7, 8),
)
"""The 14 joints of AI Challenger; the neck is its lower end."""

CROWDPOSE14 = JointSet(
    name="crowdpose14",
    joint_names=(
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
        "head_top",
        "neck",
    ),
    parents=(13, 13, 0, 1, 2, 3, 13, 13, 6, 7, 8, 9, 13, -1),
    left=(0, 2, 4, 6, 8, 10),
    right=(1, 3, 5, 7, 9, 11),
)
"""The 14 joints of CrowdPose; the neck is its lower end."""

MPI_INF_3DHP28 = JointSet(
    name="3dhp28",
    joint_names=(
        *("spine3", "spine4", "spine2", "spine", "pelvis", "neck", "head", "head_top"),
        *("left_clavicle", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
        *("right_clavicle", "right_shoulder", "right_elbow", "right_wrist", "right_hand"),
        *("left_hip", "left_knee", "left_ankle", "left_foot", "left_toe"),
        *("right_hip", "right_knee", "right_ankle", "right_foot", "right_toe"),
    ),
    parents=(*(2, 0, 3, 4, -1, 1, 5, 6, 5, 8, 9, 10, 11, 5, 13, 14, 15, 16, 4, 18, 19, 20, 21, 4, 23, 24, 25, 26),),
    left=(8, 9, 10, 11, 12, 18, 19, 20, 21, 22),
    right=(13, 14, 15, 16, 17, 23, 24, 25, 26, 27),
)
"""The 28 joints of MPI-INF-3DHP's training annotations."""

JOINT_SETS = {
    joints.name: joints
    for joints in (
        *(H36M17, COCO17, MPI_INF_3DHP, HALPE26, MEDIAPIPE33, BODY25, COCO18, H36M32),
        *(MPII16, AIC14, CROWDPOSE14, MPI_INF_3DHP28),
    )
}
"""All joint sets by name."""
