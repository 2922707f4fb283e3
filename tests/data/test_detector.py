"""The detector model against its own definition: levels, correlation, episodes, seeds."""

from __future__ import annotations

import dataclasses
import json
import zlib

import numpy as np
import pytest

from refiner.data.detector import DetectorModel, detector_rng
from refiner.errors import ConfigError, EmptySequenceError, ShapeError

LEGS, ARMS = ([4, 5, 6], [1, 2, 3]), ([11, 12, 13], [14, 15, 16])


def model(**changes):
    return dataclasses.replace(DetectorModel.default(), **changes)


def silent(**changes):
    """A model with nothing in it but what is named."""
    nothing = np.zeros(17)
    base = {
        "slow_sigma": nothing,
        "jitter_sigma": nothing,
        "outlier_probability": nothing,
        "swap_probability": 0.0,
    }
    return model(**{**base, **changes})


def clean(frames, seed=0, leading=()):
    return np.random.default_rng(seed).uniform(200, 800, (*leading, frames, 17, 2))


def test_the_slow_part_is_an_ar1_process_of_the_stated_size_from_the_first_frame_on():
    detector = silent(slow_sigma=DetectorModel.default().slow_sigma)
    poses = clean(60, leading=(4000,))
    error = (detector.detect(poses, np.random.default_rng(1)) - poses) / detector.slow_sigma[:, None]
    for frame in (0, 1, 30, 59):
        assert error[:, frame].std() == pytest.approx(1.0, abs=0.01)
    for lag in (1, 10, 50):
        assert (error[:, 5] * error[:, 5 + lag]).mean() == pytest.approx(0.98**lag, abs=0.015)
    assert abs((error[..., 0] * error[..., 1]).mean()) < 0.01
    assert abs((error[:, :, 3] * error[:, :, 4]).mean()) < 0.02


def test_the_slow_part_is_the_recursion_written_out():
    detector = silent(slow_sigma=np.linspace(1, 5, 17))
    poses = clean(40)
    error = detector.detect(poses, np.random.default_rng(2)) - poses
    # The generator is drawn from in this order: swap decisions, then the drift.
    rng = np.random.default_rng(2)
    rng.random((2, 40), dtype=np.float32)
    draws = rng.standard_normal((40, 17, 2), dtype=np.float32).astype(np.float64)
    state = draws[0]
    np.testing.assert_allclose(error[0], state * detector.slow_sigma[:, None], atol=1e-5)
    for frame in range(1, 40):
        state = 0.98 * state + np.sqrt(1 - 0.98**2) * draws[frame]
        np.testing.assert_allclose(error[frame], state * detector.slow_sigma[:, None], atol=1e-4)


def test_the_jitter_is_white_and_of_the_stated_size():
    detector = silent(jitter_sigma=DetectorModel.default().jitter_sigma)
    poses = clean(20_000)
    error = (detector.detect(poses, np.random.default_rng(3)) - poses) / detector.jitter_sigma[:, None]
    np.testing.assert_allclose(error.std(axis=(0, 2)), 1.0, atol=0.02)
    assert abs((error[1:] * error[:-1]).mean()) < 0.005


def test_outliers_hold_one_offset_for_episodes_of_the_stated_rate_and_length():
    detector = silent(outlier_probability=np.linspace(0.0, 0.1, 17))
    poses = clean(400, leading=(300,))
    error = detector.detect(poses, np.random.default_rng(4)) - poses
    active = (np.abs(error) > 1e-9).any(axis=-1)
    # Stationary from the first frame on, joint by joint; an episode lasts 12 frames on average.
    np.testing.assert_allclose(active.mean(axis=(0, 1)), detector.outlier_probability, atol=0.012)
    assert active[:, 0].mean() == pytest.approx(0.05, abs=0.01)
    assert not active[..., 0].any()
    stays = active[:, 1:] & active[:, :-1]
    assert stays.sum() / active[:, :-1].sum() == pytest.approx(1 - 1 / 12, abs=0.01)
    changed = np.abs(error[:, 1:] - error[:, :-1]).max(axis=-1) > 1e-3
    assert (changed & stays).sum() == 0
    starts = active[:, 1:] & ~active[:, :-1]
    offsets = error[:, 1:][starts]
    np.testing.assert_allclose(offsets.std(axis=0), 14.0, rtol=0.05)
    assert len(np.unique(offsets[:, 0])) == len(offsets)


