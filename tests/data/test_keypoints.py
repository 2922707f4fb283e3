"""2D sequences with joints missing, as detectors give them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.keypoints import check_keypoints, fill_in_time
from refiner.errors import EmptySequenceError, InputWarning, ShapeError, UnitError
from refiner.lens import Lens, check_lens
from refiner.skeleton import joint_set, to_h36m17

LENS = Lens((1000.0, 1000.0), 1100.0, "given")
H36M = joint_set("h36m17")


def pixels(frames: int = 20, joints: int = 17, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    path = np.linspace(0, 100, frames)[:, None, None]
    return rng.uniform(300, 600, (1, joints, 2)) + path


def test_whole_poses_stay_as_they_are() -> None:
    given = pixels()
    found = check_keypoints(given, None, LENS, H36M)
    np.testing.assert_allclose(found.values[..., :2], given, atol=1e-3)
    assert (found.values[..., 2] == 1).all() and not found.missing.any()


@pytest.mark.parametrize("how", ["nan", "inf", "zeros", "minus ones", "no confidence", "nan confidence"])
def test_missing_joints_are_masked_and_filled_in(how: str) -> None:
    given, sure = pixels(), np.full((20, 17), 0.8)
    hurt = given.copy()
    if how.endswith("confidence"):
        sure[5:8, 3] = 0.0 if how == "no confidence" else np.nan
        hurt[5:8, 3] = 7.0
    else:
        hurt[5:8, 3] = {"nan": np.nan, "inf": np.inf, "zeros": 0.0, "minus ones": -1.0}[how]
    found = check_keypoints(hurt, sure, LENS, H36M)
    assert found.missing[5:8, 3].all() and found.missing.sum() == 3
    assert (found.values[5:8, 3, 2] == 0).all()
    # The motion is a straight line, so what lies between two frames is known.
    np.testing.assert_allclose(found.values[..., :2], given, atol=1e-2)
    np.testing.assert_allclose(found.values[0, :, 2], 0.8, atol=1e-6)


def test_ends_hold_and_a_joint_never_seen_lies_in_the_middle() -> None:
    pose = pixels()
    pose[:4, 2] = np.nan
    pose[:, 9] = np.nan
    filled = fill_in_time(pose)
    np.testing.assert_allclose(filled[:4, 2], np.tile(pose[4, 2], (4, 1)))
    others = [joint for joint in range(17) if joint != 9]
    np.testing.assert_allclose(filled[:, 9], filled[:, others].mean(axis=1))


def test_made_up_joints_are_as_sure_as_the_least_of_theirs() -> None:
    coco = joint_set("coco17")
    given, sure = pixels(), np.full((20, 17), 0.9)
    sure[:, 11] = 0.4  # the left hip
    sure[3, 5] = 0.0  # the left shoulder, in one frame
    found = check_keypoints(given, sure, LENS, coco)
    np.testing.assert_allclose(found.values[0, [0, 4, 7], 2], 0.4, atol=1e-6)  # Hip, LHip, Spine
    np.testing.assert_allclose(found.values[0, [1, 8, 16], 2], 0.9, atol=1e-6)
    assert found.missing[3, [7, 8, 10, 11]].all() and not found.missing[3, [0, 1, 14]].any()
    np.testing.assert_allclose(found.values[..., :2], to_h36m17(given, coco), atol=1e-2)


def test_frames_without_anybody_are_told() -> None:
    given = pixels()
    given[4:6] = np.nan
    given[10, 5:] = np.nan
    with pytest.warns(InputWarning, match="3 of 20 frames show fewer than 6 joints, first frame 4"):
        found = check_keypoints(given, None, LENS, H36M)
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(found.values[..., :2], pixels(), atol=1e-2)


def test_a_tiny_person_is_told() -> None:
    with pytest.warns(InputWarning, match="too small in the image"):
        check_keypoints(500 + 0.02 * pixels(), None, LENS, H36M)


def test_nobody_in_any_frame_is_refused() -> None:
    with pytest.raises(EmptySequenceError, match="no joint in any of its 20 frames"):
        check_keypoints(np.full((20, 17, 2), np.nan), None, LENS, H36M)
    with pytest.raises(EmptySequenceError, match="no joint in any"):
        check_keypoints(pixels(), np.zeros((20, 17)), LENS, H36M)


def test_wrong_confidences_and_units_are_refused() -> None:
    with pytest.raises(ShapeError, match="one a joint"):
        check_keypoints(pixels(), np.ones((20, 16)), LENS, H36M)
    with pytest.raises(UnitError, match="percentages"):
        check_keypoints(pixels(), np.full((20, 17), 87.0), LENS, H36M)
    shares = pixels() / 1000
    shares[2, 3] = np.nan
    with pytest.raises(UnitError, match="shares of the image"):
        check_keypoints(shares, None, LENS, H36M)


def test_pixels_that_the_lens_has_no_ray_for_are_missing() -> None:
    camera = human36m_cameras()[0]
    given = pixels()
    given[2, 4] = 9000.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check_keypoints(given, None, check_lens(None, camera=camera), H36M)
    assert found.missing[2, 4] and found.missing.sum() == 1 and np.isfinite(found.values).all()
