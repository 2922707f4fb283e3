"""Reports of recordings: gaps have no pose, what was guessed is marked, and every note has a reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.errors import DefaultLensWarning, EmptySequenceError, InputWarning, UnitError
from refiner.reasons import REASONS
from refiner.runtime import Lifter, Refiner

SIZE = (1000, 1002)
FRAMES = 120


def marked(pixels, how, rows, joints=slice(None)):
    """The same with joints that a detector missed, and its confidence."""
    changed, confidence = pixels.astype(np.float64), np.full(pixels.shape[:2], 0.9)
    if how in ("confidence 0", "low confidence"):
        confidence[rows, joints] = 0.0 if how == "confidence 0" else 0.25
    else:
        changed[rows, joints] = {"NaN": np.nan, "zeros": 0.0, "minus ones": -1.0}[how]
    return changed, confidence


HOWS = ("NaN", "zeros", "minus ones", "confidence 0", "low confidence")


@pytest.mark.filterwarnings("ignore:.* frames show fewer than 6 joints")
@pytest.mark.parametrize("how", HOWS)
def test_long_gaps_have_no_pose_and_short_ones_are_guessed(ramp_engine, ramp_lifter, clip, how):
    pixels, body = clip(FRAMES)
    pixels, confidence = marked(pixels, how, np.r_[0:5, 20:30, 60:100])
    given = {"confidence": confidence, "least_confidence": 0.3}
    lifter, refiner = Lifter(ramp_lifter), Refiner(ramp_engine)
    lifted = lifter.lift_report(pixels, SIZE, **given)
    gaps = np.zeros(FRAMES, dtype=bool)
    gaps[np.r_[0:5, 60:100]] = True
    np.testing.assert_array_equal(lifted.gaps, gaps)
    assert np.isnan(lifted.pose_3d[gaps]).all() and np.isfinite(lifted.pose_3d[~gaps]).all()
    np.testing.assert_array_equal(lifted.pose_3d, lifter.lift(pixels, SIZE, **given))
    # The parts are those that lifting each of them gives.
    np.testing.assert_array_equal(lifted.pose_3d[100:], lifter.lift(pixels[100:], SIZE))
    for poses in (body, np.where(gaps[:, None, None], np.nan, body)):
        report = refiner.refine_report(pixels, poses, SIZE, **given)
        np.testing.assert_array_equal(report.gaps, gaps)
        np.testing.assert_array_equal(report.pose_3d, refiner.refine(pixels, poses, SIZE, **given))
        assert [status == "invalid" for status in report.status] == gaps.tolist()
        assert set(report.status[20:30]) == {"degraded"} and set(report.status[100:]) == {"ok"}
        assert report.guessed[20:30].all() and not report.guessed[30:60].any() and not report.guessed[gaps].any()


@pytest.mark.parametrize("how", HOWS)
def test_missing_joints_are_guessed_and_marked(ramp_engine, clip, how):
    pixels, body = clip(FRAMES)
    changed, confidence = marked(pixels, how, slice(40, 50), [3, 13])
    report = Refiner(ramp_engine).refine_report(changed, body, SIZE, confidence=confidence, least_confidence=0.3)
    expected = np.zeros((FRAMES, 17), dtype=bool)
    expected[40:50, [3, 13]] = True
    np.testing.assert_array_equal(report.guessed, expected)
    assert set(report.status[40:50]) == {"degraded"} and report.status.count("ok") == FRAMES - 10
    assert all("guessed joints" in reasons for reasons in report.reasons[40:50])
    # Hardly another result than from what the detector missed: the motion is smooth.
    np.testing.assert_allclose(report.pose_3d, Refiner(ramp_engine).refine(pixels, body, SIZE), atol=0.01)


def test_nobody_in_enough_frames_is_refused(ramp_engine, clip):
    pixels, body = clip(FRAMES)
    few = pixels.astype(np.float64)
    few[:, 5:] = np.nan
    with pytest.warns(InputWarning, match="fewer than 6"), pytest.raises(EmptySequenceError, match="shows 6 joints"):
        Refiner(ramp_engine).refine(few, body, SIZE)
    with pytest.raises(EmptySequenceError, match="NaN in all"):
        Refiner(ramp_engine).refine(pixels, np.full_like(body, np.nan), SIZE)


def test_what_was_done_is_said(ramp_engine, clip):
    pixels, body = clip(FRAMES)
    plain = Refiner(ramp_engine).refine_report(pixels, body, SIZE)
    assert plain.notes == () and set(plain.status) == {"ok"} and plain.std is None
    with pytest.warns(InputWarning, match="no use of focal_length"):
        other = Refiner(ramp_engine).refine_report(pixels, body, SIZE, fps=25, focal_length=1100.0)
    assert [note.reason for note in other.notes] == ["lens unused", "resampled"] and set(other.status) == {"ok"}
    with pytest.warns(InputWarning, match="width and height swapped"):
        swapped = Refiner(ramp_engine).refine_report(pixels + np.float32([0, 600]), body, (1700, 900))
    assert swapped.notes[0].reason == "image size" and set(swapped.status) == {"degraded"}
    with pytest.warns(InputWarning, match="mirrored"):
        mirrored = Refiner(ramp_engine).refine_report(pixels, body * np.float32([-1, 1, 1]), SIZE)
    assert "mirrored" in mirrored.reasons[7] and set(mirrored.status) == {"degraded"}
    summary = json.loads(json.dumps(mirrored.as_dict()))
    assert summary["status"] == {"degraded": FRAMES} and summary["notes"][0]["reason"] == "mirrored"
    assert all(note.reason in REASONS for note in (*other.notes, *swapped.notes, *mirrored.notes))


def test_the_models_that_see_rays_say_what_they_assume(clip):
    pytest.importorskip("torch")
    pixels, _ = clip(40)
    with pytest.warns(DefaultLensWarning):
        lifted = Lifter.load(threads=1).lift_report(pixels, SIZE)
    assert [note.reason for note in lifted.notes] == ["lens assumed"] and set(lifted.status) == {"ok"}


def test_a_focal_length_in_millimetres_shows_in_the_angle_that_a_body_fills(clip):
    pytest.importorskip("torch")
    pixels, _ = clip(40)
    lifter = Lifter.load(threads=1)
    small = 0.13 * pixels
    with pytest.raises(UnitError, match="degrees of the view"):
        lifter.lift(small, (130, 130), focal_length=35.0)
    with pytest.raises(UnitError, match="Millimetres"):
        lifter.lift(pixels, SIZE, focal_length=35.0)
