"""Training a causal refiner: long windows, whole clips for validation, weights to start from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.errors import CheckpointError, ConfigError
from refiner.model_files.build import load_module
from refiner.model_files.checkpoint import load_checkpoint
from refiner.training.config import config_from_dict, load_config
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.tasks import ValidationClips, ValidationWindows, lift_sequences, poses_of_clip
from refiner.training.windows import WindowSampler


@pytest.fixture
def config(people, tiny, tmp_path):
    """The configuration of a causal refiner for a lifter that has just been trained."""
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    return tiny("refiner", lifter=str(lifter), model={"causal": True}, training={"window": 20})


def test_a_causal_refiner_is_validated_as_it_runs_on_a_stream(config, people, tmp_path, monkeypatch):
    lengths = []
    draws = WindowSampler.batch
    monkeypatch.setattr(WindowSampler, "batch", lambda self, step: lengths.append(self.frames) or draws(self, step))
    path = train_refiner(config, people, tmp_path / "run", quiet=True)
    assert set(lengths) == {20}
    checkpoint, module = load_checkpoint(path), load_module(path)
    assert module.denoiser.band == module.frames == 9
    assert checkpoint.tensors["time_correlation"].shape == (20, 20)
    lifter = load_module(config.lifter).lifter
    errors, frames = 0.0, 0
    # Wide as high: the screen's normalisation is then undone by one line for every camera.
    size = torch.full((1, 2), 1000.0)
    for screen, truth in map(poses_of_clip, people.clips("validation")):
        lifted = lift_sequences(lifter, 9, screen[None].astype(np.float32))
        pixels = torch.from_numpy(((screen[None] + 1.0) * 500).astype(np.float32))
        refined = module(pixels, torch.from_numpy(lifted), size)[0].double().numpy()
        errors += np.linalg.norm(refined - refined[:, :1] - truth, axis=-1).mean(axis=-1).sum() * 1000
        frames += len(truth)
    assert checkpoint.config["metrics"]["validation"]["mpjpe_mm"] == pytest.approx(errors / frames, rel=1e-5)


def test_a_run_starts_from_the_weights_of_another(config, people, tiny, tmp_path):
    windowed = dataclasses.replace(tiny("refiner"), lifter=config.lifter)
    source = train_refiner(windowed, people, tmp_path / "windowed", quiet=True)
    # No rate to speak of and no steps to speak of: what is kept is what it started from.
    still = {"rate": 1e-12, "name": "adam"}
    begun = dataclasses.replace(
        config, start_from=str(source), optimiser=dataclasses.replace(config.optimiser, **still)
    )
    path = train_refiner(begun, people, tmp_path / "causal", quiet=True)
    found, expected = load_checkpoint(path), load_checkpoint(source)
    for name, value in expected.state().items():
        torch.testing.assert_close(found.state()[name], value, rtol=1e-5, atol=1e-7)
    assert found.config["start_from"] == "best.safetensors"  # without the folder of whoever trained it
    other = tiny("refiner", model={"dim": 32, "causal": True}, lifter=config.lifter, start_from=str(source))
    with pytest.raises(CheckpointError, match="cannot start from"):
        train_refiner(other, people, tmp_path / "other", quiet=True)


def test_whole_clips_count_every_frame_alike(people):
    pairs = [poses_of_clip(clip) for clip in people.clips("validation")]
    rng = np.random.default_rng(5)
    noise = [rng.normal(0, 0.05, truth.shape).astype(np.float32) for _, truth in pairs]
    clips = ValidationClips([(screen[:60], truth[:60]) for screen, truth in pairs])
    windows = ValidationWindows([(screen[:60], truth[:60]) for screen, truth in pairs], 60)
    whole = clips.each(lambda truth, error: truth + error[:, :60], clips.pose_3d, [part[None] for part in noise])
    cut = windows.each(lambda truth: truth + np.stack([part[:60] for part in noise]), windows.pose_3d)
    assert clips.mpjpe_mm(whole) == pytest.approx(windows.mpjpe_mm(cut), rel=1e-6)
    assert 50 < clips.mpjpe_mm(whole) < 150


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"window": 20}}, "expected 0, or for a causal refiner"),
        ({"model": {"causal": True}, "training": {"window": 5}}, "at least as many"),
    ],
)
def test_windows_that_do_not_fit_are_refused(changes, words, people, tiny, tmp_path):
    with pytest.raises(ConfigError, match=words):
        train_refiner(tiny("refiner", lifter="any", **changes), people, tmp_path, quiet=True)


def test_a_lifter_is_not_causal(people, tiny, tmp_path):
    with pytest.raises(ConfigError, match="of refiners"):
        train_lifter(tiny("lifter", model={"causal": True}), people, tmp_path, quiet=True)


def test_the_bundled_configuration_has_a_full_band():
    config = load_config("refiner-small-causal")
    assert config.model.causal and config.frames == 27 and config.window == 54
    assert config_from_dict(dataclasses.asdict(config)) == config
