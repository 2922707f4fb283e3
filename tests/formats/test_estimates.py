"""3D poses of other programs: each form is recognised, and brought to metres in camera axes or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from refiner.camera import human36m_cameras, look_at_camera
from refiner.cli import refine
from refiner.data.synthetic import synthetic_motion
from refiner.errors import InputError, JointCountError, ShapeError, UnitError, UsageError
from refiner.formats import read_estimate, to_camera_metres
from refiner.formats.estimates import LEG_OF_HEIGHT
from refiner.skeleton import flip_pose

SIZE = (1280, 720)
FRAMES = 60
NOISE_PX, NOISE_M = 1.5, 0.01


def recording(action="Walking", seed=3, frames=FRAMES):
    """Pixels of a detector, and the true poses in metres before the camera."""
    camera = look_at_camera((0.5, -5.0, 1.3), (0.2, 0.0, 0.9), 1100.0, *SIZE)
    points = camera.to_camera(synthetic_motion(seed, action, frames).astype(np.float64))
    rng = np.random.default_rng(seed)
    return camera.project(points) + rng.normal(0, NOISE_PX, (frames, 17, 2)), points


def predicted(points, seed=4):
    """An estimator's poses relative to the root."""
    poses = points + np.random.default_rng(seed).normal(0, NOISE_M, points.shape)
    return poses - poses[:, :1]


def height_of(points):
    legs = [np.linalg.norm(points[:, a] - points[:, b], axis=-1).mean() for a, b in ((1, 2), (2, 3), (4, 5), (5, 6))]
    return float(sum(legs) / 2 / LEG_OF_HEIGHT)


def of_the_image(pixels, points, form, seed=5):
    """What MotionBERT writes: x and y of the image, depths in the unit of a pixel at the root's depth."""
    rng = np.random.default_rng(seed)
    depth = (points[..., 2] - points[:, :1, 2]) * 1100.0 / points[:, :1, 2] + rng.normal(0, 2.0, points.shape[:2])
    poses = np.concatenate([pixels + rng.normal(0, 1.0, pixels.shape), depth[..., None]], axis=-1)
    low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    scale, origin = {
        "crop": (float((high - low).max()) / 2.0, (low + high) / 2.0),
        "pixels": (1.0, np.zeros(2)),
        "half": (min(SIZE) / 2.0, np.array(SIZE) / 2.0),
    }[form]
    poses[..., :2] -= origin
    return poses / scale


def apart(found, points):
    """Mean distance in metres, relative to the root."""
    found = found.astype(np.float64)
    return float(np.linalg.norm(found - found[:, :1] - (points - points[:, :1]), axis=-1).mean())


ACTIONS = ("Walking", "Waving", "Squatting", "Boxing")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("place", ["root", "camera"])
def test_metres_in_camera_axes_stay_as_they_are(action, place):
    pixels, points = recording(action)
    poses = predicted(points) + (points[:, :1] if place == "camera" else 0.0)
    found = to_camera_metres(poses, pixels, SIZE)
    assert (found.kind, found.note) == ("camera", "")
    np.testing.assert_array_equal(found.pose_3d, poses.astype(np.float32))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("camera", human36m_cameras(), ids=lambda camera: camera.id)
def test_the_room_that_videopose3d_draws_is_turned_back(action, camera):
    pixels, points = recording(action)
    poses = predicted(points)
    room = poses @ camera.rotation  # to the world of Human3.6M
    room[..., 2] -= room[..., 2].min(axis=1, keepdims=True)  # feet on the floor
    found = to_camera_metres(room, pixels, SIZE, focal_length=1100.0)
    assert found.kind == "room" and camera.id in found.note and "z up" in found.note
    np.testing.assert_allclose(found.pose_3d, poses, rtol=0, atol=1e-5)


@pytest.mark.parametrize("action", ["Walking", "Boxing"])
@pytest.mark.parametrize("seed", range(6))
def test_other_right_handed_axes_follow_from_the_pixels(action, seed):
    pixels, points = recording(action)
    poses = predicted(points)
    axes = Rotation.random(random_state=seed).as_matrix()
    found = to_camera_metres(poses @ axes.T, pixels, SIZE, focal_length=1100.0)
    assert found.kind == "room" and "rotation that fits" in found.note
    assert apart(found.pose_3d, poses) < 0.02


def test_a_flat_body_is_not_turned():
    """Who squats facing the camera is nearly flat: the pixels do not determine the axes."""
    pixels, points = recording("Squatting")
    axes = Rotation.random(random_state=1).as_matrix()
    assert to_camera_metres(predicted(points) @ axes.T, pixels, SIZE).kind == "camera"


@pytest.mark.parametrize("axes", [(1, -1, 1), (-1, 1, 1), (1, 1, -1)])
def test_mirror_images_are_not_turned(axes):
    """A turned mirror image would fit the pixels with its depth reversed."""
    pixels, points = recording()
    poses = predicted(points) * axes
    assert to_camera_metres(poses, pixels, SIZE).kind == "camera"
    assert to_camera_metres(flip_pose(predicted(points)) @ np.diag([1.0, -1.0, -1.0]), pixels, SIZE).kind != "image"


