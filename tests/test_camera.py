"""Projection, screen normalisation and camera files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.camera import (
    Camera,
    denormalise_screen,
    human36m_cameras,
    load_cameras,
    look_at_camera,
    normalise_screen,
)
from refiner.errors import InputError, ShapeError


def people(seed, shape=(7, 17)):
    """World points around the origin, where the cameras look."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-1, 1, (*shape, 2)), rng.uniform(0, 2, (*shape, 1))], axis=-1)


def row_of(camera):
    return {
        "id": camera.id,
        "res_w": camera.width,
        "res_h": camera.height,
        "focal_length": camera.focal_length.tolist(),
        "center": camera.center.tolist(),
        "radial_distortion": camera.radial.tolist(),
        "tangential_distortion": camera.tangential.tolist(),
        "R": camera.rotation.tolist(),
        "t": camera.translation.tolist(),
    }


def project_one(camera, point):
    """The formula written out for one world point, in Python floats."""
    r, t = camera.rotation.tolist(), camera.translation.tolist()
    cx, cy, cz = (sum(r[i][j] * float(point[j]) for j in range(3)) + t[i] for i in range(3))
    x, y = min(max(cx / cz, -1.0), 1.0), min(max(cy / cz, -1.0), 1.0)
    r2 = x**2 + y**2
    k1, k2, k3 = camera.radial.tolist()
    p1, p2 = camera.tangential.tolist()
    gain = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    (fx, fy), (ox, oy) = camera.focal_length.tolist(), camera.center.tolist()
    return fx * (x * gain + p1 * r2) + ox, fy * (y * gain + p2 * r2) + oy


@pytest.mark.parametrize("index", range(4))
def test_rays_undo_the_projection(index):
    camera = human36m_cameras()[index]
    rng = np.random.default_rng(index)
    seen = np.concatenate([rng.uniform(-0.45, 0.45, (500, 2)), np.ones((500, 1))], axis=1)
    points = seen * rng.uniform(2, 8, (500, 1))
    np.testing.assert_allclose(camera.rays(camera.project(points)), seen[:, :2], rtol=0, atol=1e-9)
    corners = np.array([[0.0, 0.0], [camera.width, 0.0], [0.0, camera.height], [camera.width, camera.height]])
    back = camera.project(np.concatenate([camera.rays(corners), np.ones((4, 1))], axis=1))
    np.testing.assert_allclose(back, corners, rtol=0, atol=1e-6)


def test_pixels_beyond_the_lens_have_no_ray():
    camera = human36m_cameras()[0]
    with pytest.raises(InputError, match="no single point at 1 of the pixels"):
        camera.rays([[500.0, 500.0], [9000.0, 500.0]])
    assert np.isnan(camera.rays([[np.nan, 500.0], [500.0, 500.0]])[0, 0])


@pytest.mark.parametrize("index", range(4))
def test_projection_agrees_with_the_formula_written_out(index):
    camera = human36m_cameras()[index]
    world = people(index)
    expected = np.array([[project_one(camera, point) for point in frame] for frame in world])
    np.testing.assert_allclose(camera.project(camera.to_camera(world)), expected, rtol=0, atol=1e-9)


def test_points_far_off_axis_are_clipped_as_the_field_does():
    camera = human36m_cameras()[0]
    far, edge = np.array([[5.0, -3.0, 1.0]]), np.array([[1.0, -1.0, 1.0]])
    np.testing.assert_array_equal(camera.project(far), camera.project(edge))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 17), (2, 3, 4, 17), (0, 17)])
def test_type_and_leading_dimensions_are_kept(dtype, shape):
    camera = human36m_cameras()[2]
    world = people(5, shape).astype(dtype)
    points = camera.to_camera(world)
    pixels = camera.project(points)
    assert points.shape == (*shape, 3)
    assert pixels.shape == (*shape, 2)
    assert points.dtype == pixels.dtype == dtype


def test_single_precision_stays_within_a_thousandth_of_a_pixel():
    world = people(11, (200, 17))
    for camera in human36m_cameras():
        double = camera.project(camera.to_camera(world))
        single = camera.project(camera.to_camera(world.astype(np.float32)))
        assert np.abs(double - single).max() < 1e-3


def test_non_contiguous_points_project_alike():
    camera = human36m_cameras()[1]
    world = people(3, (6, 34))
    for view in (world[:, ::2], world[::-1], np.asfortranarray(world)):
        np.testing.assert_array_equal(
            camera.project(camera.to_camera(view)), camera.project(camera.to_camera(view.copy()))
        )


