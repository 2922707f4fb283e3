"""Windows, blending, the scored frames and the interleaved phases."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.windows import (
    blend_phases,
    blend_refined,
    blend_weights,
    merge_phases,
    merge_windows,
    score_mask,
    split_windows,
    tds_phases,
    window_indices,
    window_starts,
)
from refiner.errors import EmptySequenceError, LengthError, ShapeError, UsageError

CASES = [
    (1, 27, 27),
    (26, 27, 9),
    (27, 27, 1),
    (28, 27, 27),
    (53, 27, 13),
    (54, 27, 27),
    (200, 81, 40),
    (9, 1, 1),
]


@pytest.mark.parametrize(("frames", "window", "hop"), CASES)
def test_windows_cover_every_frame_and_end_with_the_sequence(frames, window, hop):
    starts = window_starts(frames, window, hop)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= hop).all()
    assert starts[-1] == max(frames - window, 0)
    assert set(window_indices(starts, window, frames).ravel()) == set(range(frames))


@pytest.mark.parametrize(("frames", "window", "hop"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split_then_merge_gives_the_sequence_back(frames, window, hop, dtype):
    sequence = np.random.default_rng(frames).normal(size=(frames, 17, 3)).astype(dtype)
    windows = split_windows(sequence, window, hop)
    starts = window_starts(frames, window, hop)
    assert windows.shape == (len(starts), window, 17, 3)
    merged = merge_windows(windows, starts, frames)
    assert merged.dtype == dtype
    np.testing.assert_allclose(merged, sequence, rtol=0, atol=4 * np.finfo(dtype).eps * np.abs(sequence).max())


def test_a_short_sequence_is_padded_with_its_last_frame():
    sequence = np.random.default_rng(1).normal(size=(4, 2))
    (window,) = split_windows(sequence, 7)
    np.testing.assert_array_equal(window[:4], sequence)
    np.testing.assert_array_equal(window[4:], np.repeat(sequence[3:], 3, axis=0))


def test_merging_is_the_weighted_mean_computed_frame_by_frame():
    rng = np.random.default_rng(2)
    starts, window, frames = window_starts(40, 9, 4), 9, 40
    windows, weights = rng.normal(size=(len(starts), window, 3)), rng.uniform(0.1, 1, window)
    expected = np.zeros((frames, 3))
    for frame in range(frames):
        pairs = [(n, frame - s) for n, s in enumerate(starts) if 0 <= frame - s < window]
        expected[frame] = sum(weights[j] * windows[n, j] for n, j in pairs) / sum(weights[j] for _, j in pairs)
    np.testing.assert_allclose(merge_windows(windows, starts, frames, weights), expected, rtol=1e-12)


def test_blend_weights_are_symmetric_positive_and_highest_in_the_middle():
    for window in (1, 2, 27, 81):
        weights = blend_weights(window)
        assert (weights > 0).all()
        np.testing.assert_allclose(weights, weights[::-1])
        assert weights.argmax() in ((window - 1) // 2, window // 2)


@pytest.mark.parametrize(("frames", "window", "hop"), CASES)
def test_each_frame_is_scored_once_in_the_window_with_the_nearest_middle(frames, window, hop):
    starts = window_starts(frames, window, hop)
    mask = score_mask(starts, window, frames)
    places = np.arange(window)[None] + starts[:, None]
    assert sorted(places[mask]) == list(range(frames))
    for n, j in zip(*np.nonzero(mask), strict=True):
        distances = [abs(places[n, j] - s - (window - 1) / 2) for s in starts if 0 <= places[n, j] - s < window]
        assert abs(j - (window - 1) / 2) == min(distances)


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (10, 3), (9, 3), (2, 5), (243, 9)])
def test_phases_interleave_and_come_back(frames, stride):
    sequence = np.random.default_rng(stride).normal(size=(frames, 17, 2)).astype(np.float32)
    phases = tds_phases(frames, stride)
    assert all((np.diff(phase) == stride).all() for phase in phases)
    assert sorted(np.concatenate(phases)) == list(range(frames))
    merged = merge_phases([sequence[phase] for phase in phases], frames)
    assert merged.dtype == np.float32
    np.testing.assert_array_equal(merged, sequence)


def test_what_does_not_fit_is_refused():
    with pytest.raises(EmptySequenceError):
        window_starts(0, 27)
    with pytest.raises(EmptySequenceError):
        split_windows(np.ones((0, 17, 3)), 27)
    with pytest.raises(EmptySequenceError):
        tds_phases(0, 2)
    with pytest.raises(UsageError, match="hop"):
        window_starts(10, 5, 6)
    with pytest.raises(UsageError, match="hop"):
        window_starts(10, 5, 0)
    with pytest.raises(UsageError, match="stride is 0"):
        tds_phases(10, 0)
    with pytest.raises(ShapeError, match="single number"):
        split_windows(3.0, 5)
    windows = np.ones((2, 5, 3))
    with pytest.raises(LengthError, match="do not go together"):
        merge_windows(windows, [0], 10)
    with pytest.raises(LengthError, match="frame 5 of 12 is in none"):
        merge_windows(windows, [0, 7], 12)
    with pytest.raises(LengthError, match="repeat"):
        merge_windows(windows, [0, 0], 5)
    with pytest.raises(ShapeError, match="all positive"):
        merge_windows(windows, [0, 5], 10, np.zeros(5))
    with pytest.raises(LengthError, match="frame 5 of 12 is in none"):
        score_mask([0, 7], 5, 12)
    with pytest.raises(LengthError, match="do not make a sequence of 10"):
        merge_phases([np.ones(5), np.ones(4)], 10)
    with pytest.raises(LengthError):
        merge_phases([], 1)


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_what_phases_disagree_in_is_evened_out(stride):
    """A constant of its own for each phase becomes their mean, and a straight line stays what it is."""
    frames, rng = 40, np.random.default_rng(0)
    line = np.linspace(0, 4, frames)[:, None] * rng.normal(size=(1, 3))
    offsets = rng.normal(size=(stride, 3))
    trembling = line + offsets[np.arange(frames) % stride]
    inside = slice(stride - 1, frames - stride + 1)
    blended = blend_phases(trembling, stride)
    np.testing.assert_allclose(blended[inside], (line + offsets.mean(axis=0))[inside], atol=1e-12)
    assert np.isfinite(blended).all() and blended.dtype == trembling.dtype
    # At the ends, of the frames that there are.
    weights = np.arange(stride, 0, -1)
    np.testing.assert_allclose(blended[0], weights @ trembling[:stride] / weights.sum(), atol=1e-12)
    np.testing.assert_array_equal(blend_phases(trembling[:1], stride), trembling[:1])
    np.testing.assert_array_equal(blend_phases(trembling, 1), trembling)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_refined_poses_of_a_short_stride_are_evened_out_whole(stride):
    given, refined = np.random.default_rng(1).normal(size=(2, 40, 3))
    expected = blend_phases(refined, stride)
    np.testing.assert_allclose(blend_refined(refined, given, stride), expected, atol=1e-12)


@pytest.mark.parametrize("frames", [1, 4, 60])
def test_refined_poses_of_a_long_stride_keep_fast_motion(frames):
    """The change is a mean over 17 frames, the given poses over 5; weights as in the docstrings, frame by frame."""
    rng = np.random.default_rng(2)
    given, refined = rng.normal(size=(2, frames, 4))
    expected = np.zeros((frames, 4))
    for frame in range(frames):
        for values, reach in ((given, 3), (refined - given, 9)):
            weights = np.maximum(reach - np.abs(np.arange(frames) - frame), 0)
            expected[frame] += weights @ values / weights.sum()
    np.testing.assert_allclose(blend_refined(refined, given, 9), expected, atol=1e-12)
    assert blend_refined(np.float32(refined), np.float32(given), 9).dtype == np.float32


def test_what_moves_at_five_hertz_stays():
    """A joint that swings five times a second, at 50 Hz: a mean over 17 frames would leave nothing of it."""
    swing = np.sin(2 * np.pi * np.arange(200) / 10.0)[:, None]
    inside = slice(20, -20)
    kept = np.abs(blend_refined(swing + 1.0, swing, 9) - 1.0)[inside].max()
    assert kept > 0.6 > 0.05 > np.abs(blend_phases(swing, 9))[inside].max()
