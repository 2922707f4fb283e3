"""MixSTE, D3DP and FinePOSE in the one loop, and a refiner on each: losses, what a run leaves behind and is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from refiner.actions import UNKNOWN_ACTION
from refiner.diffusion import cosine_schedule
from refiner.errors import ConfigError, TrainingError
from refiner.model_files.build import build_model, load_module, module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import D3DP, FinePOSE, LiftingModule, MixSTE, PromptedLifter, SampledLifter
from refiner.models.finepose import CachedText, PromptedText, TextTower, WordVocabulary
from refiner.models.finepose.prompts import PROMPT_SETS, texts_of
from refiner.models.finepose.vocabulary import CLIP_MERGES
from refiner.runtime import Lifter
from refiner.training import diffusion_lifter
from refiner.training.config import LossConfig
from refiner.training.diffusion_lifter import DiffusionLifterTask, label_numbers
from refiner.training.losses import MIXSTE_JOINT_WEIGHTS, lifter_loss
from refiner.training.runs import train_lifter, train_refiner
from refiner.training.tasks import LifterTask, ValidationWindows, lift_windows
from refiner.training.text import complete_text, fill_text
from refiner.training.windows import WindowSampler

FRAMES = 9
SMALL_TEXT = {"width": 16, "layers": 1, "heads": 2, "encoder_layers": 1, "encoder_hidden": 16, "encoder_heads": 2}
ARCHITECTURES = {
    "mixste": {"loss": {"joints": "mixste", "smoothness": 0.5, "velocity": 2.0}},
    "d3dp": {"sampling": {"steps": 2, "hypotheses": 2}},
    "finepose": {
        "sampling": {"steps": 1, "hypotheses": 2, "flip": False},
        "text": {**SMALL_TEXT, "classifier": 8, "unknown": 0.3},
    },
}


@pytest.fixture
def lifter_config(tiny):
    def make(architecture, **changes):
        merged = {"model": {"architecture": architecture, "root": "zeroed"}, **ARCHITECTURES[architecture]}
        for section, values in changes.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, dict) else values
        return tiny("lifter", **merged)

    return make


def windows_of(people, seed=3, size=6):
    config = {"frames": FRAMES, "batch": size, "seed": seed, "subjects": ("S1", "S2")}
    from refiner.training.config import DataConfig

    return WindowSampler(people, DataConfig(), **config).batch(0)


def test_mixste_s_loss_term_by_term():
    rng = np.random.default_rng(1)
    pose, target = rng.normal(0, 0.3, (2, 4, 5, 17, 3))
    target[..., 0, :] = 0.0
    weights = [1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4]
    assert list(MIXSTE_JOINT_WEIGHTS) == weights
    position = smooth = velocity = 0.0
    for window in range(4):
        for joint in range(17):
            for frame in range(5):
                here, there = pose[window, frame, joint], target[window, frame, joint]
                position += weights[joint] * np.linalg.norm(here - there) / (4 * 5 * 17)
                if frame:
                    moved, should = here - pose[window, frame - 1, joint], there - target[window, frame - 1, joint]
                    smooth += weights[joint] * (moved**2).sum() / (4 * 4 * 17 * 3)
                    velocity += np.linalg.norm(moved - should) / (4 * 4 * 17)
    config = LossConfig("mixste", 0.5, 2.0)
    found = lifter_loss(torch.from_numpy(pose), torch.from_numpy(target), config, "zeroed")
    assert float(found) == pytest.approx(position + 0.5 * smooth + 2.0 * velocity, rel=1e-6)


def test_a_subtracted_root_is_left_out():
    rng = np.random.default_rng(2)
    pose, target = rng.normal(0, 0.3, (2, 3, 5, 17, 3))
    target -= target[..., :1, :]
    expected = np.linalg.norm((pose - pose[..., :1, :] - target)[..., 1:, :], axis=-1).mean()
    given = torch.from_numpy(pose), torch.from_numpy(target)
    assert float(lifter_loss(*given, LossConfig(), "subtracted")) == pytest.approx(expected)
    whole = np.linalg.norm(pose - target, axis=-1).mean()
    assert float(lifter_loss(*given, LossConfig(), "zeroed")) == pytest.approx(whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_lifter_trains_loads_and_runs_as_it_was_validated(architecture, lifter_config, people, tmp_path):
    best = train_lifter(lifter_config(architecture), people, tmp_path / "run", quiet=True)
    module = load_module(best)
    assert isinstance(module, LiftingModule) and module.frames == FRAMES and module.root == "zeroed"
    kinds = {"mixste": MixSTE, "d3dp": SampledLifter, "finepose": PromptedLifter}
    assert type(module.lifter) is kinds[architecture]
    validation = ValidationWindows.of_clips(people.clips("validation"), FRAMES)
    pixels = ((validation.pose_2d + 1.0) * 500).astype(np.float32)
    size = torch.full((len(pixels), 2), 1000.0)
    lifted = module(torch.from_numpy(pixels), size)
    assert (lifted[..., 0, :] == 0).all()
    stored = load_checkpoint(best).config["metrics"]["validation"]
    np.testing.assert_allclose(validation.mpjpe_mm(lifted.numpy()), stored["mpjpe_mm"], rtol=1e-4)
    clip = people.clips("validation")[0]
    runtime = Lifter.load(best)
    assert runtime.lift(clip.pose_2d, clip.image_size).shape == (clip.frames, 17, 3)
    assert runtime.actions == (("Boxing", "Walking") if architecture == "finepose" else ())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_refiner_trains_on_every_lifter(architecture, lifter_config, tiny, people, tmp_path):
    lifter = train_lifter(lifter_config(architecture), people, tmp_path / "lifter", quiet=True)
    config = dataclasses.replace(tiny("refiner"), lifter=str(lifter))
    stored = load_checkpoint(train_refiner(config, people, tmp_path / "refiner", quiet=True)).config
    validation = load_checkpoint(lifter).config["metrics"]["validation"]
    # The poses that it refines are those that the lifter's own validation scored.
    assert stored["metrics"]["validation"]["lifter_mpjpe_mm"] == pytest.approx(validation["mpjpe_mm"], rel=1e-4)


def test_d3dp_s_loss_is_the_distance_of_the_predicted_clean_pose(lifter_config, people):
    config = lifter_config("d3dp")
    seen = {}

    class Recorder(D3DP):
        def forward(self, noisy, pose_2d, timesteps, *given):
            seen.update(noisy=noisy.numpy(), timesteps=timesteps.numpy(), given=given)
            return torch.full_like(noisy, 0.1)

    torch.manual_seed(0)
    model = Recorder(build_model(dataclasses.asdict(config)).pose_estimator)
    validation = ValidationWindows.of_clips(people.clips("validation"), FRAMES)
    windows = windows_of(people, size=400)
    loss = DiffusionLifterTask(config, model, validation).loss(windows, 5)
    assert float(loss) == pytest.approx(np.linalg.norm(0.1 - windows.pose_3d, axis=-1).mean(), rel=1e-5)
    assert seen["given"] == () and seen["timesteps"].min() < 20 and seen["timesteps"].max() > 980
    abar = cosine_schedule(1000)[seen["timesteps"]].reshape(-1, 1, 1, 1)
    noise = (seen["noisy"] - np.sqrt(abar) * windows.pose_3d) / np.sqrt(1 - abar)
    inside = np.abs(seen["noisy"]) < 1.1
    assert np.abs(seen["noisy"]).max() <= np.float32(1.1) and 0.6 < inside.mean() < 0.99
    # Where the limit never bites the noise is standard normal.
    clear = noise[(seen["timesteps"] < 150)]
    assert abs(clear.mean()) < 0.02 and abs(clear.std() - 1) < 0.02


def test_a_step_draws_the_same_noise_again_and_another_step_another(lifter_config, people):
    config = lifter_config("d3dp")
    model = build_model(dataclasses.asdict(config))
    task = DiffusionLifterTask(config, model, ValidationWindows.of_clips(people.clips("validation"), FRAMES))
    windows = windows_of(people)
    with torch.no_grad():
        first, again, other = (float(task.loss(windows, step)) for step in (4, 4, 5))
    assert first == again != other


def test_finepose_is_told_the_actions_and_a_share_of_them_as_unknown(lifter_config, people, monkeypatch):
    config = complete_text(lifter_config("finepose", text={"unknown": 0.25}), ["Walking", "Boxing", "Boxing"])
    assert config.text.actions == ("Boxing", "Walking")
    model = build_model(dataclasses.asdict(config))
    told = []
    monkeypatch.setattr(
        FinePOSE, "forward", lambda self, noisy, screen, times, given: told.append(given.numpy()) or noisy
    )
    task = DiffusionLifterTask(config, model, ValidationWindows.of_clips(people.clips("validation"), FRAMES))
    windows = windows_of(people, size=400)
    for step in range(3):
        task.loss(windows, step)
    numbers = label_numbers(config.text.actions, windows.actions)
    shares = [(row == 2).mean() for row in told]
    assert 0.2 < np.mean(shares) < 0.3
    assert all((row[row != 2] == numbers[row != 2]).all() for row in told)
    assert label_numbers(("a", "b"), np.array(["b", "c", "a"])).tolist() == [1, 2, 0]


def test_the_classifier_learns_beside_and_touches_nothing_else(lifter_config, people):
    config = complete_text(lifter_config("finepose"), ["Walking", "Boxing"])
    model = build_model(dataclasses.asdict(config))
    task = DiffusionLifterTask(config, model, ValidationWindows.of_clips(people.clips("validation"), FRAMES))
    windows = windows_of(people)
    task.loss(windows, 1).backward()
    with_classifier = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert max(g.abs().max() for n, g in with_classifier.items() if n.startswith("classifier.")) > 0
    model.zero_grad()
    model.classifier = None
    task.loss(windows, 1).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, with_classifier[name])


def test_validation_measures_all_three_ways_of_naming_the_action(lifter_config, people, tmp_path):
    best = train_lifter(lifter_config("finepose"), people, tmp_path / "run", quiet=True)
    metrics = load_checkpoint(best).config["metrics"]["validation"]
    module = load_module(best)
    validation = ValidationWindows.of_clips(people.clips("validation"), FRAMES)
    assert set(validation.actions) == {"Walking", "Boxing"}
    labels = label_numbers(module.actions, validation.actions)
    for name, numbers in (("label_", labels), ("unknown_", np.full_like(labels, 2)), ("", None)):
        lifted = lift_windows(module.lifter, validation.pose_2d, actions=numbers, root="zeroed")
        assert metrics[f"{name}mpjpe_mm"] == pytest.approx(validation.mpjpe_mm(lifted), rel=1e-4)
    guessed = module.lifter.guess(torch.from_numpy(validation.pose_2d)).numpy()
    assert metrics["guessed_right"] == pytest.approx((guessed == labels).mean())


@pytest.mark.parametrize("prompts", ["none", "M", "S", "C", "AL"])
def test_the_prompt_ablation_runs_from_one_config(prompts, lifter_config, people, tmp_path):
    config = lifter_config("finepose", text={"prompts": prompts}, training={"steps": 2, "validate_every": 2})
    module = load_module(train_lifter(config, people, tmp_path / "run", quiet=True))
    assert module.actions == (() if prompts == "none" else ("Boxing", "Walking"))


@pytest.mark.parametrize("architecture", ["mixste", "finepose"])
def test_a_killed_run_with_stochastic_depth_ends_as_an_unbroken_one(
    architecture, lifter_config, people, tmp_path, monkeypatch
):
    config = lifter_config(architecture, model={"drop_path": 0.3, "blocks": 2}, training={"steps": 6})
    whole = train_lifter(config, people, tmp_path / "whole", quiet=True)
    kind = LifterTask if architecture == "mixste" else diffusion_lifter.DiffusionLifterTask
    loss = kind.loss

    class Killed(Exception):
        pass

    def dying(self, windows, step):
        if step == 4:
            raise Killed
        return loss(self, windows, step)

    monkeypatch.setattr(kind, "loss", dying)
    with pytest.raises(Killed):
        train_lifter(config, people, tmp_path / "killed", quiet=True)
    monkeypatch.setattr(kind, "loss", loss)
    resumed = train_lifter(config, people, tmp_path / "killed", quiet=True)
    first, second = (load_checkpoint(path.parent / "last.safetensors").tensors for path in (whole, resumed))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_steps_and_hypotheses_may_be_chosen_when_it_is_loaded(lifter_config, people, tmp_path):
    checkpoint = load_checkpoint(train_lifter(lifter_config("d3dp"), people, tmp_path / "run", quiet=True))
    module = module_of(checkpoint, steps=3, hypotheses=5)
    assert module.lifter.noises.shape[:3] == (3, 1, 5) and module.config["sampling"]["hypotheses"] == 5
    plain = load_checkpoint(train_lifter(lifter_config("mixste"), people, tmp_path / "mixste", quiet=True))
    with pytest.raises(ConfigError, match="is not sampled: it has no hypotheses"):
        module_of(plain, hypotheses=5)


def test_shorter_windows_than_the_lifter_s_cannot_be_refined(lifter_config, tiny, people, tmp_path):
    lifter = train_lifter(lifter_config("mixste"), people, tmp_path / "lifter", quiet=True)
    longer = dataclasses.replace(tiny("refiner"), lifter=str(lifter), frames=15)
    assert load_module(train_refiner(longer, people, tmp_path / "longer", quiet=True)).frames == 15
    shorter = dataclasses.replace(tiny("refiner"), lifter=str(lifter), frames=5)
    with pytest.raises(TrainingError, match="windows of 5 frames are shorter than the lifter's 9"):
        train_refiner(shorter, people, tmp_path / "shorter", quiet=True)


@pytest.fixture
def clip_files(tmp_path):
    """Weights of a small CLIP-like text tower and merges that make no words: every letter is a token."""
    from safetensors.torch import save_file

    torch.manual_seed(4)
    tower = TextTower(49408, 16, 1, 1)
    save_file(tower.state_dict() | {"visual.proj": torch.ones(2)}, tmp_path / "clip.safetensors")
    pairs = [f"{index}x {index}y" for index in range(CLIP_MERGES)]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]))
    return tmp_path / "clip.safetensors", tmp_path / "merges.txt", tower


def test_clip_s_tower_stays_as_it_was_and_its_files_are_needed_once(clip_files, lifter_config, people, tmp_path):
    weights, merges, tower = clip_files
    text = {"tower": "clip", "file": str(weights), "merges": str(merges), "width": 16, "layers": 1, "heads": 1}
    config = lifter_config("finepose", text=text)
    best = train_lifter(config, people, tmp_path / "run", quiet=True)
    for file in (weights, merges):
        file.unlink()
    checkpoint = load_checkpoint(best)
    model = build_model(checkpoint.config)
    model.load_state_dict(checkpoint.state())
    side = model.pose_estimator.text
    assert isinstance(side, PromptedText)
    for name, value in side.clip_text.state_dict().items():
        assert torch.equal(value, tower.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in side.clip_text.parameters())
    # The start, the first two letters of "walking", and no room for the end.
    assert side.tokens[1, 4:8].tolist() == [49406, ord("w") - 33, ord("a") - 33, ord("l") - 33]
    fresh = build_model(checkpoint.config).pose_estimator.text.ctx_arm
    assert (side.ctx_arm - fresh).abs().max() > 0 and isinstance(load_module(best).lifter, PromptedLifter)
    stored = checkpoint.config["text"]
    assert (stored["file"], stored["merges"]) == ("clip.safetensors", "merges.txt")


def test_cached_text_needs_no_tower(lifter_config, people, tmp_path):
    actions = ("Boxing", "Walking", "Waiting")
    words = WordVocabulary(texts_of(PROMPT_SETS["full"], actions))
    torch.manual_seed(1)
    cached = CachedText.of(PromptedText(TextTower(words.size, 12, 1, 2), words, actions))
    cached.save(tmp_path / "texts.safetensors")
    text = {"tower": "cached", "file": str(tmp_path / "texts.safetensors"), "encoder_heads": 2}
    best = train_lifter(lifter_config("finepose", text=text), people, tmp_path / "run", quiet=True)
    (tmp_path / "texts.safetensors").unlink()
    checkpoint = load_checkpoint(best)
    model = build_model(checkpoint.config)
    model.load_state_dict(checkpoint.state())
    assert torch.equal(model.pose_estimator.text.table, cached.table)
    assert model.pose_estimator.text.end_of.tolist() == [75] * 4
    assert Lifter.load(best).actions == actions


def test_the_text_side_needs_its_files(lifter_config):
    for tower, message in (("clip", "text.merges"), ("cached", "CachedText")):
        with pytest.raises(ConfigError, match=message):
            complete_text(lifter_config("finepose", text={"tower": tower}), ["Walking"])
    assert complete_text(lifter_config("mixste"), ["Walking"]) == lifter_config("mixste")
    fill_text(MixSTE(dim=16, depth=1, heads=2, frames=3), lifter_config("mixste"))


def test_a_lifter_is_told_names_it_knows(lifter_config, people, tmp_path):
    from refiner.errors import UsageError

    lifter = Lifter.load(train_lifter(lifter_config("finepose"), people, tmp_path / "run", quiet=True))
    clip = people.clips("validation")[0]
    poses = {a: lifter.lift(clip.pose_2d, clip.image_size, action=a) for a in ("Walking", "Boxing", UNKNOWN_ACTION)}
    # Untrained text changes little; the classifier's choice is one of them frame by frame.
    assert all(pose.shape == (clip.frames, 17, 3) for pose in poses.values())
    with pytest.raises(UsageError, match="no action 'Dancing'"):
        lifter.lift(clip.pose_2d, clip.image_size, action="Dancing")
    plain = Lifter.load(train_lifter(lifter_config("mixste"), people, tmp_path / "plain", quiet=True))
    with pytest.raises(UsageError, match="knows no actions"):
        plain.lift(clip.pose_2d, clip.image_size, action="Walking")


def test_hypotheses_of_a_clip_and_their_mean(lifter_config, people, tmp_path):
    from refiner.errors import UsageError

    lifter = Lifter.load(train_lifter(lifter_config("d3dp"), people, tmp_path / "run", quiet=True))
    clip = people.clips("validation")[0]
    poses = lifter.hypotheses(clip.pose_2d, clip.image_size)
    assert poses.shape == (2, clip.frames, 17, 3) and np.abs(poses[0] - poses[1]).max() > 1e-3
    np.testing.assert_allclose(poses.mean(axis=0), lifter.lift(clip.pose_2d, clip.image_size), atol=1e-5)
    slower = lifter.hypotheses(clip.pose_2d[::2], clip.image_size, fps=25.0)
    assert slower.shape == (2, len(clip.pose_2d[::2]), 17, 3)
    plain = Lifter.load(train_lifter(lifter_config("mixste"), people, tmp_path / "plain", quiet=True))
    with pytest.raises(UsageError, match="this lifter gives one pose"):
        plain.hypotheses(clip.pose_2d, clip.image_size)