def test_points_behind_the_camera_are_refused_and_nan_passes():
    camera = human36m_cameras()[0]
    with pytest.raises(InputError, match="2 points lie on or behind"):
        camera.project([[0.1, 0.2, 3.0], [0.1, 0.2, -3.0], [0.1, 0.2, 0.0]])
    pixels = camera.project([[np.nan, 0.2, 3.0], [0.1, 0.2, 3.0]])
    assert np.isnan(pixels[0]).any()
    assert np.isfinite(pixels[1]).all()


def test_bundled_cameras_are_the_published_ones():
    cameras = human36m_cameras()
    assert [camera.id for camera in cameras] == ["54138969", "55011271", "58860488", "60457274"]
    assert [camera.image_size for camera in cameras] == [
        (1000, 1002),
        (1000, 1000),
        (1000, 1000),
        (1000, 1002),
    ]
    np.testing.assert_allclose(cameras[0].position, [1.8411070, 4.9552846, 1.5634454], atol=1e-6)


# R X + t in millimetres, from the other published list (karfly/human36m-camera-parameters), rounded.
PUBLISHED_T_MM = {
    "S5": [
        (-219.306, 544.479, 5518.740),
        (103.903, 395.672, 5767.973),
        (520.327, 283.369, 5591.124),
        (-79.116, 425.590, 4454.482),
    ],
    "S7": [
        (-323.912, 541.772, 5506.569),
        (178.624, 403.592, 5694.880),
        (441.106, 271.916, 5660.120),
        (25.769, 431.056, 4461.873),
    ],
    "S8": [
        (-82.702, 552.190, 5557.354),
        (-209.063, 375.069, 5818.277),
        (623.099, 290.905, 5534.379),
        (-178.367, 423.467, 4421.645),
    ],
    "S9": [
        (-321.208, 467.135, 5514.330),
        (19.193, 404.228, 5702.169),
        (455.401, 273.359, 5657.814),
        (-69.271, 422.184, 4457.893),
    ],
    "S11": [
        (-234.721, 464.340, 5536.653),
        (-11.934, 449.417, 5541.114),
        (781.127, 235.313, 5576.370),
        (-155.137, 422.163, 4435.416),
    ],
}


@pytest.mark.parametrize("subject", list(PUBLISHED_T_MM))
def test_the_other_peoples_extrinsics_agree_with_the_second_published_list(subject):
    found = np.array([camera.translation for camera in human36m_cameras(subject)])
    np.testing.assert_allclose(found * 1000, PUBLISHED_T_MM[subject], rtol=0, atol=0.002)


@pytest.mark.parametrize("subject", ["S1", "S5", "S6", "S7", "S8", "S9", "S11"])
def test_every_person_has_four_cameras_around_the_room_that_see_its_middle(subject):
    for camera in human36m_cameras(subject):
        assert 4 < np.linalg.norm(camera.position[:2]) < 6
        assert 1.4 < camera.position[2] < 1.7
        # The middle half of the image; S11's third camera looks 178 px past the middle of the room.
        assert np.all(np.abs(camera.project(camera.to_camera([0.0, 0.0, 0.9])) - 500) < 250)


def test_the_cameras_of_an_unknown_person_are_refused():
    with pytest.raises(InputError, match="'S2' are not known; there are those of S1, S5"):
        human36m_cameras("S2")


@pytest.mark.parametrize("roll", [0.0, 0.7])
def test_look_at_camera_puts_the_target_in_the_middle_and_up_upwards(roll):
    rng = np.random.default_rng(8)
    target, position = rng.uniform(-1, 1, 3), rng.uniform(2, 4, 3)
    camera = look_at_camera(position, target, 900.0, 1280, 720, roll=roll)
    np.testing.assert_allclose(camera.position, position, atol=1e-12)
    np.testing.assert_allclose(camera.project(camera.to_camera(target)), [640, 360], atol=1e-9)
    assert camera.to_camera(target)[2] == pytest.approx(np.linalg.norm(target - position))
    above = camera.project(camera.to_camera(target + np.array([0, 0, 0.1]))) - [640, 360]
    assert np.arctan2(above[0], -above[1]) == pytest.approx(-roll if roll else 0.0, abs=1e-9)


def test_look_at_camera_refuses_to_look_straight_down_or_at_itself():
    for target in ([1.0, 2.0, 0.0], [1.0, 2.0, 3.0]):
        with pytest.raises(InputError, match="cannot look at"):
            look_at_camera([1.0, 2.0, 3.0], target, 900.0, 100, 100)


