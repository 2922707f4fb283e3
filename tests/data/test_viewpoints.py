"""Random cameras see the whole motion, upright and from everywhere."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from refiner.data.clips import camera_clips, random_camera_clips
from refiner.data.detector import DetectorModel
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.data.viewpoints import IMAGE_SIZE, random_camera, random_cameras
from refiner.errors import ArchiveError


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


def test_a_clip_s_cameras_follow_from_seed_subject_and_key():
    motion = synthetic_motion(3, SYNTHETIC_ACTIONS[0], 27)
    four, two = random_cameras(motion, "S2", "Walking 1"), random_cameras(motion, "S2", "Walking 1", 2)
    assert [camera.id for camera in four] == [f"random {index}" for index in range(4)]
    rng = np.random.default_rng([77, zlib.crc32(b"S2/Walking 1")])
    for camera in four:
        np.testing.assert_array_equal(camera.translation, random_camera(motion, rng).translation)
    for first, second in zip(two, four, strict=False):
        np.testing.assert_array_equal(first.translation, second.translation)
    for other in (("S3", "Walking 1", 1), ("S2", "Walking", 1), ("S2", "Walking 1", 1, 5)):
        assert not np.array_equal(random_cameras(motion, *other)[0].translation, four[0].translation)


def test_clips_by_random_cameras_are_the_archive_s_motion():
    people = {
        person: {"Walking": synthetic_motion(number, SYNTHETIC_ACTIONS[0], 27)}
        for number, person in enumerate(("S1", "S2"))
    }
    detector = DetectorModel.default()
    clips = random_camera_clips(people, ["S2"], detector, seed=5, number=3)
    assert [(clip.subject, clip.camera) for clip in clips] == [("S2", f"random {index}") for index in range(3)]
    cameras = random_cameras(people["S2"]["Walking"], "S2", "Walking", 3)
    for clip, twin in zip(clips, camera_clips(people, cameras, ["S2"], None, detector, 5), strict=True):
        np.testing.assert_array_equal(clip.pose_2d, twin.pose_2d)
        np.testing.assert_array_equal(clip.pose_3d, twin.pose_3d)
        assert clip.lens is not None and clip.lens.id == clip.camera
    with pytest.raises(ArchiveError, match="no person 'S9'; it has: S1, S2"):
        random_camera_clips(people, ["S9"])
