"""The floor under a camera: its direction, its axes, and what is no ground."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.camera import look_at_camera
from refiner.errors import InputError, ShapeError, UsageError
from refiner.ground import Ground

ANGLES = st.floats(-80.0, 80.0)


@given(pitch=ANGLES, roll=st.floats(-179.0, 179.0), height=st.floats(0.1, 20.0), seed=st.integers(0, 99))
def test_level_axes_are_a_turn_and_a_shift(pitch, roll, height, seed):
    ground = Ground(pitch, height, roll)
    rotation = ground.rotation
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    # The lens is above the origin, gravity is y, and forward stays forward.
    np.testing.assert_allclose(ground.level(np.zeros(3)), [0.0, -height, 0.0], atol=1e-12)
    np.testing.assert_allclose(ground.level(ground.down * height), np.zeros(3), atol=1e-12)
    forward = ground.level([0.0, 0.0, 1.0])
    assert forward[0] == pytest.approx(0.0, abs=1e-12) and forward[2] > 0
    points = np.random.default_rng(seed).normal(size=(4, 3))
    back = (ground.level(points) + np.array([0.0, height, 0.0])) @ rotation
    np.testing.assert_allclose(back, points, atol=1e-12)


@given(pitch=ANGLES, roll=st.floats(-90.0, 90.0), height=st.floats(0.1, 20.0), azimuth=st.floats(0.0, 6.0))
def test_the_ground_of_a_calibrated_camera(pitch, roll, height, azimuth):
    """`look_at_camera` is built another way: from a position, a target and a roll."""
    eye = np.array([1.0, -2.0, height])
    slope = np.radians(pitch)
    aim = eye + np.array([np.cos(azimuth) * np.cos(slope), np.sin(azimuth) * np.cos(slope), -np.sin(slope)])
    camera = look_at_camera(eye, aim, 1000.0, 1000, 1000, roll=np.radians(roll))
    ground = Ground.of_camera(camera)
    assert (ground.pitch, ground.height, ground.roll) == pytest.approx((pitch, height, roll), abs=1e-6)
    world = np.array([[3.0, 1.0, 0.0], [0.0, 0.5, 1.7]])
    assert ground.level(camera.to_camera(world))[:, 1] == pytest.approx([0.0, -1.7], abs=1e-9)


def test_signs_in_words():
    assert Ground(10.0, 1.5).down[2] > 0  # looks down: what lies below is also ahead
    assert Ground(0.0, 1.5, 20.0).down[0] > 0  # turned clockwise: the image of the floor is to the right


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pitch": 90.0}, InputError, "pitch is 90, expected -89 to 89 degrees downwards"),
        ({"pitch": float("nan")}, UsageError, "pitch is nan"),
        ({"pitch": "10"}, UsageError, "pitch is '10'"),
        ({"pitch": True}, UsageError, "pitch is True"),
        ({"pitch": [1.0, 2.0]}, UsageError, "pitch"),
        ({"pitch": None}, UsageError, "pitch is None"),
        ({"pitch": 10.0, "height": 1500.0}, InputError, "height is 1500, expected 0.05 to 100 metres"),
        ({"pitch": 10.0, "height": -1.0}, InputError, "height is -1"),
        ({"pitch": 10.0, "height": 1.5, "roll": 270.0}, InputError, "roll is 270"),
    ],
)
def test_what_is_no_ground(options, error, message):
    with pytest.raises(error, match=message):
        Ground(**options)


def test_level_needs_a_height_and_points():
    with pytest.raises(UsageError, match="height of the camera"):
        Ground(10.0).level(np.zeros(3))
    with pytest.raises(ShapeError, match=r"\(\.\.\., 3\)"):
        Ground(10.0, 1.5).level(np.zeros((3, 2)))
    assert Ground(10.0).level(np.zeros((2, 3), np.float32), height=1.2).dtype == np.float32
