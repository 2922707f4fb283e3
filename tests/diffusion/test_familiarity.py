"""Telling from 2D and 3D alone whether an input is like the training's."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import normalise_screen
from refiner.data.synthetic import synthetic_folder
from refiner.diffusion.familiarity import Familiarity, InputModel, jitter, merge_familiarity
from refiner.diffusion.noise_model import condition_vectors
from refiner.errors import CheckpointError, EmptySequenceError
from refiner.skeleton import LEFT, RIGHT


def poses(folder, part):
    """Normalised 2D and a lifter's 3D: the truth and a slow error, clip by clip."""
    generator = np.random.default_rng(len(part))
    found = []
    for clip in folder.clips(part):
        error = 0.03 * np.cumsum(generator.normal(size=clip.pose_3d.shape), axis=0) / np.sqrt(clip.frames)
        error[:, 0] = 0.0
        found.append((normalise_screen(clip.pose_2d, clip.image_size), (clip.pose_3d + error).astype(np.float32)))
    return found


@pytest.fixture(scope="module")
def known():
    """The model of the training people's inputs, and a test person's sequence."""
    folder = synthetic_folder(21, subjects=8, frames=150)
    train = poses(folder, "train")
    condition = np.concatenate([condition_vectors(*pair) for pair in train])
    pose_2d, pose_3d = (np.stack([pair[i] for pair in train]) for i in (0, 1))
    return InputModel.fit(condition.mean(axis=0), np.cov(condition.T), pose_2d, pose_3d), poses(folder, "test")


def merged(model, sequences):
    return merge_familiarity([(len(x), model.compare(x, y)) for x, y in sequences])


def test_training_frames_lie_about_1_away(known):
    model, _ = known
    assert 0.7 < model.distance_quantiles[50] < 1.2 and (np.diff(model.distance_quantiles) >= 0).all()


def test_the_same_people_again_are_familiar(known):
    model, sequences = known
    found = merged(model, sequences)
    assert 0.4 < found.jitter_ratio < 2.5


@pytest.mark.parametrize("scale", [0.4, 2.0])
def test_another_scale_is_unusual(known, scale):
    model, sequences = known
    found = merged(model, [(x, scale * y) for x, y in sequences])
    assert found.unusual_share > 0.5 and any("scale" in warning for warning in found.warnings)


def test_left_and_right_exchanged_in_3d_alone_is_unusual(known):
    model, sequences = known
    usual = merged(model, sequences)
    order = np.arange(17)
    order[[*LEFT, *RIGHT]] = [*RIGHT, *LEFT]
    assert merged(model, [(x, y[:, order]) for x, y in sequences]).unusual_share > usual.unusual_share + 0.3


def test_shaking_poses_are_told(known):
    model, sequences = known
    generator = np.random.default_rng(0)
    shaking = merged(model, [(x, y + generator.normal(scale=0.05, size=y.shape)) for x, y in sequences])
    assert shaking.jitter_ratio > 3 and any("shake" in warning for warning in shaking.warnings)


def test_jitter_is_the_second_difference():
    time = np.arange(10.0)[:, None, None]
    np.testing.assert_allclose(jitter(np.broadcast_to(0.5 * time**2, (10, 17, 3))), np.sqrt(3), rtol=1e-12)
    assert jitter(np.zeros((2, 17, 3))).shape == (0,)


def test_one_frame_has_no_jitter_and_no_warning_of_it(known):
    model, sequences = known
    found = model.compare(sequences[0][0][:1], sequences[0][1][:1])
    assert np.isnan(found.jitter_ratio) and not any("shake" in warning for warning in found.warnings)
    with pytest.raises(EmptySequenceError):
        model.compare(sequences[0][0][:0], sequences[0][1][:0])


def test_sequences_are_weighted_by_their_frames():
    nan = float("nan")
    found = merge_familiarity([(100, Familiarity(0.0, 1.0)), (300, Familiarity(0.4, 2.0)), (1, Familiarity(0.0, nan))])
    np.testing.assert_allclose([found.unusual_share, found.jitter_ratio], [120 / 401, 1.75])
    assert merge_familiarity([]) is None


def test_it_survives_a_checkpoint(known):
    model, sequences = known
    again = InputModel.from_tensors(model.to_tensors())
    assert again.compare(*sequences[0]) == model.compare(*sequences[0])
    with pytest.raises(CheckpointError, match="whitener"):
        InputModel.from_tensors({"mean": np.zeros(85)})
