"""Frame rates: timestamps, counts, exactness, round trips."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.resample import frame_times, resample_back, resample_poses, resampled_frames
from refiner.errors import DTypeError, EmptySequenceError, LengthError, NonFiniteError, UsageError

RATES = [24.0, 25.0, 29.97, 30.0, 50.0, 59.94, 60.0, 100.0, 120.0]


def smooth_motion(seed: int, times: np.ndarray, highest_hz: float = 3.0) -> np.ndarray:
    """(F, 17, 3) metres: sums of sinusoids with up to human speeds (about 1 m/s on average)."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.2, highest_hz, (6, 17, 3))
    phase = rng.uniform(0, 2 * np.pi, frequency.shape)
    scale = rng.uniform(0.01, 0.1, frequency.shape) / frequency
    return (scale * np.sin(2 * np.pi * frequency * times[:, None, None, None] + phase)).sum(axis=1)


@pytest.mark.parametrize("fps_in", RATES)
@pytest.mark.parametrize("fps_out", RATES)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 17, 100])
def test_frame_count_lies_within_the_sequence(frames, fps_in, fps_out):
    count = resampled_frames(frames, fps_in, fps_out)
    duration = frame_times(frames, fps_in)[-1]
    last = frame_times(count, fps_out)[-1]
    assert last <= duration + 1e-7
    assert duration - last < 1 / fps_out
    pose = smooth_motion(frames, frame_times(frames, fps_in))
    resampled = resample_poses(pose, fps_in, fps_out)
    assert resampled.shape == (count, 17, 3)
    assert np.isfinite(resampled).all()
    assert resample_back(resampled, fps_out, fps_in, frames).shape == pose.shape


def test_whole_ratios_do_not_lose_their_last_frame():
    assert resampled_frames(101, 50, 25) == 51
    assert resampled_frames(51, 25, 50) == 101
    assert resampled_frames(91, 30, 50) == 151
    assert resampled_frames(151, 50, 30) == 91


def test_equal_rates_are_the_identity_to_the_bit():
    pose = np.random.default_rng(0).normal(size=(40, 17, 3)).astype(np.float32)
    same = resample_poses(pose, 29.97, 29.97)
    assert same.dtype == np.float32
    np.testing.assert_array_equal(same, pose)
    same[:] = 0
    assert np.abs(pose).min() > 0
    np.testing.assert_array_equal(resample_poses(pose, 50, 50, frames_out=7), pose[:7])


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0, 120.0])
def test_resampling_meets_the_motion_at_the_documented_times(fps):
    times_50 = frame_times(301, 50)
    for seed in range(3):
        resampled = resample_poses(smooth_motion(seed, times_50), 50, fps)
        truth = smooth_motion(seed, frame_times(len(resampled), fps))
        error = np.linalg.norm(resampled - truth, axis=-1)
        assert error[10:-10].max() < 2e-4  # 0.2 mm of motion that goes at about 1 m/s
        assert error.max() < 6e-3  # the ends, where a low-pass sees one side only


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0, 120.0])
def test_round_trip_there_and_back(fps):
    for seed in range(3):
        pose = smooth_motion(seed, frame_times(211, fps))
        model_rate = resample_poses(pose, fps, 50)
        back = resample_back(model_rate, 50, fps, len(pose))
        error = np.linalg.norm(back - pose, axis=-1)
        assert error[10:-10].max() < 3e-4
        assert error.mean() < 1e-4
        # The frames after the last of the model's rate go on with its velocity.
        assert error.max() < 6e-3


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0, 120.0])
def test_short_sequences(frames, fps):
    rng = np.random.default_rng(frames)
    start, velocity, bend = rng.normal(size=(3, 17, 3))
    times = frame_times(frames, fps)[:, None, None]
    velocity, bend = velocity * (frames > 1), bend * (frames > 2)
    curve = start + velocity * times + bend * times**2
    up = resample_poses(curve, fps, 240.0)
    times = frame_times(len(up), 240.0)[:, None, None]
    np.testing.assert_allclose(up, start + velocity * times + bend * times**2, atol=1e-12)
    there = resample_poses(curve, fps, 50.0)
    assert resample_back(there, 50.0, fps, frames).shape == curve.shape


def test_lines_pass_both_ways_unchanged():
    rng = np.random.default_rng(3)
    start, velocity = rng.normal(size=(2, 17, 3))
    for fps in RATES:
        line = start + velocity * frame_times(90, fps)[:, None, None]
        resampled = resample_poses(line, fps, 50)
        expected = start + velocity * frame_times(len(resampled), 50)[:, None, None]
        np.testing.assert_allclose(resampled, expected, atol=1e-9)
        np.testing.assert_allclose(resample_back(resampled, 50, fps, 90), line, atol=1e-9)


def test_going_down_takes_out_what_would_alias():
    times = frame_times(600, 120)
    tremor = np.sin(2 * np.pi * 40 * times)[:, None]  # would look like 10 Hz at 50 frames/s
    wave = np.sin(2 * np.pi * 2 * times + 1)[:, None]
    down = resample_poses(wave + 0.5 * tremor, 120, 50)
    clean = np.sin(2 * np.pi * 2 * frame_times(len(down), 50) + 1)[:, None]
    assert np.abs(down - clean)[15:-15].max() < 1e-3


def test_any_trailing_shape_and_integer_input():
    rng = np.random.default_rng(4)
    flat = rng.normal(size=20)
    np.testing.assert_allclose(resample_poses(flat, 30, 50), resample_poses(np.tile(flat[:, None], 3), 30, 50)[:, 1])
    pixels = rng.integers(0, 1000, (20, 17, 2))
    assert resample_poses(pixels, 30, 50).dtype == np.float64
    assert resample_poses(pixels.astype(np.float16), 30, 50).dtype == np.float16


def test_what_is_refused():
    pose = np.random.default_rng(5).normal(size=(30, 17, 3))
    holed = pose.copy()
    holed[12, 3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="frame 12"):
        resample_poses(holed, 30, 50)
    with pytest.raises(NonFiniteError):
        resample_poses(np.where(pose == pose[5, 0, 0], np.inf, pose), 50, 50)
    with pytest.raises(EmptySequenceError):
        resample_poses(pose[:0], 30, 50)
    for rate in (0, -25.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="frame rate"):
            resample_poses(pose, rate, 50)
    with pytest.raises(LengthError, match="at most 49"):
        resample_poses(pose, 30, 50, frames_out=60)
    with pytest.raises(LengthError):
        resample_poses(pose, 30, 50, frames_out=0)
    with pytest.raises(LengthError, match="expected 49"):
        resample_back(pose, 50, 30, 30)
    with pytest.raises(DTypeError):
        resample_poses(pose.astype(str), 30, 50)
