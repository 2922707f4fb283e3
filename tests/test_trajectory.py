"""The root's trajectory from a user's arrays: lenses, the person's height, the floor, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from refiner.camera import look_at_camera
from refiner.data.synthetic import synthetic_motion
from refiner.errors import (
    DefaultLensWarning,
    InputError,
    InputWarning,
    LengthError,
    RefinerError,
    UnitError,
    UsageError,
)
from refiner.ground import Ground
from refiner.skeleton import from_h36m17
from refiner.trajectory import ANKLE_M, Trajectory, root_trajectory, standing_height

SIZE, FPS, FOCAL = (1920, 1080), 50.0, 1400.0
LENSES = {
    "plain": {},
    "distorted": {"radial": (-0.25, 0.1, 0.0), "tangential": (0.001, -0.002), "center": (930.0, 560.0)},
    "wide": {"focal_length": 800.0, "radial": (-0.1, 0.0, 0.0)},
    "two focal lengths": {"focal_length": (1400.0, 1250.0)},
    "off axis": {"target": (0.0, -2.2, 0.3)},
}


def scene(frames=60, seed=3, **options):
    """A walking person, a camera 1.6 m high in front of it, and what it sees."""
    world = np.asarray(synthetic_motion(seed, "Walking", frames), dtype=np.float64)
    focal, target = options.pop("focal_length", FOCAL), options.pop("target", (0.0, 0.0, 0.9))
    camera = look_at_camera((5.0, 0.5, 1.6), target, focal, *SIZE, **options)
    return camera, camera.project(camera.to_camera(world)), camera.to_camera(world)


@pytest.fixture(scope="module")
def plain():
    return scene()


def off(found: Trajectory, truth):
    return np.linalg.norm(found.root - truth[:, 0], axis=-1)


@pytest.mark.parametrize("lens", LENSES, ids=str)
def test_the_true_pose_gives_the_true_place(lens):
    camera, pixels, truth = scene(**LENSES[lens])
    moved = truth - truth[:, :1] + [7.0, 7.0, 7.0]  # the given root has no influence
    found = root_trajectory(pixels, moved, None, FPS, camera=camera)
    assert off(found, truth).max() < 0.02  # the smoothing, and the precision of the rays
    assert found.scale == 1.0 and not found.guessed.any() and found.ground is None
    np.testing.assert_allclose(found.place(moved), truth, atol=0.02)
    assert found.root.dtype == found.place(moved).dtype == np.float32


def test_focal_lengths_stand_for_a_lens():
    _, pixels, truth = scene(focal_length=(1400.0, 1250.0))
    found = root_trajectory(pixels, truth, SIZE, FPS, focal_length=(1400.0, 1250.0))
    assert off(found, truth).max() < 0.02
    with pytest.warns(DefaultLensWarning):
        guessed = root_trajectory(pixels, truth, SIZE, FPS)
    assert guessed.root[:, 2].mean() / truth[:, 0, 2].mean() == pytest.approx(1920 / 1325, rel=0.1)


def test_missing_joints_and_other_joint_sets(plain):
    _, pixels, truth = plain
    holes = pixels.copy()
    holes[10:20, 3:7] = np.nan
    sure = np.ones(pixels.shape[:2])
    sure[30:33] = 0.0
    holes[40, 12] = [0.0, 0.0]
    with pytest.warns(InputWarning, match="3 of 60 frames show fewer than 6 joints"):
        found = root_trajectory(holes, truth, SIZE, FPS, focal_length=FOCAL, confidence=sure)
    assert off(found, truth).max() < 0.03
    assert np.flatnonzero(found.guessed).tolist() == [30, 31, 32]
    coco_2d, coco_3d = from_h36m17(pixels, "coco17"), from_h36m17(truth, "coco17")
    coco = root_trajectory(coco_2d, coco_3d, SIZE, FPS, "coco17", focal_length=FOCAL)
    hips = coco_3d[:, [11, 12]].mean(axis=1)
    assert np.linalg.norm(coco.root - hips, axis=-1).max() < 0.05


def test_the_height_of_the_person_sets_the_scale(plain):
    _, pixels, truth = plain
    height = standing_height(truth)
    assert 1.4 < height < 2.0
    body = 0.8 * (truth - truth[:, :1])
    with pytest.warns(InputWarning, match="legs of"):
        assert off(root_trajectory(pixels, body, SIZE, FPS, focal_length=FOCAL), truth).mean() > 0.8
    found = root_trajectory(pixels, body, SIZE, FPS, focal_length=FOCAL, height=height)
    assert found.scale == pytest.approx(1 / 0.8, rel=1e-3)
    assert off(found, truth).max() < 0.03
    np.testing.assert_allclose(found.place(body), truth, atol=0.03)


@pytest.mark.parametrize("size", [0.92, 1.0, 1.08])
def test_the_camera_s_height_corrects_size_and_distance(plain, size):
    camera, pixels, truth = plain
    body = size * (truth - truth[:, :1])
    alone = off(root_trajectory(pixels, body, SIZE, FPS, focal_length=FOCAL), truth).mean()
    found = root_trajectory(pixels, body, SIZE, FPS, focal_length=FOCAL, ground=Ground.of_camera(camera))
    assert off(found, truth).mean() < max(0.65 * alone, 0.08)
    # Level axes: the lower foot is on the floor, and the person is upright.
    level = found.level(found.place(body))
    lower = level[:, [3, 6], 1].max(axis=1)
    assert np.median(lower) == pytest.approx(-ANKLE_M, abs=0.03)
    assert (level[:, 10, 1] < -1.2).all()
    assert found.ground is not None and found.ground.height == pytest.approx(1.6, abs=0.1)


def test_the_pitch_alone_levels_the_floor(plain):
    camera, pixels, truth = plain
    ground = Ground.of_camera(camera)
    known = Ground(ground.pitch, roll=ground.roll)
    found = root_trajectory(pixels, 1.05 * truth, SIZE, FPS, focal_length=FOCAL, ground=known)
    assert found.scale == 1.0
    # The height comes from the feet, and is as wrong as the size of the body.
    assert found.ground is not None and found.ground.height == pytest.approx(1.05 * 1.6, abs=0.08)
    level = found.level(found.place(truth))
    assert np.median(level[:, [3, 6], 1].max(axis=1)) == pytest.approx(-ANKLE_M, abs=0.05)
    assert np.ptp(level[:, 0, 1]) < 0.1  # the hips of a walking person hardly rise


def test_feet_that_nobody_sees(plain):
    camera, pixels, truth = plain
    hidden = pixels.copy()
    hidden[:, [3, 6]] = np.nan
    lens = {"focal_length": FOCAL}
    with pytest.warns(InputWarning, match="no frame shows a foot: the ground has no influence"):
        found = root_trajectory(hidden, truth, SIZE, FPS, **lens, ground=Ground.of_camera(camera))
    without = root_trajectory(hidden, truth, SIZE, FPS, **lens)
    np.testing.assert_array_equal(found.root, without.root)
    with pytest.raises(InputError, match="no frame shows a foot, so nobody knows where the floor is"):
        root_trajectory(hidden, truth, SIZE, FPS, **lens, ground=Ground(9.0))


def test_one_frame_and_two(plain):
    camera, pixels, truth = plain
    for frames in (1, 2):
        found = root_trajectory(pixels[:frames], truth[:frames], None, FPS, camera=camera)
        assert found.root.shape == (frames, 3) and off(found, truth[:frames]).max() < 1e-3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"height": 178.0}, UnitError, "height of the person is 178, expected metres from 0.4 to 2.8"),
        ({"height": 0.0}, UnitError, "height of the person is 0"),
        ({"height": float("inf")}, UsageError, "height of the person is inf"),
        ({"height": "tall"}, UsageError, "height of the person is 'tall'"),
        ({"ground": 1.6}, UsageError, "ground is a float; expected a refiner.ground.Ground"),
        ({"ground": Ground(-25.0, 1.6)}, InputError, "a positive pitch where the camera looks down"),
        ({"ground": Ground(-25.0)}, InputError, r"puts the feet -\d.\d\d m below the camera: expected metres"),
        ({"ground": Ground(8.0, 16.0)}, InputError, "said to stand 16 m above the floor"),
        ({"fps": None}, UsageError, "fps is None"),
        ({"fps": 0.0}, UsageError, "fps is 0.0"),
        ({"joints": "salad"}, UsageError, "salad"),
        ({"pose_3d": slice(0, 20)}, LengthError, "60 frames and pose_3d 20"),
        ({"focal_length": 35.0}, UnitError, "focal_length is 35"),
    ],
)
def test_what_is_refused(plain, options, error, message):
    _, pixels, truth = plain
    given = {"fps": FPS, "focal_length": FOCAL, **options}
    pose = truth[given.pop("pose_3d", slice(None))]
    with pytest.raises(error, match=message):
        root_trajectory(pixels, pose, SIZE, **given)


def test_a_person_beyond_the_horizon_is_refused():
    _, _, truth = scene()
    far = truth + np.array([0.0, 0.0, 1500.0])
    pixels = far[..., :2] / far[..., 2:] * 50_000.0 + np.array(SIZE) / 2
    with pytest.raises(UnitError, match="m away, expected at most 1,000 m"):
        root_trajectory(pixels, truth, SIZE, FPS, focal_length=50_000.0)


def test_poses_in_other_axes_are_named(plain):
    _, pixels, truth = plain
    with pytest.warns(InputWarning, match="the y axis of one of them points upwards"):
        root_trajectory(pixels, truth * [1.0, -1.0, 1.0], SIZE, FPS, focal_length=FOCAL)


def test_results_are_checked_and_inputs_stay(plain):
    _, pixels, truth = plain
    before = pixels.copy(), truth.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = root_trajectory(pixels, truth, SIZE, FPS, focal_length=FOCAL)
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(truth, before[1])
    with pytest.raises(RefinerError, match=r"expected \(60, joints, 3\)"):
        found.place(truth[:10])
    with pytest.raises(UsageError, match="no ground was given"):
        found.level(truth)


def test_a_camera_on_the_floor_levels_and_does_not_resize():
    """The feet of a person 0.1 m below the lens say nothing about the size."""
    world = np.asarray(synthetic_motion(3, "Walking", 60), dtype=np.float64)
    camera = look_at_camera((5.0, 0.5, 0.1), (0.0, 0.0, 0.9), FOCAL, *SIZE)
    pixels, truth = camera.project(camera.to_camera(world)), camera.to_camera(world)
    ground = Ground.of_camera(camera)
    assert ground.pitch < 0
    found = root_trajectory(pixels, truth, SIZE, FPS, focal_length=FOCAL, ground=ground)
    assert found.scale == pytest.approx(1.0, abs=0.01)
    assert off(found, truth).max() < 0.1
    assert found.ground is not None and found.ground.height == pytest.approx(0.1, abs=0.05)
