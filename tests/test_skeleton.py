"""Joint sets, symmetry and conversions."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.errors import DTypeError, JointCountError, ShapeError, UsageError
from refiner.skeleton import (
    COCO17,
    H36M17,
    H36M_32_TO_17,
    JOINT_NAMES,
    JOINT_SETS,
    LEFT,
    MPI_INF_3DHP,
    PARENTS,
    RIGHT,
    flip_pose,
    from_h36m17,
    joint_set,
    to_h36m17,
)

SETS = list(JOINT_SETS.values())
LIMBS = {
    f"{side[0].upper()}{part}": f"{side}_{joint}"
    for side in ("left", "right")
    for part, joint in {
        "Hip": "hip", "Knee": "knee", "Foot": "ankle", "Shoulder": "shoulder", "Elbow": "elbow", "Wrist": "wrist"
    }.items()
}  # fmt: skip


def random_pose(seed: int, joints: int, coordinates: int = 3, frames: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.6, (2, frames, joints, coordinates))


@pytest.mark.parametrize("joints", SETS, ids=lambda joints: joints.name)
def test_a_joint_set_is_a_tree_with_mirrored_sides(joints):
    assert len(joints.parents) == joints.joints == len(set(joints.joint_names))
    assert sum(parent < 0 for parent in joints.parents) == 1
    for joint in range(joints.joints):
        steps = 0
        while joint >= 0:
            joint, steps = joints.parents[joint], steps + 1
            assert steps <= joints.joints
    assert not set(joints.left) & set(joints.right)
    for left, right in zip(joints.left, joints.right, strict=True):
        name = joints.joint_names[left]
        mirrored = name.replace("left_", "right_") if "left_" in name else "R" + name[1:]
        assert joints.joint_names[right] == mirrored
    # The tree itself is symmetric.
    order = (*joints.flip_order, -1)
    assert all(order[joints.parents[joint]] == joints.parents[order[joint]] for joint in range(joints.joints))


def test_human36m_constants_are_the_fields():
    assert PARENTS == [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
    assert LEFT == [4, 5, 6, 11, 12, 13]
    assert RIGHT == [1, 2, 3, 14, 15, 16]
    assert JOINT_NAMES[0] == "Hip"
    assert JOINT_NAMES[9] == "Neck/Nose"
    assert [*H36M_32_TO_17] == [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]


def test_joint_set_by_name():
    assert joint_set("3dhp") is MPI_INF_3DHP
    with pytest.raises(UsageError, match="h36m17, coco17, 3dhp, halpe26, mediapipe33"):
        joint_set("smpl")


@pytest.mark.parametrize("coordinates", [2, 3])
@pytest.mark.parametrize("name", JOINT_SETS)
def test_named_joints_keep_their_places(name, coordinates):
    pose = random_pose(1, joint_set(name).joints, coordinates)
    converted = to_h36m17(pose, name)
    assert converted.shape == (*pose.shape[:-2], 17, coordinates)
    same = {
        "coco17": {"LElbow": "left_elbow", "RFoot": "right_ankle", "LHip": "left_hip", "Neck/Nose": "nose"},
        "3dhp": {"LElbow": "left_elbow", "RFoot": "right_ankle", "Hip": "pelvis", "Thorax": "neck", "Head": "head_top"},
        "h36m17": {joint: joint for joint in JOINT_NAMES},
        "halpe26": {
            "Hip": "pelvis",
            "Thorax": "neck",
            "Head": "head_top",
            "RWrist": "right_wrist",
            "LKnee": "left_knee",
        },
        "mediapipe33": {"Neck/Nose": "nose", "LFoot": "left_ankle", "RElbow": "right_elbow", "RHip": "right_hip"},
        "body25": {"Hip": "mid_hip", "Thorax": "neck", "Neck/Nose": "nose", "LFoot": "left_ankle", "RHip": "right_hip"},
        "coco18": {"Neck/Nose": "nose", "LWrist": "left_wrist", "RKnee": "right_knee", "LHip": "left_hip"},
        "h36m32": {joint: joint for joint in JOINT_NAMES},
        "mpii16": LIMBS | {"Hip": "pelvis", "Thorax": "thorax", "Neck/Nose": "upper_neck", "Head": "head_top"},
        "aic14": LIMBS | {"Thorax": "neck", "Head": "head_top"},
        "crowdpose14": LIMBS | {"Thorax": "neck", "Head": "head_top"},
        "3dhp28": LIMBS
        | {"Hip": "pelvis", "Thorax": "neck", "Neck/Nose": "head", "Head": "head_top", "Spine": "spine"},
    }[name]
    source = joint_set(name).joint_names
    for joint, origin in same.items():
        np.testing.assert_array_equal(converted[..., JOINT_NAMES.index(joint), :], pose[..., source.index(origin), :])


@pytest.mark.parametrize("name", ["coco17", "coco18", "mediapipe33"])
def test_joints_that_are_made_up(name):
    joints = joint_set(name)
    pose = random_pose(2, joints.joints)
    made = to_h36m17(pose, name)

    def middle(part):
        sides = [joints.joint_names.index(f"{side}_{part}") for side in ("left", "right")]
        return pose[..., sides, :].mean(axis=-2)

    hip, thorax, ears = middle("hip"), middle("shoulder"), middle("ear")
    np.testing.assert_allclose(made[..., 0, :], hip, atol=1e-15)
    np.testing.assert_allclose(made[..., 8, :], thorax, atol=1e-15)
    np.testing.assert_allclose(made[..., 7, :], (hip + thorax) / 2, atol=1e-15)
    np.testing.assert_allclose(made[..., 10, :], ears + 0.6 * (ears - thorax), atol=1e-14)


@pytest.mark.parametrize("name", ["aic14", "crowdpose14"])
def test_a_head_and_a_neck_make_the_trunk(name):
    names = joint_set(name).joint_names
    pose = random_pose(2, 14)
    made = to_h36m17(pose, name)
    hip = pose[..., [names.index("left_hip"), names.index("right_hip")], :].mean(axis=-2)
    neck, top = (pose[..., names.index(part), :] for part in ("neck", "head_top"))
    np.testing.assert_allclose(made[..., 0, :], hip, atol=1e-15)
    np.testing.assert_allclose(made[..., 7, :], (hip + neck) / 2, atol=1e-15)
    np.testing.assert_allclose(made[..., 9, :], (neck + top) / 2, atol=1e-15)


def test_mpi_inf_3dhps_joint_sets_agree():
    pose = random_pose(2, 28)
    names = joint_set("3dhp28").joint_names
    chosen = pose[..., [names.index(name) for name in MPI_INF_3DHP.joint_names], :]
    np.testing.assert_array_equal(to_h36m17(pose, "3dhp28"), to_h36m17(chosen, "3dhp"))


@pytest.mark.parametrize("name", ["h36m17", "3dhp"])
def test_a_reordering_loses_nothing(name):
    pose = random_pose(3, 17).astype(np.float32)
    there = from_h36m17(pose, name)
    assert there.dtype == np.float32
    np.testing.assert_array_equal(to_h36m17(there, name), pose)
    np.testing.assert_array_equal(from_h36m17(to_h36m17(pose, name), name), pose)


def test_through_coco_only_the_trunk_changes():
    pose = random_pose(4, 17)
    back = to_h36m17(from_h36m17(pose, "coco17"), "coco17")
    kept = [joint for joint in range(17) if joint not in (0, 7, 8)]
    np.testing.assert_allclose(back[..., kept, :], pose[..., kept, :], atol=1e-14)
    # A second round changes nothing more, and a pose that came from COCO survives.
    np.testing.assert_allclose(to_h36m17(from_h36m17(back, "coco17"), "coco17"), back, atol=1e-14)
    coco = random_pose(5, 17)
    again = from_h36m17(to_h36m17(coco, "coco17"), "coco17")
    np.testing.assert_array_equal(again[..., 5:, :], coco[..., 5:, :])
    np.testing.assert_array_equal(again[..., 0, :], coco[..., 0, :])
    np.testing.assert_allclose(again[..., 3:5, :].mean(axis=-2), coco[..., 3:5, :].mean(axis=-2), atol=1e-14)


@pytest.mark.parametrize("name", JOINT_SETS)
def test_conversions_commute_with_similarities_and_the_mirror(name):
    rng = np.random.default_rng(6)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shift = rng.normal(size=3)
    source = joint_set(name)
    for convert, joints in ((to_h36m17, source.joints), (from_h36m17, 17)):
        if convert is from_h36m17 and name not in ("h36m17", "coco17", "3dhp"):
            continue  # see test_what_is_refused
        pose = random_pose(7, joints)
        moved = convert(1.7 * pose @ rotation.T + shift, name)
        np.testing.assert_allclose(moved, 1.7 * convert(pose, name) @ rotation.T + shift, atol=1e-13)
    pose = random_pose(7, source.joints)
    np.testing.assert_allclose(to_h36m17(flip_pose(pose, source), name), flip_pose(to_h36m17(pose, name)), atol=1e-15)


def test_a_lost_joint_spoils_only_what_is_made_from_it():
    pose = random_pose(8, 17)
    pose[..., COCO17.joint_names.index("left_ear"), :] = np.nan
    lost = np.isnan(to_h36m17(pose, "coco17")).any(axis=(0, 1, 3))
    assert np.flatnonzero(lost).tolist() == [JOINT_NAMES.index("Head")]


@pytest.mark.parametrize("joints", SETS, ids=lambda joints: joints.name)
def test_flip_twice_is_identity_and_swaps_sides(joints):
    pose = random_pose(9, joints.joints).astype(np.float32)
    before = pose.copy()
    flipped = flip_pose(pose, joints)
    np.testing.assert_array_equal(pose, before)
    np.testing.assert_array_equal(flip_pose(flipped, joints), pose)
    left, right = joints.left[2], joints.right[2]
    np.testing.assert_array_equal(flipped[..., left, :], pose[..., right, :] * [-1, 1, 1])
    flat = random_pose(10, joints.joints, 2)
    np.testing.assert_array_equal(flip_pose(flat, joints)[..., right, :], flat[..., left, :] * [-1, 1])


def test_flip_takes_tensors():
    torch = pytest.importorskip("torch")
    pose = random_pose(11, 17)
    tensor = torch.from_numpy(pose).requires_grad_()
    flipped = flip_pose(tensor)
    np.testing.assert_array_equal(flipped.detach().numpy(), flip_pose(pose))
    flipped[..., 0].sum().backward()
    np.testing.assert_array_equal(tensor.grad[..., 0].numpy(), -np.ones(pose.shape[:-1]))


def test_what_is_refused():
    with pytest.raises(JointCountError, match=r"16 joints.*17 of the joint set coco17"):
        to_h36m17(np.ones((3, 16, 2)), "coco17")
    with pytest.raises(JointCountError, match="32"):
        flip_pose(np.ones((3, 32, 3)))
    with pytest.raises(ShapeError, match=r"2 or 3"):
        from_h36m17(np.ones((3, 17, 4)), COCO17)
    with pytest.raises(DTypeError, match="complex128"):
        to_h36m17(np.ones((3, 17, 2), complex), H36M17)
    with pytest.raises(UsageError, match="choose one of"):
        from_h36m17(np.ones((3, 17, 3)), "smpl24")
    for name in ("halpe26", "mediapipe33", "body25", "coco18", "h36m32"):
        with pytest.raises(UsageError, match="has joints that Human3"):
            from_h36m17(np.ones((3, 17, 3)), name)


def test_integers_become_floats():
    pixels = np.random.default_rng(12).integers(0, 1000, (5, 17, 2))
    converted = to_h36m17(pixels, "coco17")
    assert converted.dtype == np.float64
    np.testing.assert_allclose(converted[:, 0], pixels[:, 11:13].mean(axis=1))
