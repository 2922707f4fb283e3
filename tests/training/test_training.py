"""Training: reproducible windows, a run that resumes, checkpoints, cross-fitting, configurations."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

from refiner.errors import CheckpointError, ConfigError, TrainingError
from refiner.machine import processor_name
from refiner.model_files.build import build_model, load_module
from refiner.model_files.checkpoint import compress_checkpoint, load_checkpoint, load_noise_model, save_checkpoint
from refiner.models import LiftingModule, UnrolledRefiner
from refiner.runtime import Refiner
from refiner.skeleton import LEFT, PARENTS, RIGHT
from refiner.training.config import CONFIG_FOLDER, DataConfig, OptimiserConfig, config_from_dict, load_config
from refiner.training.loop import BEST_FILE, LAST_FILE, STATE_FILE
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.schedule import learning_rate, share_gone
from refiner.training.tasks import ValidationWindows, lift_windows
from refiner.training.windows import WindowSampler


def sampler(people, seed=0, **data):
    return WindowSampler(people, DataConfig(**data), 9, 64, seed, ("S1", "S2"))


def test_a_batch_depends_on_seed_and_step_alone(people):
    first, second = sampler(people), sampler(people)
    first.batch(0)
    a, b = first.batch(7), second.batch(7)
    np.testing.assert_array_equal(a.pose_2d, b.pose_2d)
    np.testing.assert_array_equal(a.pose_3d, b.pose_3d)
    assert not np.array_equal(a.pose_3d, first.batch(8).pose_3d)
    assert not np.array_equal(a.pose_3d, sampler(people, seed=1).batch(7).pose_3d)


def test_a_seed_draws_what_it_has_always_drawn(people):
    """A run of an older version resumes on the windows that it would have seen: options that came since draw nothing
    where they are not asked for."""
    windows = sampler(people, stature=0.06, bones=0.05).batch(7)
    some = [0, 13, 63], [0, 4, 8], [3, 10, 16]  # windows, frames, joints
    body = [[0.309877, 0.244413, -0.087807], [-0.010026, 0.317943, 0.373253], [0.567476, 0.121670, 0.206494]]
    screen = [[0.007035, -0.092266], [-0.131967, -0.087499], [0.127708, -0.146104]]
    np.testing.assert_allclose(windows.pose_3d[some], body, atol=2e-5)
    np.testing.assert_allclose(windows.pose_2d[some], screen, atol=2e-5)


def test_windows_are_what_the_cameras_see(people):
    windows = sampler(people, detections="ground-truth", stature=0.1, bones=0.05).batch(3)
    assert (windows.pose_3d[:, :, 0] == 0).all() and set(windows.subjects) == {"S1", "S2"}
    assert np.abs(windows.pose_2d).max() < 1.5
    noisy = sampler(people, stature=0.1, bones=0.05).batch(3)
    np.testing.assert_array_equal(noisy.pose_3d, windows.pose_3d)
    difference = np.linalg.norm(noisy.pose_2d - windows.pose_2d, axis=-1).mean() * 500
    assert 3 < difference < 12  # pixels: the detector model's mean error is 6.7


def test_new_cameras_see_the_same_motion(people):
    plain = sampler(people, detections="ground-truth", flip=0.0).batch(3)
    seen = sampler(people, detections="ground-truth", flip=0.0, new_cameras=1.0).batch(3)
    # Another view turns a body and leaves its bones.
    np.testing.assert_allclose(bones(seen.pose_3d), bones(plain.pose_3d), atol=1e-5)
    assert np.abs(seen.pose_3d - plain.pose_3d).max() > 0.3
    assert np.abs(seen.pose_2d).max() < 1.5
    mixed = sampler(people, detections="ground-truth", flip=0.0, new_cameras=0.5).batch(3)
    unchanged = (np.abs(mixed.pose_3d - plain.pose_3d).max(axis=(1, 2, 3)) < 1e-6).mean()
    assert 0.3 < unchanged < 0.7


def bones(pose):
    parents = np.array(PARENTS)
    return np.linalg.norm(pose[..., 1:, :] - pose[..., parents[1:], :], axis=-1)


def test_bodies_are_reshaped_symmetrically_and_rigidly(people):
    plain = sampler(people, detections="ground-truth", flip=0.0).batch(5)
    reshaped = sampler(people, detections="ground-truth", flip=0.0, stature=0.1, bones=0.1).batch(5)
    same_motion = sampler(people, detections="ground-truth", flip=0.0, stature=1e-12).batch(5)
    np.testing.assert_allclose(bones(plain.pose_3d).mean(), bones(same_motion.pose_3d).mean(), rtol=0.2)
    pairs = np.array([[left - 1, right - 1] for left, right in zip(LEFT, RIGHT, strict=True)])
    ratio = bones(reshaped.pose_3d) / bones(same_motion.pose_3d)
    # The draws of the two samplers are the same, so each bone has one factor, equal left and right.
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones_like(ratio), rtol=2e-4)
    np.testing.assert_allclose(ratio[..., pairs[:, 0]], ratio[..., pairs[:, 1]], rtol=2e-4)


def test_a_flipped_window_is_the_mirror_image(people):
    plain = sampler(people, detections="ground-truth", flip=0.0).batch(2)
    mirrored = sampler(people, detections="ground-truth", flip=1.0).batch(2)
    np.testing.assert_allclose(mirrored.pose_3d[:, :, LEFT] * [-1, 1, 1], plain.pose_3d[:, :, RIGHT], atol=1e-6)
    np.testing.assert_allclose(mirrored.pose_2d[:, :, LEFT] * [-1, 1], plain.pose_2d[:, :, RIGHT], atol=1e-6)


def test_people_without_long_clips_are_refused(people):
    with pytest.raises(ConfigError, match="no clip of S1 has 500 frames"):
        WindowSampler(people, DataConfig(), 500, 4, 0, ("S1",))


def test_a_lifter_and_its_refiner_train_and_load(people, tiny, tmp_path):
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    config = dataclasses.replace(tiny("refiner"), lifter=str(lifter))
    refiner = train_refiner(config, people, tmp_path / "refiner", quiet=True)
    assert isinstance(load_module(lifter), LiftingModule)
    correlated = dataclasses.replace(config, noise=dataclasses.replace(config.noise, time="full"))
    measured = train_refiner(correlated, people, tmp_path / "correlated", quiet=True)
    assert load_module(measured).frames == 9
    correlation = load_checkpoint(measured).tensors["time_correlation"].numpy()
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    assert correlation[0, 1] > correlation[0, 8] and correlation[0, 1] > 0.5
    shaken = dataclasses.replace(correlated, noise=dataclasses.replace(correlated.noise, white_share=0.25))
    mixed = load_checkpoint(train_refiner(shaken, people, tmp_path / "shaken", quiet=True))
    expected = 0.75 * correlation + 0.25 * np.eye(9)
    np.testing.assert_allclose(mixed.tensors["time_correlation"].numpy(), expected, atol=1e-9)
    last = load_checkpoint(refiner.parent / LAST_FILE).config["metrics"]
    assert last["step"] == 6 and [step for step, _ in last["validation_curve"]] == [3, 6]
    assert last["machine"] == {"processor": processor_name(), "logical_processors": os.cpu_count()}
    module = load_module(refiner, steps=5)
    assert isinstance(module, UnrolledRefiner) and module.steps == 5 and module.frames == 9
    noise = load_noise_model(refiner)
    assert noise.joints == 17 and np.linalg.matrix_rank(noise.covariance) == 48
    stored = load_checkpoint(refiner).config
    assert stored["lifter"] == "best.safetensors"  # without the folder of whoever trained it
    assert stored["metrics"]["validation_curve"] and stored["data_description"]["train"] == ["S1", "S2"]
    assert {"mpjpe_mm", "lifter_mpjpe_mm", "linear_mpjpe_mm"} <= set(stored["metrics"]["validation"])
    scale = load_checkpoint(refiner).tensors["error_scale"]
    assert scale.shape == (51,) and (scale == scale[0]).all()


@pytest.mark.parametrize("start", ["lifter", "corrected"])
def test_a_refiner_runs_as_it_was_validated(start, people, tiny, tmp_path):
    """What the loaded module gives is what the training loop scored, the root and the conditional mean included."""
    lifter = train_lifter(tiny("lifter"), people, tmp_path / "lifter", quiet=True)
    config = tiny("refiner", diffusion={"start": start, "loss": "distance"}, lifter=str(lifter))
    path = train_refiner(config, people, tmp_path / "refiner", quiet=True)
    validation = ValidationWindows.of_clips(people.clips("validation"), 9)
    pixels = ((validation.pose_2d + 1.0) * 500).astype(np.float32)
    lifted = lift_windows(load_module(lifter).lifter, validation.pose_2d)
    # Wide as high: the screen's normalisation is then undone by the line above for every camera.
    size = torch.full((len(pixels), 2), 1000.0)
    refined = load_module(path)(torch.from_numpy(pixels), torch.from_numpy(lifted), size).numpy()
    stored = load_checkpoint(path).config["metrics"]["validation"]
    familiar = Refiner.load(path).compare_input(pixels[0], lifted[0], (1000, 1000))
    assert familiar is not None and 0 <= familiar.unusual_share <= 1 and familiar.jitter_ratio > 0
    np.testing.assert_allclose(validation.mpjpe_mm(refined), stored["mpjpe_mm"], rtol=1e-4)
    assert abs(stored["linear_mpjpe_mm"] - stored["lifter_mpjpe_mm"]) > 1.0


@pytest.mark.parametrize(("optimiser", "precision"), [("adam", "float32"), ("muon", "float32"), ("muon", "bfloat16")])
def test_a_killed_run_ends_as_an_unbroken_one(optimiser, precision, people, tiny, tmp_path):
    training = {"steps": 9, "precision": precision}
    config = tiny("lifter", training=training, optimiser={"name": optimiser, "weight_decay": 0.01})
    whole = train_lifter(config, people, tmp_path / "whole", quiet=True)

    class Killed(Exception):
        pass

    draws = WindowSampler.batch

    def die(self, step):
        if step == 5:
            raise Killed
        return draws(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WindowSampler, "batch", die)
        with pytest.raises(Killed):
            train_lifter(config, people, tmp_path / "killed", quiet=True)
    resumed = train_lifter(config, people, tmp_path / "killed", quiet=True)
    a, b = load_checkpoint(whole), load_checkpoint(resumed)
    assert a.config["metrics"]["validation_curve"] == b.config["metrics"]["validation_curve"]
    for name, tensor in a.tensors.items():
        torch.testing.assert_close(b.tensors[name], tensor, rtol=0, atol=0)


def test_a_folder_of_another_run_is_refused(people, tiny, tmp_path):
    train_lifter(tiny("lifter"), people, tmp_path, quiet=True)
    with pytest.raises(TrainingError, match="another configuration"):
        train_lifter(tiny("lifter", model={"dim": 32}), people, tmp_path, quiet=True)
    (tmp_path / STATE_FILE).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot resume"):
        train_lifter(tiny("lifter"), people, tmp_path, quiet=True)


def test_a_refiner_goes_on_where_its_sources_have_moved_and_not_from_others(people, tiny, tmp_path):
    lifters = [train_lifter(tiny("lifter", training={"seed": seed}), people, tmp_path / f"{seed}") for seed in (0, 1)]
    for folder, source in (("first", lifters[0]), ("moved", lifters[0]), ("other", lifters[1])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lifter.safetensors").write_bytes(source.read_bytes())

    def train(lifter, start="", output="run"):
        config = tiny("refiner", lifter=str(tmp_path / lifter / "lifter.safetensors"), start_from=start)
        return train_refiner(config, people, tmp_path / output, quiet=True)

    whole = load_checkpoint(train("first", output="whole"))
    draws = WindowSampler.batch
    with pytest.MonkeyPatch.context() as patch:
        # Killed between the interval at step 3 and the end; what the noise is fitted to is drawn before the first.
        patch.setattr(WindowSampler, "batch", lambda self, step: 1 / 0 if step == 5 else draws(self, step))
        with pytest.raises(ZeroDivisionError):
            train("first")
    resumed = load_checkpoint(train("moved"))
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(resumed.tensors[name], tensor, rtol=0, atol=0)
    with pytest.raises(TrainingError, match=r"other checkpoints \(lifter_sha256\)"):
        train("other")
    starts = [tmp_path / "a" / BEST_FILE, tmp_path / "b" / BEST_FILE]
    for start, source in zip(starts, (tmp_path / "whole" / BEST_FILE, train("other", output="next")), strict=True):
        start.parent.mkdir()
        start.write_bytes(source.read_bytes())
    train("first", str(starts[0]), "begun")
    with pytest.raises(TrainingError, match=r"\(start_from_sha256\)"):
        train("first", str(starts[1]), "begun")


def test_a_lifter_starts_from_the_weights_of_another(people, tiny, tmp_path):
    source = train_lifter(tiny("lifter", training={"seed": 3}), people, tmp_path / "source", quiet=True)
    still = {"rate": 1e-12, "name": "adam"}
    path = train_lifter(tiny("lifter", start_from=str(source), optimiser=still), people, tmp_path / "next", quiet=True)
    found, expected = load_checkpoint(path), load_checkpoint(source)
    for name, value in expected.state().items():
        torch.testing.assert_close(found.state()[name], value, rtol=1e-5, atol=1e-7)
    other = tiny("lifter", model={"dim": 32}, start_from=str(source))
    with pytest.raises(CheckpointError, match="cannot start from"):
        train_lifter(other, people, tmp_path / "other", quiet=True)
    with pytest.raises(ConfigError, match="trained on S1, to be left out"):
        train_lifter(tiny("lifter", start_from=str(source)), people, tmp_path / "fold", ["S1"], quiet=True)
    fold = train_lifter(tiny("lifter"), people, tmp_path / "first", ["S1"], quiet=True)
    train_lifter(tiny("lifter", start_from=str(fold)), people, tmp_path / "fold", ["S1"], quiet=True)


@pytest.mark.parametrize("change", [{"noise": {"cross_fit": ("any",)}}, {"model": {"architecture": "finepose"}}])
def test_recombined_people_are_of_two_people_and_actions(people, tiny, tmp_path, change):
    config = tiny("refiner" if "noise" in change else "lifter", data={"recombine": 0.5}, **change)
    with pytest.raises(ConfigError, match="two people and actions"):
        (train_refiner if "noise" in change else train_lifter)(config, people, tmp_path, quiet=True)


def test_windows_are_recombined_and_reversed_before_they_are_seen(people):
    still = {"detections": "ground-truth", "flip": 0.0, "turn": 0.0}
    clips = [distances(clip) for motion in people.positions.values() for clip in motion.values()]

    def is_motion(window, joints):
        """Whether somebody has moved these joints so, from whatever side it is seen."""
        part = np.ix_(range(len(window)), joints, joints)
        return any(
            np.abs(clip[start:][part] - window[part]).max() < 1e-4
            for clip in clips
            for start in range(len(clip) - len(window) + 1)
        )

    everything, legs = range(17), range(7)
    plain, reverse, mixed = (
        distances(sampler(people, **still, **option).batch(3).pose_3d[:12])
        for option in ({}, {"reverse": 1.0}, {"recombine": 1.0})
    )
    assert all(is_motion(window, everything) for window in plain)
    assert all(is_motion(window[::-1], everything) for window in reverse)
    assert not any(is_motion(window, everything) for window in reverse)
    assert all(is_motion(window, legs) for window in mixed)
    assert not all(is_motion(window, everything) for window in mixed)


def distances(pose):
    """Between all joints: ``(..., 17, 17)``."""
    joints = pose.astype(np.float64)
    return np.linalg.norm(joints[..., :, None, :] - joints[..., None, :, :], axis=-1)


def test_cross_fitting_lifts_nobody_by_a_lifter_that_saw_them(people, tiny, tmp_path, monkeypatch):
    from refiner.training import runs

    folds = [train_lifter(tiny("lifter"), people, tmp_path / who, [who], quiet=True) for who in ("S1", "S2")]
    trained = [load_checkpoint(path).config["data_description"] for path in folds]
    assert [fold["train"] for fold in trained] == [["S2"], ["S1"]]
    config = tiny("refiner", noise={"cross_fit": tuple(map(str, folds))})
    windows = sampler(people).batch(0)
    used = []
    monkeypatch.setattr(
        runs,
        "lift_sequences",
        lambda model, frames, pose_2d, root: used.append((model, len(pose_2d))) or np.zeros((*pose_2d.shape[:-1], 3)),
    )
    runs.cross_fitted_lift(config, ["S1", "S2"])(windows)
    assert [count for _, count in used] == [int((windows.subjects == who).sum()) for who in ("S1", "S2")]
    with pytest.raises(ConfigError, match="trained without S9"):
        runs.cross_fitted_lift(config, ["S1", "S9"])


def test_half_precision_is_stored_and_computed_with_in_full(people, tiny, tmp_path):
    train_lifter(tiny("lifter"), people, tmp_path / "run", quiet=True)
    compress_checkpoint(tmp_path / "run" / BEST_FILE, tmp_path / "half.safetensors")
    half = load_checkpoint(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in half.tensors.values()} == {torch.float16}
    assert {value.dtype for value in half.state().values()} == {torch.float32}
    pixels, size = torch.rand(2, 9, 17, 2) * 800, torch.tensor([[1000.0, 1000.0]] * 2)
    difference = load_module(tmp_path / "half.safetensors")(pixels, size) - load_module(tmp_path / "run" / BEST_FILE)(
        pixels, size
    )
    assert difference.abs().max() < 2e-3


def test_foreign_and_truncated_checkpoints_are_refused(people, tiny, tmp_path):
    from safetensors.torch import save_file

    good = train_lifter(tiny("lifter"), people, tmp_path / "run", quiet=True)
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-100])
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    torch.save({"a": 1}, tmp_path / "pickled.safetensors")
    for name, words in (
        ("short", "truncated"),
        ("foreign", "not written by refiner"),
        ("pickled", "no readable"),
        ("none", "no checkpoint at"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="holds a lifter, expected a refiner"):
        load_checkpoint(good, "refiner")
    stored = load_checkpoint(good)
    stored.config["model"]["dim"] = 32
    save_checkpoint(tmp_path / "misfit.safetensors", stored.config, stored.tensors)
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        load_module(tmp_path / "misfit.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "lifter-small",
        "lifter-paper",
        "refiner-small",
        "refiner-small-correlated",
        "refiner-small-recombined",
        "refiner-small-causal",
        "refiner-paper",
    ],
)
def test_bundled_configurations_load(name):
    config = load_config(name)
    assert config.kind == name.split("-")[0] and config.frames == 27
    assert config_from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.width=3", "unknown width"),
        ("model.dim=wide", "expected int"),
        ("diffusion.terminal=one", "expected one of zero, literal"),
        ("kind", "section.key=value"),
    ],
)
def test_bad_configurations_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        load_config("refiner-small", [change])


def test_overrides_change_one_value():
    config = load_config("refiner-small", ["diffusion.steps=5", "optimiser.rate=1"])
    assert config.diffusion.steps == 5 and config.optimiser.rate == 1.0


def test_learning_rates():
    paper = load_config("refiner-paper").optimiser
    assert learning_rate(0, 50000, paper) == 1e-3
    assert learning_rate(5000, 50000, paper) == pytest.approx(1e-3 * 0.96**2)
    small = load_config("refiner-small").optimiser
    assert learning_rate(0, 20000, small) == pytest.approx(1e-3 / 200)
    assert learning_rate(20000, 20000, small) == pytest.approx(1e-5)


@pytest.mark.parametrize("name", sorted(file.stem for file in CONFIG_FOLDER.glob("*.toml")))
def test_every_bundled_configuration_describes_a_model(name):
    config = load_config(name)
    # CLIP's tokens and the archive's actions are found when it is trained.
    text = dataclasses.replace(config.text, tower="small", actions=("Walking",))
    with torch.device("meta"):
        model = build_model(dataclasses.asdict(dataclasses.replace(config, text=text)))
    assert sum(value.numel() for value in model.parameters()) > 10_000
    assert {"paper", "nano", "small", "base"} & set(name.split("-"))


def test_a_rate_follows_what_is_further_the_steps_or_the_clock():
    config = OptimiserConfig(rate=1e-3, schedule="cosine", warmup=10)
    assert learning_rate(500, 1000, config, 0.2) == learning_rate(500, 1000, config)
    assert learning_rate(200, 1000, config, 0.5) == learning_rate(500, 1000, config)
    assert learning_rate(200, 1000, config, 1.0) == pytest.approx(1e-5)
    # Warm-up is of steps: a slow start is not cut short.
    assert learning_rate(0, 1000, config, 0.5) == pytest.approx(learning_rate(500, 1000, config) / 10)
    paper = OptimiserConfig(rate=1e-3, schedule="exponential", decay=0.5, epoch_steps=100, warmup=0)
    assert learning_rate(10, 1000, paper, 0.35) == pytest.approx(1e-3 / 8)


def test_the_share_of_a_time_box_that_is_gone():
    assert [share_gone(now, 10.0, 30.0) for now in (5.0, 10.0, 15.0, 30.0, 99.0)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert share_gone(5.0, 10.0, 10.0) == 1.0
