"""3D poses that cannot be those of their 2D poses are named; right ones, and nonsense, are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from refiner import Refiner
from refiner.camera import human36m_cameras, look_at_camera
from refiner.data import DetectorModel, agreement, camera_clips
from refiner.data.agreement import disagreement
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.errors import JointOrderError
from refiner.skeleton import flip_pose, from_h36m17, joint_set, to_h36m17

LENS = np.array([1000.0, 1000.0, 1145.0])
COCO, MPI = joint_set("coco17"), joint_set("3dhp")


def clips(actions, frames=120, seed=3):
    motion = {action: synthetic_motion(seed, action, frames) for action in actions}
    return camera_clips({"SYN": motion}, human36m_cameras(), detector=DetectorModel.default())


def found(clip, change=lambda pose: pose, pixels=lambda pose: pose, lens=None, **joints):
    """With errors of 5 cm on the 3D poses, as estimators have them."""
    rng = np.random.default_rng(7)
    pose = clip.pose_3d.astype(np.float64) + rng.normal(0, 0.03, (1, 17, 3))
    pose = pose - pose[:, :1]
    flat = pixels(clip.pose_2d.astype(np.float64))
    changed = change(pose)
    shown = min(len(flat), len(changed))
    lens = LENS if lens is None else lens
    return disagreement(flat[:shown], np.zeros((shown, 17), dtype=bool), changed[:shown], lens, **joints)


def message(*arguments, **options):
    result = found(*arguments, **options)
    return None if result is None else result.message


def room(pose, yaw):
    """Camera axes to the axes of a room: z upwards, the camera anywhere."""
    x, y, z = np.moveaxis(pose, -1, 0)
    sine, cosine = np.sin(yaw), np.cos(yaw)
    return np.stack([cosine * x - sine * z, sine * x + cosine * z, -y], axis=-1)


@pytest.mark.parametrize("action", SYNTHETIC_ACTIONS)
def test_poses_of_their_own_2d_are_right(action):
    for clip in clips([action]):
        assert message(clip) is None


MISTAKES = {
    "y axis of one of them": lambda pose: pose * [1, -1, 1],
    "y axis of one": lambda pose: pose * [1, -1, -1],
    "one of them is mirrored, or the x axis": lambda pose: pose * [-1, 1, 1],
    "order of MPI-INF-3DHP": lambda pose: from_h36m17(pose, "3dhp"),
    "order of COCO": lambda pose: from_h36m17(pose, "coco17"),
    "z axis of pose_3d points upwards": lambda pose: room(pose, 0.0),
    "z axis of pose_3d points": lambda pose: room(pose, 2.1),
    "legs of 0.": lambda pose: 0.5 * pose,
    "legs of 1.": lambda pose: 2.0 * pose,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_a_name(mistake):
    walking = clips(["Walking"])
    for clip in walking:
        assert mistake in (message(clip, MISTAKES[mistake]) or "nothing")


def test_a_mirror_image_shows_where_the_body_is_not_symmetric():
    found = [message(clip, flip_pose) for clip in clips(["Waving", "Reaching", "Walking"])]
    named = [text for text in found if text is not None]
    assert len(named) >= len(found) // 2 and all("left and right exchanged" in text for text in named)


def test_pixels_in_rows_and_columns():
    for clip in clips(["Waving"]):
        assert "y before x" in (message(clip, pixels=lambda pose: pose[..., ::-1]) or "nothing")


@pytest.mark.parametrize(("frames", "where"), [(10, "ahead of"), (-10, "behind")])
def test_frames_that_are_shifted(frames, where):
    found = []
    for clip in clips(["Dancing", "Boxing", "Running", "Walking"]):
        shift = (lambda pose: pose[frames:]) if frames > 0 else (lambda pose: pose)
        pixels = (lambda pose: pose) if frames > 0 else (lambda pose: pose[-frames:])
        found.append(message(clip, shift, pixels))
    named = [text for text in found if text is not None]
    # Still or periodic motion hides a shift; fast motion does not, and no message is a wrong one.
    assert len(named) >= len(found) // 2
    assert all("frames " + where in text for text in named)


def test_a_joint_set_that_only_the_2d_has():
    (clip, *_) = clips(["Walking"])
    pose = clip.pose_3d - clip.pose_3d[:, :1]
    coco = from_h36m17(clip.pose_2d, "coco17")
    refiner = Refiner.load("refiner")
    for method in (refiner.refine, refiner.compare_input, refiner.refine_report):
        with pytest.raises(JointOrderError, match=r'order of Human3.6M: pass joints_3d="h36m17"'):
            method(coco, pose, clip.image_size, joints="coco17")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = refiner.refine(coco, from_h36m17(pose, "coco17"), clip.image_size, joints="coco17")
        mixed = refiner.refine(coco, pose, clip.image_size, joints="coco17", joints_3d="h36m17")
    assert np.linalg.norm(converted - mixed, axis=-1).mean() < 0.05


def test_nonsense_fits_nothing():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels, pose = rng.uniform(0, 1000, (40, 17, 2)), rng.normal(0, 0.4, (40, 17, 3))
        nonsense = disagreement(pixels, np.zeros((40, 17), dtype=bool), pose, LENS)
        assert nonsense is not None and nonsense.kind == "no fit"
    assert disagreement(pixels, np.ones((40, 17), dtype=bool), pose, LENS) is None


def test_missing_joints_are_not_compared():
    for clip in clips(["Walking"]):
        pixels, missing = clip.pose_2d.astype(np.float64), np.zeros((120, 17), dtype=bool)
        missing[:, [3, 6, 13]] = True
        pixels[missing] = 1e4
        assert disagreement(pixels, missing, clip.pose_3d.astype(np.float64), LENS) is None


@pytest.mark.filterwarnings("error")
def test_frames_that_show_nobody_hide_no_mistake():
    named = []
    for clip in clips(["Dancing", "Running"]):
        pixels, missing = clip.pose_2d.astype(np.float64)[:-10], np.zeros((110, 17), dtype=bool)
        missing[[5, 60]] = True
        body = (clip.pose_3d - clip.pose_3d[:, :1]).astype(np.float64)[10:]
        named.append(disagreement(pixels, missing, body, LENS))
    assert any(entry is not None and "10 frames ahead" in entry.message for entry in named)


@pytest.mark.parametrize(("factor", "kind"), [(0.5, "scale"), (0.62, "unusual size"), (0.9, None), (1.7, "scale")])
def test_children_are_people_whom_the_models_do_not_know(factor, kind):
    for clip in clips(["Walking"]):
        result = found(clip, lambda pose: factor * pose)
        assert (result.kind if result is not None else None) == kind


ORDERS = {
    "3D of COCO": ({}, lambda pose: from_h36m17(pose, "coco17"), lambda flat: flat, 'joints_3d="coco17"'),
    "3D of 3DHP": ({}, lambda pose: from_h36m17(pose, "3dhp"), lambda flat: flat, 'joints_3d="3dhp"'),
    "3D of Human3.6M": ({"joints_3d": COCO}, lambda pose: pose, lambda flat: flat, 'joints_3d="h36m17"'),
    "3DHP for COCO": ({"joints_3d": COCO}, lambda pose: from_h36m17(pose, "3dhp"), lambda flat: flat, '_3d="3dhp"'),
    "2D of COCO": ({}, lambda pose: pose, lambda flat: from_h36m17(flat, "coco17"), ' joints="coco17"'),
    "both of COCO": (
        {},
        lambda pose: from_h36m17(pose, "coco17"),
        lambda flat: from_h36m17(flat, "coco17"),
        'only in the order of COCO: pass joints="coco17"',
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_wrong_order_is_named_with_the_right_one(case):
    joints, change, pixels, remedy = ORDERS[case]
    for clip in clips(["Walking", "Boxing"]):
        result = found(clip, change, pixels, **joints)
        assert result is not None and result.kind == "joint order" and remedy in result.message


@pytest.mark.parametrize("joints", [COCO, MPI])
def test_a_right_order_is_right(joints):
    for clip in clips(["Walking", "Boxing"]):
        pixels = to_h36m17(from_h36m17(clip.pose_2d.astype(np.float64), joints), joints)
        assert (
            found(clip, lambda pose: from_h36m17(pose, joints), lambda _, flat=pixels: flat, joints_3d=joints) is None
        )


def test_a_wide_lens_close_to_a_person_far_from_its_axis():
    """Where rays are far from parallel, right poses are still right, whatever the lens is said to be."""
    rng = np.random.default_rng(1)
    motion = synthetic_motion(3, "Walking", 60)
    for turn in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        middle = motion[:, 0].mean(axis=0)
        place = middle + np.array([1.7 * np.cos(turn), 1.7 * np.sin(turn), 0.6])
        aside = middle + np.array([*rng.uniform(-0.6, 0.6, 2), 0.0])
        camera = look_at_camera(tuple(place), tuple(aside), 600.0, 1280, 720)
        seen = camera.to_camera(motion.astype(np.float64))
        pixels, body = camera.project(seen), seen - seen[:, :1] + rng.normal(0, 0.03, (1, 17, 3))
        missing = np.zeros((60, 17), dtype=bool)
        for focal in (600.0, 1280.0):
            lens = np.array([1280.0, 720.0, focal])
            assert disagreement(pixels, missing, body, lens) is None
            mirrored = disagreement(pixels, missing, body * [-1, 1, 1], lens)
            assert mirrored is not None and mirrored.kind == "mirrored"


def test_parallel_rays_alone_never_fit_better_than_the_whole_fit():
    """So a frame that they find to fit needs no second look."""
    rng = np.random.default_rng(0)
    kinds = agreement.hypotheses_of(joint_set("coco17"), joint_set("3dhp"))
    lens = np.array([1000.0, 900.0, 1100.0])
    alike = 0
    for _ in range(200):
        pixels, body = rng.normal(500, 80, (17, 2)), rng.normal(0, 0.4, (17, 3))
        seen = rng.random(17) > 0.2
        found = agreement.parallel_fit(kinds, pixels, seen, body, lens)
        whole = agreement.plain_fits(kinds, pixels[None], seen[None], body[None], lens)[0]
        assert found >= whole - 1e-12
        alike += abs(found - whole) < 1e-12
    assert 20 < alike < 180
