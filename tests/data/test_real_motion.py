"""The real motion archive, where the environment variable REFINER_DATA names its folder."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.clips import motion_folder_from_env
from refiner.data.detector import DetectorModel

pytestmark = pytest.mark.skipif(not os.environ.get("REFINER_DATA"), reason="REFINER_DATA names no motion archive")


@pytest.fixture(scope="module")
def folder():
    return motion_folder_from_env()


def test_the_archive_has_the_frames_and_the_split_that_it_states(folder):
    frames = {subject: sum(map(len, clips.values())) for subject, clips in folder.positions.items()}
    assert sum(frames.values()) == 102_716
    assert sum(frames[subject] for subject in folder.description.test) == 21_843
    assert (folder.description.validation, folder.description.test) == (("S5",), ("S2", "S14"))
    assert sum(map(len, folder.positions.values())) == 198


def test_the_bundled_cameras_and_detector_are_the_folders(folder):
    for own, bundled in zip(folder.cameras, human36m_cameras(), strict=True):
        for field in dataclasses.fields(bundled):
            np.testing.assert_array_equal(getattr(own, field.name), getattr(bundled, field.name))
    for field in dataclasses.fields(DetectorModel):
        np.testing.assert_array_equal(
            getattr(folder.detector, field.name), getattr(DetectorModel.default(), field.name)
        )


def test_all_joints_lie_inside_the_images_but_eleven(folder):
    clips = folder.clips(detected=False)
    assert sum(clip.frames for clip in clips) * 17 == 6_984_688
    outside = sum(
        int(((clip.pose_2d_clean < 0) | (clip.pose_2d_clean >= clip.image_size)).any(axis=-1).sum()) for clip in clips
    )
    assert outside == 11


def test_the_simulated_detector_reaches_the_published_error(folder):
    # Stated for all S2 clips and 12 of S14's, which are not named: the first 12 here. From seed to seed the
    # means of these clips scatter by 0.022 px and 0.010 px/frame^2 around 6.66 and 2.925.
    clips = [clip for clip in folder.clips("test") if clip.subject == "S2"]
    clips += [clip for clip in folder.clips("test") if clip.subject == "S14"][: 12 * 4]
    errors = [(clip.pose_2d - clip.pose_2d_clean).astype(np.float64) for clip in clips]
    error = np.concatenate([np.linalg.norm(e, axis=-1) for e in errors])
    acceleration = np.concatenate([np.linalg.norm(np.diff(e, 2, axis=0), axis=-1) for e in errors])
    assert error.mean() == pytest.approx(6.67, abs=0.07)
    assert acceleration.mean() == pytest.approx(2.91, abs=0.05)
    np.testing.assert_allclose(np.percentile(error, [50, 90, 99]), [5.7, 11.7, 25.5], rtol=0.03)
    published = [
        3.82,
        6.66,
        6.65,
        8.69,
        6.43,
        6.65,
        8.76,
        6.49,
        6.16,
        5.67,
        3.65,
        8.34,
        6.74,
        6.85,
        8.34,
        6.66,
        6.84,
    ]
    np.testing.assert_allclose(error.mean(axis=0), published, rtol=0.1)
