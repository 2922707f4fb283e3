"""The reader of Qualisys' calibrations, resized videos, fitted poses."""

from __future__ import annotations

import numpy as np
import pytest
from refiner_bench.real.calibration import fit_pose, for_video, read_qualisys
from scipy.spatial.transform import Rotation

from refiner.camera import look_at_camera
from refiner.errors import InputError

CAMERA = """<calibration><cameras><camera serial="left">
<fov_video bottom="1919" left="0" right="1087" top="0"/>
<transform r11="1" r12="0" r13="0" r21="0" r22="0" r23="1" r31="0" r32="-1" r33="0" x="1000" y="-2000" z="500"/>
<intrinsic centerPointU="34816" centerPointV="61440" focalLengthU="102400" focalLengthV="102464"
 radialDistortion1="-0.04" radialDistortion2="0.1" radialDistortion3="0" tangentalDistortion1="0.001"
 tangentalDistortion2="0.002"/></camera></cameras></calibration>"""


def test_units_and_axes(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text(CAMERA)
    camera = read_qualisys(path)["left"]
    assert camera.image_size == (1088, 1920)
    np.testing.assert_allclose(camera.focal_length, [1600, 1601])
    np.testing.assert_allclose(camera.center, [544, 960])
    np.testing.assert_allclose(camera.position, [1.0, -2.0, 0.5])
    np.testing.assert_allclose(camera.tangential, [0.002, 0.001])
    # It looks along the world's y: a point further there lies ahead, a higher one above (y down).
    np.testing.assert_allclose(camera.to_camera(np.array([1.0, 1.0, 0.5])), [0, 0, 3], atol=1e-12)
    np.testing.assert_allclose(camera.to_camera(np.array([1.0, 1.0, 1.5])), [0, -1, 3], atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no xml", "no Qualisys calibration"),
        ("<calibration/>", "holds no cameras"),
        (CAMERA.replace(' r33="0"', ""), "has no r33"),
        (CAMERA.replace('x="1000"', 'x="far"'), "no number"),
        (CAMERA.replace('r11="1"', 'r11="2"'), "not a rotation"),
        (CAMERA.replace("</cameras>", CAMERA[CAMERA.index("<camera ") : CAMERA.index("</cameras>")] + "</cameras>"),
         "twice"),
    ],
)  # fmt: skip
def test_a_broken_calibration_is_refused(tmp_path, text, message):
    path = tmp_path / "calib.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_qualisys(path)


def test_a_missing_calibration_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_qualisys(tmp_path / "none.txt")


def test_a_resized_video_shows_the_same():
    camera = look_at_camera((0, -4, 1.5), (0, 0, 1), 1600, 1088, 1920)
    points = camera.to_camera(np.random.default_rng(0).uniform(-0.5, 1.5, (20, 3)))
    scale = 1088 / 1080
    moved = (camera.project(points) - [0, (1920 - scale * 1920) / 2]) / scale
    np.testing.assert_allclose(for_video(camera, (1080, 1920)).project(points), moved, atol=1e-9)
    np.testing.assert_array_equal(for_video(camera, (1088, 1920)).center, camera.center)


def test_a_pose_is_fitted_in_spite_of_outliers():
    camera = look_at_camera((0, -4, 1.5), (0, 0, 1), 1600, 1088, 1920)
    points = np.random.default_rng(0).uniform(-0.5, 1.5, (200, 3))
    pixels = camera.project(camera.to_camera(points))
    pixels[:5] += 400.0
    turn = Rotation.from_rotvec([0.02, -0.01, 0.03]).as_matrix()
    off = type(camera)(**{**vars(camera), "rotation": turn @ camera.rotation, "translation": camera.translation + 0.05})
    fitted = fit_pose(off, points, pixels, np.ones(200))
    errors = np.linalg.norm(fitted.project(fitted.to_camera(points)) - pixels, axis=-1)[5:]
    assert errors.max() < 5.0
    with pytest.raises(InputError, match="at least 6"):
        fit_pose(off, points, pixels, np.zeros(200))
