"""What users say of their lens, and what can be none."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from refiner.camera import default_focal_length, human36m_cameras
from refiner.errors import DefaultLensWarning, InputError, UnitError, UsageError
from refiner.lens import check_lens

SIZE = (1920, 1080)


def test_default_is_the_longer_side_and_is_told() -> None:
    assert default_focal_length((1080, 1920)) == default_focal_length(SIZE) == 1920.0
    with pytest.warns(DefaultLensWarning, match="1920 pixels are taken"):
        lens = check_lens(SIZE)
    assert lens.source == "default" and lens.row().tolist() == [1920.0, 1080.0, 1920.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_lens(SIZE, quiet=True).focal_length == 1920.0
        assert check_lens(SIZE, 1500.0).source == "given"


@pytest.mark.parametrize(
    ("focal", "error", "match"),
    [
        (0.0, InputError, "focal_length is 0"),
        (-1200.0, InputError, "focal_length is -1200"),
        (np.nan, InputError, "focal_length is nan"),
        (np.inf, InputError, "focal_length is inf"),
        (35.0, UnitError, "Millimetres"),
        ((35.0, 1200.0), UnitError, "Millimetres"),
        (1e6, UnitError, "larger image"),
        ("wide", InputError, "one number or two"),
        ((1.0, 2.0, 3.0), InputError, "shape"),
        ([[1200.0]], InputError, "shape"),
    ],
)
def test_what_can_be_no_focal_length(focal: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        check_lens(SIZE, focal)


def test_two_focal_lengths_square_the_pixels() -> None:
    lens = check_lens((1000, 800), (1200.0, 1000.0))
    assert lens.focal_length == 1200.0
    # The same ray by one focal length: (y - 400) / 1000 = (y' - 400) / 1200.
    np.testing.assert_allclose(lens.ideal(np.array([[600.0, 500.0]])), [[600.0, 520.0]])


def test_a_camera_undoes_its_distortion() -> None:
    camera = human36m_cameras()[0]
    lens = check_lens(None, camera=camera)
    assert lens.source == "camera" and lens.image_size == tuple(map(float, camera.image_size))
    points = np.random.default_rng(0).uniform([-0.9, -0.9, 3.0], [0.9, 0.9, 5.0], (50, 3))
    ideal = lens.ideal(camera.project(points))
    centre = np.array(camera.image_size) / 2
    np.testing.assert_allclose(ideal, points[:, :2] / points[:, 2:] * lens.focal_length + centre, atol=1e-5)
    missing = lens.ideal(np.array([[np.nan, np.nan], [500.0, 500.0]]))
    assert np.isnan(missing[0]).all() and np.isfinite(missing[1]).all()


def test_a_camera_of_another_image_is_refused() -> None:
    camera = human36m_cameras()[0]
    with pytest.raises(InputError, match="calibrated for 1000 x 1002"):
        check_lens((2000, 2004), camera=camera)
    assert check_lens((1000, 1001), camera=camera).image_size == (1000.0, 1002.0)
    with pytest.raises(UsageError, match="both given"):
        check_lens((1000, 1002), 1100.0, camera)
    with pytest.raises(UsageError, match="expected a refiner"):
        check_lens((1000, 1002), camera="cam1")  # type: ignore[arg-type]
    short = dataclasses.replace(camera, focal_length=np.array([35.0, 35.0]))
    with pytest.raises(UnitError, match="Millimetres"):
        check_lens(None, camera=short)