def test_swaps_exchange_whole_limbs_of_one_group():
    detector = silent(swap_probability=0.01)
    poses = clean(500, leading=(200,))
    result = detector.detect(poses, np.random.default_rng(5))
    active = {}
    for name, (left, right) in {"legs": LEGS, "arms": ARMS}.items():
        swapped = (result[..., left, :] == poses[..., right, :]).all(axis=(-1, -2))
        np.testing.assert_array_equal((result[..., right, :] == poses[..., left, :]).all(axis=(-1, -2)), swapped)
        np.testing.assert_array_equal((result[..., left, :] == poses[..., left, :]).all(axis=(-1, -2)), ~swapped)
        active[name] = swapped
        starts = swapped[:, 1:] & ~swapped[:, :-1]
        assert starts.sum() / (~swapped[:, :-1]).sum() == pytest.approx(0.01, rel=0.1)
        assert swapped.sum() / (starts.sum() + swapped[:, 0].sum()) == pytest.approx(4.0, rel=0.1)
    assert (active["legs"] ^ active["arms"]).any()
    for joint in (0, 7, 8, 9, 10):
        np.testing.assert_array_equal(result[..., joint, :], poses[..., joint, :])


def test_the_error_is_the_published_one_for_an_image_of_1000_pixels():
    detector = DetectorModel.default()
    poses = clean(1, leading=(60,)).repeat(1000, axis=1)
    error = detector.detect(poses, np.random.default_rng(6)) - poses
    # Swaps depend on the pose; take frames without one.
    size = np.linalg.norm(error, axis=-1)
    calm = size.max(axis=-1) < 100
    assert size[calm].mean() == pytest.approx(6.67, rel=0.02)


