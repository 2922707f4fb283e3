"""Triangulation of synthetic views: exact, swaps repaired, outliers held down."""

from __future__ import annotations

import numpy as np
import pytest
from refiner_bench.real.build import PARTS
from refiner_bench.real.triangulate import triangulate

from refiner.camera import look_at_camera
from refiner.errors import InputError, ShapeError
from refiner.skeleton import COCO17

CAMERAS = [
    look_at_camera(position, (0, 0, 1), 1600, 1080, 1920, radial=(-0.05, 0.1, 0.0), id=str(number))
    for number, position in enumerate([(4, 0, 1.5), (0, 4, 2.0), (-3, -3, 1.8), (3, -3, 1.2)])
]


def scene(views, frames=20):
    """World points (F, 17, 3) that drift slowly, and their pixels in so many views."""
    start = np.random.default_rng(3).uniform((-0.4, -0.4, 0.2), (0.4, 0.4, 1.8), (17, 3))
    points = start + np.linspace(0, 0.2, frames)[:, None, None] * [1.0, 0.5, 0.1]
    pixels = np.stack([camera.project(camera.to_camera(points)) for camera in CAMERAS[:views]])
    return points, pixels, np.ones(pixels.shape[:-1])


def test_exact_pixels_give_the_points_exactly():
    points, pixels, trust = scene(3)
    found = triangulate(CAMERAS[:3], pixels, trust, COCO17, PARTS)
    np.testing.assert_allclose(found.points, points, atol=1e-6)
    assert not found.swapped.any() and found.errors.max() < 1e-3


@pytest.mark.parametrize("part", [0, 1])
def test_a_swapped_part_of_a_view_is_repaired(part):
    points, pixels, trust = scene(3)
    joints = list(PARTS[part])
    pixels[1, 5:9, joints] = pixels[1, 5:9, [COCO17.flip_order[joint] for joint in joints]]
    found = triangulate(CAMERAS[:3], pixels, trust, COCO17, PARTS)
    expected = np.zeros_like(found.swapped)
    expected[1, 5:9, part] = True
    np.testing.assert_array_equal(found.swapped, expected)
    np.testing.assert_allclose(found.points, points, atol=1e-6)


def test_an_outlying_view_is_held_down():
    points, pixels, trust = scene(4)
    pixels[2, 7, 9] += [300.0, -200.0]
    found = triangulate(CAMERAS, pixels, trust, COCO17, PARTS)
    assert found.weights[2, 7, 9] < 1e-3 and found.weights[[0, 1, 3], 7, 9].min() > 0.9
    np.testing.assert_allclose(found.points, points, atol=1e-3)


def test_what_fewer_than_two_views_see_is_nan():
    _, pixels, trust = scene(3)
    pixels[:2, 4, 16] = np.nan
    found = triangulate(CAMERAS[:3], pixels, trust, COCO17, PARTS)
    lost = np.isnan(found.points).any(axis=-1)
    assert lost[4, 16] and lost.sum() == 1


def test_bad_input_is_refused():
    _, pixels, trust = scene(3)
    with pytest.raises(InputError, match="at least 2"):
        triangulate(CAMERAS[:1], pixels[:1], trust[:1], COCO17, PARTS)
    with pytest.raises(ShapeError, match="expected"):
        triangulate(CAMERAS[:3], pixels[:, :, :16], trust, COCO17, PARTS)
    with pytest.raises(InputError, match="from 0 to 1"):
        triangulate(CAMERAS[:3], pixels, 2 * trust, COCO17, PARTS)
    with pytest.raises(InputError, match="tear"):
        triangulate(CAMERAS[:3], pixels, trust, COCO17, (range(6), range(6, 17)))
