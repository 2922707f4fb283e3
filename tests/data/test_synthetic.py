"""The built-in motion: human proportions and limits, feet on the floor, smooth, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.synthetic import (
    JOINT_LIMITS_DEG,
    SYNTHETIC_ACTIONS,
    Body,
    synthetic_archive,
    synthetic_description,
    synthetic_folder,
    synthetic_motion,
)
from refiner.data.synthetic.body import SEGMENT_RATIOS, STATURE_M, limited, rest_angles
from refiner.errors import EmptySequenceError, UsageError
from refiner.skeleton import H36M17, LEFT, PARENTS, RIGHT

SEEDS = range(8)
EXPECTED_HEIGHTS = [
    0.8789,
    0.85288,
    0.87949,
    0.87578,
    0.86275,
    0.87958,
    0.87789,
    0.94728,
    0.8791,
    0.87012,
]  # mean of all joints over the first 20 frames of seed 11
FRAMES = 500
FEET = [3, 6]


@pytest.fixture(scope="module", params=SYNTHETIC_ACTIONS)
def motions(request):
    return [synthetic_motion(seed, request.param, FRAMES).astype(np.float64) for seed in SEEDS]


def bone_lengths(motion):
    return np.stack([np.linalg.norm(motion[:, b] - motion[:, a], axis=-1) for a, b in H36M17.bones], axis=-1)


def bend(motion, first, middle, last):
    """Degrees between the two bones that meet in ``middle``; 0 is straight."""
    one, two = motion[:, middle] - motion[:, first], motion[:, last] - motion[:, middle]
    cosine = (one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_there_are_enough_actions():
    assert len(SYNTHETIC_ACTIONS) >= 8
    assert all(" " not in action for action in SYNTHETIC_ACTIONS)


def test_format(motions):
    motion = synthetic_motion(3, "Walking", 60)
    assert motion.shape == (60, 17, 3)
    assert motion.dtype == np.float32
    assert all(np.isfinite(motion).all() for motion in motions)


def test_bones_are_rigid_symmetric_and_human(motions):
    for seed, motion in zip(SEEDS, motions, strict=True):
        lengths = bone_lengths(motion)
        assert np.ptp(lengths, axis=0).max() < 2e-6
        mean = dict(zip((joint for _, joint in H36M17.bones), lengths.mean(axis=0), strict=True))
        np.testing.assert_allclose([mean[j] for j in LEFT], [mean[j] for j in RIGHT], atol=1e-6)
        stature = Body.from_seed(seed).stature
        assert STATURE_M[0] <= stature <= STATURE_M[1]
        assert mean[2] / stature == pytest.approx(SEGMENT_RATIOS["thigh"], rel=0.07)
        assert mean[12] / stature == pytest.approx(SEGMENT_RATIOS["upper_arm"], rel=0.07)


def test_smooth_at_human_speeds(motions):
    for motion in motions:
        speed = np.linalg.norm(np.diff(motion, axis=0), axis=-1) * 50
        acceleration = np.linalg.norm(np.diff(motion, n=2, axis=0), axis=-1) * 50**2
        assert speed.max() < 10
        assert acceleration.max() < 150
        assert speed.max() > 0.5  # something moves


def test_feet_stay_on_the_floor(motions, request):
    action = request.node.callspec.params["motions"]
    for seed, motion in zip(SEEDS, motions, strict=True):
        ankle = Body.from_seed(seed).lengths["ankle"]
        feet = motion[:, FEET]
        assert feet[..., 2].min() > 0.5 * ankle
        assert motion[..., 2].min() > 0
        lower = feet[..., 2].min(axis=1)
        if action not in ("Running", "Jumping"):
            assert np.abs(lower - ankle).max() < 0.035
        # Where a foot is down, it keeps its place.
        speed = np.linalg.norm(np.diff(feet[..., :2], axis=0), axis=-1) * 50
        standing = speed[np.arange(len(speed)), feet[:-1, :, 2].argmin(axis=1)]
        assert np.median(standing) < (0.6 if action == "Running" else 0.1)


def test_joints_stay_within_their_limits(motions):
    for motion in motions:
        for hip, knee, foot in ((1, 2, 3), (4, 5, 6)):
            assert bend(motion, hip, knee, foot).max() <= JOINT_LIMITS_DEG["knee"][1]
        for shoulder, elbow, wrist in ((11, 12, 13), (14, 15, 16)):
            angle = bend(motion, shoulder, elbow, wrist)
            assert angle.max() <= JOINT_LIMITS_DEG["elbow"][1]
            assert angle.min() >= JOINT_LIMITS_DEG["elbow"][0] - 0.2  # float32
        # Knees bend backwards: the knee lies ahead of the line from hip to ankle.
        across = motion[:, 4] - motion[:, 1]
        for hip, knee, foot in ((1, 2, 3), (4, 5, 6)):
            leg = motion[:, foot] - motion[:, hip]
            ahead = np.cross(leg, across)
            out = motion[:, knee] - 0.5 * (motion[:, hip] + motion[:, foot])
            assert ((out * ahead).sum(-1) > -1e-3).all()


def test_every_camera_sees_the_whole_body_within_three_metres(motions):
    for motion in motions:
        assert np.abs(motion[..., :2]).max() < 1.5
        for camera in human36m_cameras():
            pixels = camera.project(camera.to_camera(motion))
            assert (pixels >= 0).all()
            assert (pixels < np.array(camera.image_size)).all()


def test_runs_and_jumps_leave_the_floor():
    for action in ("Running", "Jumping"):
        for seed in SEEDS:
            ankle = Body.from_seed(seed).lengths["ankle"]
            lower = synthetic_motion(seed, action, 400)[:, FEET, 2].min(axis=1)
            assert lower.max() > ankle + 0.04
            assert np.percentile(lower, 10) < ankle + 0.02


def test_a_walk_goes_somewhere_at_a_human_pace():
    for seed in SEEDS:
        hip = synthetic_motion(seed, "Walking", 1000)[:, 0]
        pace = np.linalg.norm(np.diff(hip[:, :2], axis=0), axis=-1).sum() / 20
        assert 0.6 < pace < 1.7
        assert np.ptp(hip[:, 0]) > 1.0
        # The hips rise and fall a little, twice a stride.
        assert 0.005 < np.ptp(hip[:, 2]) < 0.09


def test_who_sits_down_comes_down_to_a_chair():
    for seed in SEEDS:
        height = synthetic_motion(seed, "SittingDown", 600)[:, 0, 2] / Body.from_seed(seed).stature
        assert 0.24 < height.min() < 0.36
        assert 0.48 < height.max() < 0.57


def test_same_seed_same_numbers_other_seed_other_motion(motions, request):
    action = request.node.callspec.params["motions"]
    again = synthetic_motion(2, action, FRAMES)
    np.testing.assert_array_equal(again, motions[2].astype(np.float32))
    assert np.abs(again - motions[3]).max() > 0.05


def test_the_motion_is_the_same_on_every_run():
    # To a tenth of a millimetre, so that another NumPy's last bits do not matter.
    means = [synthetic_motion(11, action, 20).astype(np.float64).mean(axis=(0, 1)) for action in SYNTHETIC_ACTIONS]
    np.testing.assert_allclose(np.array(means)[:, 2], EXPECTED_HEIGHTS, atol=1e-4)


@pytest.mark.parametrize("action", SYNTHETIC_ACTIONS)
def test_length_and_rate_are_windows_on_one_motion(action):
    long = synthetic_motion(4, action, 900)
    np.testing.assert_allclose(synthetic_motion(4, action, 123), long[:123], atol=1e-6)
    np.testing.assert_allclose(synthetic_motion(4, action, 60, fps=25.0), long[:120:2], atol=1e-6)
    assert synthetic_motion(4, action, 1).shape == (1, 17, 3)


def test_limited_angles_never_pass_the_table():
    rng = np.random.default_rng(0)
    wild = {name: values + rng.normal(0, 3, values.shape) for name, values in rest_angles(400).items()}
    for name, values in limited(wild).items():
        low, high = np.radians(JOINT_LIMITS_DEG[name])
        assert values.min() >= low
        assert values.max() <= high


def test_archive_layout_and_split():
    archive = synthetic_archive(5, subjects=4, frames=30, actions=("Walking", "Boxing"), clips=2)
    assert list(archive) == ["SYN1", "SYN2", "SYN3", "SYN4"]
    for clips in archive.values():
        assert list(clips) == ["Walking", "Walking 1", "Boxing", "Boxing 1"]
        lengths = [bone_lengths(clip.astype(np.float64)).mean(axis=0) for clip in clips.values()]
        np.testing.assert_allclose(lengths, np.tile(lengths[0], (4, 1)), atol=1e-6)
        assert np.abs(clips["Walking"] - clips["Walking 1"]).max() > 0.05
    again = synthetic_archive(5, subjects=["a", "b"], frames=30, actions=("Walking",))
    np.testing.assert_array_equal(again["b"]["Walking"], archive["SYN2"]["Walking"])
    description = synthetic_description(archive)
    assert (description.train, description.validation, description.test) == (("SYN1", "SYN2"), ("SYN3",), ("SYN4",))
    assert description.fps == 50


def test_folder_gives_camera_clips():
    folder = synthetic_folder(6, subjects=3, frames=40, actions=("Reaching",))
    clips = folder.clips("test")
    assert len(clips) == 4
    assert clips[0].subject == "SYN3"
    assert clips[0].pose_2d.shape == (40, 17, 2)
    assert np.abs(clips[0].pose_2d - clips[0].pose_2d_clean).mean() > 0.5


def test_what_is_refused():
    with pytest.raises(UsageError, match="Walking"):
        synthetic_motion(0, "walk", 10)
    with pytest.raises(UsageError, match="seed"):
        synthetic_motion(-1, "Walking", 10)
    with pytest.raises(UsageError, match="frame rate"):
        synthetic_motion(0, "Walking", 10, fps=0)
    with pytest.raises(EmptySequenceError):
        synthetic_motion(0, "Walking", 0)
    with pytest.raises(UsageError, match="at least one"):
        synthetic_archive(0, subjects=0)
    with pytest.raises(UsageError, match="at least 3"):
        synthetic_description(["SYN1", "SYN2"])


def test_parents_of_the_bones():
    assert [joint for _, joint in H36M17.bones] == [joint for joint, parent in enumerate(PARENTS) if parent >= 0]
