"""Refiner: the root, frame rates, joint sets, short sequences, and that nothing is changed in place."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter

from refiner.runtime import Refiner
from refiner.shape import bone_lengths, pool_shape
from refiner.skeleton import flip_pose, from_h36m17, to_h36m17

SIZE = (1000, 1002)


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 10, 100])
def test_any_length(ramp_engine, clip, frames):
    pose_2d, pose_3d = clip(frames)
    refined = Refiner(ramp_engine).refine(pose_2d, pose_3d, image_size=SIZE)
    assert refined.shape == (frames, 17, 3) and refined.dtype == np.float32
    assert np.isfinite(refined).all() and np.abs(refined - pose_3d).max() > 0.01


def test_the_root_is_kept_and_moves_nothing_else(ramp_engine, clip):
    pose_2d, pose_3d = clip(30)
    refiner = Refiner(ramp_engine)
    refined = refiner.refine(pose_2d, pose_3d, image_size=SIZE)
    np.testing.assert_array_equal(refined[:, 0], pose_3d[:, 0])
    walk = np.cumsum(np.random.default_rng(1).normal(0, 0.1, (30, 1, 3)), axis=0)
    moved = refiner.refine(pose_2d, pose_3d + walk, image_size=SIZE)
    np.testing.assert_allclose(moved - walk, refined, atol=1e-5)


def test_the_input_is_not_changed(ramp_engine, clip):
    pose_2d, pose_3d = clip(30)
    for dtype in (np.float32, np.float64):
        given = pose_2d.astype(dtype), pose_3d.astype(dtype)
        kept = [part.copy() for part in given]
        for part in given:
            part.flags.writeable = False
        refined = Refiner(ramp_engine).refine(*given, image_size=SIZE)
        for part, before in zip(given, kept, strict=True):
            np.testing.assert_array_equal(part, before)
            assert not np.shares_memory(refined, part)


def test_one_window_is_the_engine_alone(ramp_engine, clip):
    pose_2d, pose_3d = clip(9)
    body = pose_3d - pose_3d[:, :1]
    expected = ramp_engine(pose_2d[None], body[None], np.array([SIZE], np.float32))[0]
    expected[:, 0] = 0
    refined = Refiner(ramp_engine).refine(pose_2d, pose_3d, image_size=SIZE)
    np.testing.assert_allclose(refined, expected + pose_3d[:, :1], atol=1e-6)


def test_batch_and_hop(ramp_engine, clip):
    pose = clip(60)
    one = Refiner(ramp_engine, hop=2, batch=1).refine(*pose, image_size=SIZE)
    assert set(ramp_engine.batches) == {1}
    np.testing.assert_array_equal(Refiner(ramp_engine, hop=2, batch=7).refine(*pose, image_size=SIZE), one)
    other = Refiner(ramp_engine, hop=9).refine(*pose, image_size=SIZE)
    assert np.abs(other - one).max() > 1e-3


@pytest.mark.parametrize("fps", [10, 24, 29.97, 50, 60, 100, 240])
def test_frame_rates(level_engine, clip, fps):
    """An engine that treats every frame alone does the same to a smooth motion at any rate."""
    frames = int(4 * fps)
    pose_2d, pose_3d = clip(frames, fps=fps)
    refined = Refiner(level_engine).refine(pose_2d, pose_3d, image_size=SIZE, fps=fps)
    assert refined.shape == (frames, 17, 3) and refined.dtype == np.float32
    np.testing.assert_array_equal(refined[:, 0], pose_3d[:, 0])
    root = pose_3d[:, :1]
    expected = 0.9 * (pose_3d - root) + 0.05 * (pose_2d / SIZE).sum(axis=-1, keepdims=True) + root
    expected[:, 0] = root[:, 0]
    inside = slice(int(0.4 * fps), -int(0.4 * fps))  # filters have less to go by at the ends
    assert np.abs(refined - expected)[inside].max() < 1e-3
    # The engine saw the motion at its own rate: four seconds of 50 frames, 9 in a window, every 4.
    assert sum(level_engine.batches) == pytest.approx(4 * 50 / 4, abs=3)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
@pytest.mark.parametrize("fps", [25, 120])
def test_short_sequences_at_other_rates(ramp_engine, clip, frames, fps):
    refined = Refiner(ramp_engine).refine(*clip(frames), image_size=SIZE, fps=fps)
    assert refined.shape == (frames, 17, 3) and np.isfinite(refined).all()


@pytest.mark.parametrize("joints", ["coco17", "3dhp"])
def test_joint_sets(ramp_engine, clip, joints):
    pose_2d, pose_3d = (from_h36m17(part, joints) for part in clip(20))
    refiner = Refiner(ramp_engine)
    refined = refiner.refine(pose_2d, pose_3d, image_size=SIZE, joints=joints)
    expected = refiner.refine(to_h36m17(pose_2d, joints), to_h36m17(pose_3d, joints), image_size=SIZE)
    np.testing.assert_array_equal(refined, expected)


def test_properties(ramp_engine):
    refiner = Refiner(ramp_engine)
    assert (refiner.frames, refiner.steps, refiner.fps, refiner.hop) == (9, 2, 50.0, 4)
    assert refiner.metadata["engine"] == "ramp"


def test_the_flip_test_is_the_mean_with_the_mirrored_pass(ramp_engine, clip):
    pose_2d, pose_3d = clip(40)
    pose_3d = pose_3d - pose_3d[:, :1]
    plain = Refiner(ramp_engine)
    mirrored = flip_pose(pose_2d)
    mirrored[..., 0] += SIZE[0]
    expected = (plain.refine(pose_2d, pose_3d, SIZE) + flip_pose(plain.refine(mirrored, flip_pose(pose_3d), SIZE))) / 2
    flipped = Refiner(ramp_engine, flip_test=True).refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_allclose(flipped, expected, atol=1e-6)
    assert np.abs(flipped - plain.refine(pose_2d, pose_3d, SIZE)).max() > 1e-3
    # The root stays where it is, wherever that is.
    moved = Refiner(ramp_engine, flip_test=True).refine(pose_2d, pose_3d + np.float32([1, 2, 5]), SIZE)
    np.testing.assert_allclose(moved - np.float32([1, 2, 5]), flipped, atol=2e-6)


def test_smoothing_comes_before_the_body_shape(ramp_engine, clip):
    """At the frame rate of the input, and the root is kept."""
    pose_2d, pose_3d = clip(40)
    plain = Refiner(ramp_engine).refine(pose_2d, pose_3d, SIZE)
    root = plain[:, :1].astype(np.float64)
    smoothed = Refiner(ramp_engine, smoothing=True).refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_allclose(smoothed, savgol_filter(plain - root, 17, 3, axis=0) + root, atol=1e-5)
    np.testing.assert_array_equal(smoothed[:, 0], plain[:, 0])
    both = Refiner(ramp_engine, smoothing=True, pool_shape=True).refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_allclose(both, pool_shape(smoothed), atol=1e-5)
    # 17 frames at 50 per second last as long as 9 at 25.
    slow = [Refiner(ramp_engine, smoothing=on).refine(pose_2d, pose_3d, SIZE, fps=25.0) for on in (False, True)]
    relative = slow[0] - slow[0][:, :1]
    np.testing.assert_allclose(slow[1] - slow[1][:, :1], savgol_filter(relative, 9, 3, axis=0), atol=1e-5)


def test_one_body_shape_for_a_sequence(ramp_engine, clip):
    pose_2d, pose_3d = clip(40)
    plain = Refiner(ramp_engine).refine(pose_2d, pose_3d, SIZE)
    pooled = Refiner(ramp_engine, pool_shape=True).refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_allclose(pooled, pool_shape(plain), atol=1e-5)
    known = 1.1 * bone_lengths(pose_3d)[0]
    fixed = Refiner(ramp_engine, pool_shape=known).refine(pose_2d, pose_3d, SIZE)
    np.testing.assert_allclose(fixed, pool_shape(plain, known), atol=1e-5)
    for off in (None, np.bool_(False)):
        np.testing.assert_array_equal(Refiner(ramp_engine, pool_shape=off).refine(pose_2d, pose_3d, SIZE), plain)
    assert np.ptp(bone_lengths(pooled), axis=0).max() < 1e-5 < np.ptp(bone_lengths(plain), axis=0).max()
    np.testing.assert_array_equal(pooled[:, 0], plain[:, 0])