@pytest.mark.parametrize("form", ["crop", "pixels", "half"])
@pytest.mark.parametrize("action", ["Walking", "Squatting"])
def test_poses_of_the_image_need_a_height_and_become_metres(form, action):
    pixels, points = recording(action)
    poses = of_the_image(pixels, points, form)
    with pytest.raises(UnitError, match=r"coordinates of the image, .*give the height of the person"):
        to_camera_metres(poses, pixels, SIZE, focal_length=1100.0)
    found = to_camera_metres(poses, pixels, SIZE, focal_length=1100.0, height=height_of(points))
    assert found.kind == "image" and ("X3D" in found.note or form == "half")
    assert apart(found.pose_3d, points) < 0.03
    # The pixels and the lens give the place before the camera too.
    assert np.abs(found.pose_3d[:, 0] - points[:, 0]).max() < 0.25


def test_pixels_without_their_place_are_refused():
    pixels, points = recording()
    poses = of_the_image(pixels, points, "pixels")
    with pytest.raises(UnitError, match="in pixels, relative to the root"):
        to_camera_metres(poses - poses[:, :1], pixels, SIZE)


def test_missing_joints_do_not_take_part():
    pixels, points = recording()
    room = predicted(points) @ human36m_cameras()[0].rotation
    lost = np.random.default_rng(1).random(pixels.shape[:2]) < 0.2
    holes = np.where(lost[..., None], np.nan, pixels)
    far = np.where(lost[..., None], 5000.0, pixels)
    for given, score in (
        (holes, None),
        (far, np.where(lost, 0.0, 0.9)),
        (np.where(lost[..., None], 0.0, pixels), None),
    ):
        assert to_camera_metres(room, given, SIZE, confidence=score).kind == "room"
    nobody = np.full_like(pixels, np.nan)
    assert to_camera_metres(room, nobody, SIZE).kind == "camera"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"height": 175.0}, UsageError, "height is 175"),
        ({"height": float("nan")}, UsageError, "height is nan"),
        ({"height": 1.75}, UsageError, "leave it out"),
        ({"confidence": np.ones(3)}, ShapeError, r"confidence is float64 of shape \(3,\)"),
        ({"joints": "coco18"}, JointCountError, "17 joints"),
        ({"pose_2d": np.zeros((3, 17, 2))}, InputError, "3 frames and pose_3d 60"),
    ],
)
def test_what_cannot_be_used_is_refused(change, error, words):
    pixels, points = recording()
    arguments = {"pose_3d": predicted(points), "pose_2d": pixels, "image_size": SIZE} | change
    with pytest.raises(error, match=words):
        to_camera_metres(**arguments)


def test_a_file_is_named_in_its_error(tmp_path):
    pixels, points = recording()
    np.save(tmp_path / "X3D.npy", of_the_image(pixels, points, "crop"))
    with pytest.raises(UnitError, match=r"X3D\.npy: pose_3d has the coordinates"):
        read_estimate(tmp_path / "X3D.npy", pixels, SIZE)
    found = read_estimate(tmp_path / "X3D.npy", pixels, SIZE, height=height_of(points), focal_length=1100.0)
    assert apart(found.pose_3d, points) < 0.03


def test_the_command_says_what_it_did(tmp_path, capsys):
    pixels, points = recording()
    poses = predicted(points)
    np.save(tmp_path / "2d.npy", pixels)
    files = {"room": poses @ human36m_cameras()[0].rotation, "X3D": of_the_image(pixels, points, "crop"), "own": poses}
    common = ["--pose-2d", str(tmp_path / "2d.npy"), "--image-size", "1280", "720", "--focal-length", "1100"]
    results = {}
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
        options = [*common, "--pose-3d", str(tmp_path / f"{name}.npy"), "--output", str(tmp_path / "out.npy")]
        if name == "X3D":
            assert refine.main(options) == 5
            assert "X3D.npy: pose_3d has the coordinates of the image" in capsys.readouterr().err
            options += ["--height", f"{height_of(points):.3f}"]
        assert refine.main(options) == 0
        results[name] = np.load(tmp_path / "out.npy"), capsys.readouterr().err
    assert "room.npy: pose_3d had the axes of a room" in results["room"][1]
    assert "metres for a person of" in results["X3D"][1] and "had the axes" not in results["own"][1]
    np.testing.assert_allclose(results["room"][0], results["own"][0], rtol=0, atol=1e-4)
    assert apart(results["X3D"][0], points) < 0.06
    detected = np.zeros((FRAMES, 26, 2))
    order = [19, 12, 14, 16, 11, 13, 15, 18, 18, 0, 17, 5, 7, 9, 6, 8, 10]  # where Halpe has Human3.6M's joints
    detected[:, order] = pixels
    detected[:, 18] = pixels[:, 8]
    np.save(tmp_path / "halpe.npy", detected)
    halpe = [*common[2:], "--pose-2d", str(tmp_path / "halpe.npy"), "--joints", "halpe26"]
    for name in files:
        options = [*halpe, "--pose-3d", str(tmp_path / f"{name}.npy"), "--output", str(tmp_path / "out.npy")]
        options += ["--height", f"{height_of(points):.3f}"] if name == "X3D" else []
        assert refine.main(options) == 0
        assert apart(np.load(tmp_path / "out.npy"), points) < 0.06
    lifted = [*common, "--height", "1.8", "--output", str(tmp_path / "out.npy")]
    assert refine.main(lifted) == 2
    assert "--height is that of the person in --pose-3d" in capsys.readouterr().err
