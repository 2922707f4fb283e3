"""Random cameras see the whole motion, upright and from everywhere."""

from __future__ import annotations

import numpy as np

from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.data.viewpoints import IMAGE_SIZE, random_camera


def test_the_whole_motion_is_in_the_image_and_upright():
    rng = np.random.default_rng(4)
    inside, azimuths, focals, shares = [], [], [], []
    for number in range(300):
        motion = synthetic_motion(number % 7, SYNTHETIC_ACTIONS[number % len(SYNTHETIC_ACTIONS)], 81)
        camera = random_camera(motion, rng)
        points = camera.to_camera(motion)
        assert points[..., 2].min() > 0.5
        pixels = camera.project(points)
        inside.append(((pixels > 0) & (pixels < np.array(IMAGE_SIZE))).all(axis=-1).mean())
        head, feet = pixels[:, 10, 1].mean(), pixels[:, [3, 6], 1].mean()
        assert head < feet
        shares.append((feet - head) / IMAGE_SIZE[1])
        away = camera.position - motion.reshape(-1, 3).mean(axis=0)
        azimuths.append(np.arctan2(away[1], away[0]))
        focals.append(camera.focal_length[0])
    assert np.mean(inside) > 0.99 and np.min(inside) > 0.7
    assert np.histogram(azimuths, 4, (-np.pi, np.pi))[0].min() > 40
    assert min(focals) < 800 and max(focals) > 1400
    assert min(shares) > 0.1 and max(shares) < 0.9


def test_a_seed_gives_the_same_camera():
    motion = synthetic_motion(3, SYNTHETIC_ACTIONS[0], 27)
    first, second = (random_camera(motion, np.random.default_rng(6)) for _ in range(2))
    np.testing.assert_array_equal(first.rotation, second.rotation)
    np.testing.assert_array_equal(first.translation, second.translation)
    assert not np.array_equal(first.translation, random_camera(motion, np.random.default_rng(7)).translation)