def test_normalise_screen_is_videopose3ds_and_comes_back():
    pose = np.random.default_rng(2).uniform(0, 1000, (5, 17, 2))
    screen = normalise_screen(pose, (1000, 1002))
    np.testing.assert_allclose(screen, pose / 1000 * 2 - np.array([1, 1002 / 1000]), rtol=0, atol=1e-15)
    np.testing.assert_allclose(denormalise_screen(screen, (1000, 1002)), pose, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        normalise_screen(np.array([[0, 0], [1920, 1080]]), (1920, 1080)), [[-1, -0.5625], [1, 0.5625]]
    )


def test_normalise_screen_takes_one_image_size_per_window():
    pose = np.random.default_rng(3).uniform(0, 1000, (2, 4, 17, 2)).astype(np.float32)
    sizes = np.array([[1000, 1002], [640, 480]])
    both = normalise_screen(pose, sizes)
    assert both.dtype == np.float32
    for index in range(2):
        np.testing.assert_array_equal(both[index], normalise_screen(pose[index], sizes[index]))


@pytest.mark.parametrize("size", [(1000, 1002), [[1000, 1002], [640, 480]]])
def test_normalise_screen_works_on_tensors(size):
    torch = pytest.importorskip("torch")
    pose = np.random.default_rng(4).uniform(0, 1000, (2, 4, 17, 2)).astype(np.float32)
    tensor = normalise_screen(torch.from_numpy(pose), torch.tensor(size) if isinstance(size, list) else size)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), normalise_screen(pose, size), rtol=0, atol=1e-6)
    back = denormalise_screen(tensor, torch.tensor(size))
    np.testing.assert_allclose(back.numpy(), pose, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(0, 100), (100, -1), (np.nan, 100), (100,), 100])
def test_an_impossible_image_size_is_refused(size):
    with pytest.raises(InputError, match="expected \\(width, height\\)"):
        normalise_screen(np.ones((17, 2)), size)


def test_points_with_the_wrong_last_axis_are_refused():
    with pytest.raises(ShapeError, match=r"\(4, 17, 2\), expected \(\.\.\., 3\)"):
        human36m_cameras()[0].to_camera(np.ones((4, 17, 2)))
    with pytest.raises(ShapeError, match=r"expected \(\.\.\., 2\)"):
        normalise_screen(np.ones((4, 17, 3)), (1000, 1000))


@pytest.mark.parametrize("layout", ["list", "cameras", "subjects"])
def test_load_cameras_reads_every_layout(tmp_path, layout):
    rows = [row_of(camera) for camera in human36m_cameras()]
    content = {"list": rows, "cameras": {"cameras": rows}, "subjects": {"S1": rows, "S9": rows[:2]}}[layout]
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(content))
    cameras = load_cameras(path)
    if layout == "subjects":
        assert [len(cameras[name]) for name in ("S1", "S9")] == [4, 2]
        cameras = cameras["S1"]
    for loaded, bundled in zip(cameras, human36m_cameras(), strict=True):
        np.testing.assert_array_equal(loaded.rotation, bundled.rotation)
        assert loaded.image_size == bundled.image_size


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"R": None}, "no number|shape"),
        ({"R": np.ones((3, 3)).tolist()}, "not a rotation"),
        ({"R": np.diag([1.0, 1.0, -1.0]).tolist()}, "not a rotation"),
        ({"t": [1.0, 2.0]}, r"translation has shape \(2,\)"),
        ({"center": [np.nan, 1.0]}, "not finite"),
        ({"res_w": 0}, "has 0 pixels, expected a whole number from 1"),
        ({"res_w": "wide"}, "no number"),
    ],
)
def test_a_wrong_camera_field_is_named(tmp_path, change, match):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([{**row_of(human36m_cameras()[0]), **change}]))
    with pytest.raises(InputError, match=match):
        load_cameras(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '["a"]', '{"fps": 50}', "[{}]", "[1"])
def test_a_foreign_camera_file_is_refused(tmp_path, text):
    path = tmp_path / "cameras.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cameras\.json"):
        load_cameras(path)


def test_a_missing_camera_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the cameras"):
        load_cameras(tmp_path / "none.json")


def test_cameras_cannot_be_changed():
    camera = human36m_cameras()[0]
    with pytest.raises(ValueError, match="read-only"):
        camera.rotation[0, 0] = 2.0
    assert isinstance(camera, Camera)