def test_a_seed_gives_the_same_detections_and_another_does_not():
    detector, poses = DetectorModel.default(), clean(90)
    first, again = (detector.detect(poses, detector_rng(3, "S14", "Walking 1", 2)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in [
        (4, "S14", "Walking 1", 2),
        (3, "S2", "Walking 1", 2),
        (3, "S14", "Walking", 2),
        (3, "S14", "Walking 1", 1),
    ]:
        assert not np.array_equal(first, detector.detect(poses, detector_rng(*other)))


def test_the_seed_rule_is_the_documented_one():
    expected = np.random.default_rng([20240101, 14, zlib.crc32(b"Walking 1"), 3]).random(4)
    np.testing.assert_array_equal(detector_rng(20240101, "S14", "Walking 1", 3).random(4), expected)
    assert DetectorModel.default().seed == 20240101
    assert detector_rng(1, "Anna", "Walking", 0).random() != detector_rng(1, "Berta", "Walking", 0).random()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_shape_and_type_are_kept_and_the_input_is_not_changed(leading, dtype):
    poses = clean(27, leading=leading).astype(dtype)
    before = poses.copy()
    result = DetectorModel.default().detect(poses, np.random.default_rng(7))
    assert result.shape == poses.shape
    assert result.dtype == dtype
    np.testing.assert_array_equal(poses, before)


def test_scale_multiplies_the_error_clip_by_clip_and_zero_returns_the_input():
    detector = model(swap_probability=0.0)
    poses = clean(50, leading=(3,))
    one = detector.detect(poses, np.random.default_rng(8)) - poses
    scaled = detector.detect(poses, np.random.default_rng(8), scale=[0.0, 1.0, 2.5]) - poses
    np.testing.assert_array_equal(scaled[0], 0.0)
    np.testing.assert_allclose(scaled[1], one[1], atol=1e-9)
    np.testing.assert_allclose(scaled[2], 2.5 * one[2], atol=1e-4)
    swapping = model(swap_probability=0.1)
    np.testing.assert_array_equal(swapping.detect(poses, np.random.default_rng(9), scale=0), poses)


def test_clips_of_different_lengths_go_through_detect_many():
    detector = DetectorModel.default()
    poses = [clean(frames, frames) for frames in (1, 30, 81)]
    many = detector.detect_many(poses, [np.random.default_rng(n) for n in range(3)])
    for n, (clip, result) in enumerate(zip(poses, many, strict=True)):
        np.testing.assert_array_equal(result, detector.detect(clip, np.random.default_rng(n)))
    with pytest.raises(ValueError, match="shorter"):
        detector.detect_many(poses, [np.random.default_rng(0)])


def test_poses_that_do_not_fit_are_refused():
    detector, rng = DetectorModel.default(), np.random.default_rng(0)
    with pytest.raises(ShapeError, match=r"\(5, 16, 2\), expected \(\.\.\., frames, 17, 2\)"):
        detector.detect(np.ones((5, 16, 2)), rng)
    with pytest.raises(ShapeError):
        detector.detect(np.ones((17, 2)), rng)
    with pytest.raises(EmptySequenceError):
        detector.detect(np.ones((0, 17, 2)), rng)
    with pytest.raises(ShapeError, match="one per clip"):
        detector.detect(np.ones((4, 5, 17, 2)), rng, scale=[1.0, 2.0])
    for scale in (-1.0, np.nan):
        with pytest.raises(ConfigError, match="scale"):
            detector.detect(np.ones((5, 17, 2)), rng, scale=scale)


def content():
    per_joint = [1.0, 2.0]
    return {
        "seed": 5,
        "model": {
            "slow": {"rho": 0.5, "sigma_px": per_joint},
            "jitter": {"sigma_px": per_joint},
            "outlier": {"stationary_probability": [0.1, 0.0], "mean_length_frames": 3, "sigma_px": 4.0},
            "left_right_swap": {"start_probability": 0.01, "mean_length_frames": 2, "groups": [[[0], [1]]]},
        },
    }


def test_a_model_of_another_skeleton_is_read(tmp_path):
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(content()))
    detector = DetectorModel.from_json(path)
    assert (detector.joints, detector.seed) == (2, 5)
    assert detector.detect(np.ones((9, 2, 2)), np.random.default_rng(0)).shape == (9, 2, 2)


@pytest.mark.parametrize(
    ("keys", "value", "match"),
    [
        (("slow", "rho"), 1.0, "rho in"),
        (("slow", "sigma_px"), [1.0], "different shapes"),
        (("jitter", "sigma_px"), [1.0, -2.0], "sigmas of 0 to 10000 pixels"),
        (("outlier", "stationary_probability"), [0.9, 0.0], "outlier probabilities"),
        (("outlier", "mean_length_frames"), 0, "episode lengths"),
        (("left_right_swap", "start_probability"), 0.5, "swap start"),
        (("left_right_swap", "groups"), [[[0], [7]]], "joints that exist"),
        (("left_right_swap", "groups"), 3, "no detector model"),
        (("slow", "rho"), "fast", "no detector model"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path, keys, value, match):
    changed = content()
    changed["model"][keys[0]][keys[1]] = value
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=match):
        DetectorModel.from_json(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"slow": {}}}', '{"model": 3}'])
def test_a_foreign_file_is_refused(tmp_path, text):
    path = tmp_path / "noise.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no detector model"):
        DetectorModel.from_json(path)
    with pytest.raises(ConfigError, match="cannot read"):
        DetectorModel.from_json(tmp_path / "none.json")
