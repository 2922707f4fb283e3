"""Published weights as checkpoints: they run as the model itself does, and say what they are."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from refiner.cli.convert import main
from refiner.data.windows import blend_phases
from refiner.errors import CheckpointError, ConfigError, UsageError
from refiner.model_files.build import load_module, module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import D3DP, FinePOSE, MixSTE, STCFormer, from_published
from refiner.models.d3dp import CleanPoseDenoiser
from refiner.models.finepose import PROMPT_SETS, ClipVocabulary, FinePoseDenoiser, PromptedText, TextTower
from refiner.models.finepose.vocabulary import CLIP_MERGES
from refiner.models.lifters import as_lifter
from refiner.models.published import HUMAN36M_ACTIONS
from refiner.runtime import Lifter
from refiner.skeleton import MPI_INF_3DHP, from_h36m17
from refiner.training.published import import_published

SIZES = {"depth": 2, "heads": 8, "mlp_ratio": 2, "frames": 5}


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    pairs = [f"{index}x {index}y" for index in range(CLIP_MERGES)]
    file = tmp_path_factory.mktemp("clip") / "merges.txt"
    file.write_text("\n".join(["#version: 0.2", *pairs]))
    return file


@pytest.fixture
def published(tmp_path, merges):
    """``published(name)``: a file as a training script writes it, of random weights."""

    def write(name, prompts="full"):
        torch.manual_seed(3)
        if name == "finepose":
            actions, words = HUMAN36M_ACTIONS if prompts == "full" else (), ClipVocabulary.from_file(merges)
            text = PromptedText(TextTower(49408, 64, 1, 1), words, actions, PROMPT_SETS[prompts])
            denoiser = FinePoseDenoiser(text, 16, encoder_layers=1, encoder_hidden=24, encoder_heads=8, **SIZES)
            model = FinePOSE(denoiser)
        else:
            model = {
                "stcformer": lambda: STCFormer(32, 2, 8, 4),
                "mixste": lambda: MixSTE(16, **SIZES),
                "d3dp": lambda: D3DP(CleanPoseDenoiser(16, **SIZES)),
            }[name]()
        # In the authors' names: what lies below `text.` here stands beside the rest there.
        state = {
            name.replace(".text.", "."): value + 0.1 * torch.randn_like(value)
            for name, value in model.state_dict().items()
        }
        file = tmp_path / f"{name}.bin"
        torch.save({"model_pos": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, file)
        return file

    return write


@pytest.mark.parametrize("name", ["stcformer", "mixste", "d3dp", "finepose"])
def test_the_checkpoint_runs_as_the_published_model_does(name, published, merges, tmp_path):
    source, output = published(name), tmp_path / "ours.safetensors"
    options = {"merges": merges} if name == "finepose" else {}
    config = import_published(name, source, output, 5 if name == "stcformer" else None, **options)
    assert config.model.architecture == name and config.frames == 5
    module, original = load_module(output), from_published(name, source, **options)
    state = original.state_dict()
    stored = load_checkpoint(output)
    assert stored.state().keys() == state.keys()
    assert all(torch.equal(stored.state()[key], value) for key, value in state.items())
    pixels, size = 400 + 200 * torch.rand(2, 5, 17, 2), torch.tensor([[1000.0, 1000.0]] * 2)
    lifted = module(pixels, size)
    assert lifted.shape == (2, 5, 17, 3) and (lifted[..., 0, :] == 0).all()
    if name in ("stcformer", "mixste"):
        with torch.no_grad():
            expected = original(pixels / 500 - 1.0)
        # What the model says of the root is overwritten, not subtracted.
        torch.testing.assert_close(lifted[..., 1:, :], expected[..., 1:, :], rtol=1e-4, atol=1e-5)
    assert stored.config["data_description"]["file"] == f"{name}.bin"


@pytest.mark.parametrize("prompts", ["full", "3dhp"])
def test_finepose_runs_as_its_authors_run_it_unless_told_otherwise(published, merges, tmp_path, prompts, capsys):
    source, files = published("finepose", prompts), {}
    joints = ["--joints", "3dhp"] if prompts == "3dhp" else []
    for name, options in (("published", []), ("mended", ["--mended"])):
        files[name] = tmp_path / f"{name}.safetensors"
        command = ["finepose", str(source), "--merges", str(merges), "--output", str(files[name])]
        assert main([*command, *joints, *options]) == 0
        assert load_checkpoint(files[name]).config["text"]["published"] == (name == "published")
        assert load_checkpoint(files[name]).config["text"]["prompts"] == prompts
    screen, found = torch.rand(2, 5, 17, 2) - 0.5, {}
    action = (torch.tensor([2, 2]),) if prompts == "full" else ()
    for name, file in files.items():
        # The text side of the checkpoint is that of the published weights, run in either form.
        model = from_published(
            "finepose", source, merges=merges, published=name == "published", joints="3dhp" if joints else "h36m17"
        )
        expected = as_lifter(model, load_checkpoint(file).config)(screen, *action)
        found[name] = load_module(file).lifter(screen, *action)
        torch.testing.assert_close(found[name], expected)
    if prompts == "full":  # the end of the text is read elsewhere
        assert (found["published"] - found["mended"]).abs().max() > 1e-6
    assert inspect.signature(from_published).parameters["published"].default is True


def test_a_window_of_a_published_finepose_does_not_depend_on_its_batch(published, merges, tmp_path):
    """Its authors' code mixes up the texts of a batch of several actions, and they run one action at a time."""
    import_published("finepose", published("finepose"), tmp_path / "a.safetensors", merges=merges)
    lifter = load_module(tmp_path / "a.safetensors").lifter
    screen, actions = torch.rand(3, 5, 17, 2), torch.tensor([0, 7, 3])
    alone = torch.cat([lifter(screen[row : row + 1], actions[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(lifter(screen, actions), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "stride"), [([], 3), (["--set", "stride=1"], 1)])
def test_a_published_stcformer_takes_every_third_frame(published, tmp_path, capsys, options, stride):
    output = tmp_path / "ours.safetensors"
    command = ["stcformer", str(published("stcformer")), "--frames", "27", "--output", str(output), *options]
    assert main(command) == 0
    assert ("27 frames of every 3" in capsys.readouterr().out) == (stride == 3)
    lifter = Lifter.load(output)
    assert (lifter.frames, lifter.stride) == (27, stride)
    pose_2d = np.random.default_rng(1).uniform(300, 700, (81, 17, 2)).astype(np.float32)
    lifted = lifter.lift(pose_2d, (1000, 1000))
    module = load_module(output)
    size = torch.tensor([[1000.0, 1000.0]])
    window = pose_2d[:27] if stride == 1 else pose_2d[::3]
    expected = module(torch.from_numpy(window)[None], size)[0].numpy()
    if stride == 3:  # one window a phase, and their triangular mean
        phases = np.stack([module(torch.from_numpy(pose_2d[p::3])[None], size)[0].numpy() for p in range(3)], axis=1)
        expected = blend_phases(phases.reshape(81, 17, 3), 3)
        np.testing.assert_allclose(lifted, expected, atol=1e-5)
    else:
        np.testing.assert_allclose(lifted[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("name", ["stcformer", "mixste", "d3dp"])
def test_a_lifter_of_3dhp_states_its_joints_and_takes_human36m_s(name, published, tmp_path, capsys):
    source, output = published(name), tmp_path / "ours.safetensors"
    frames = ["--frames", "5", "--set", "stride=1"] if name == "stcformer" else []
    assert main([name, str(source), *frames, "--joints", "3dhp", "--output", str(output)]) == 0
    assert "trained with the joints of 3dhp" in capsys.readouterr().out
    stored = load_checkpoint(output)
    assert stored.spec.joints == "3dhp" and stored.config["data_description"]["name"].startswith("MPI-INF-3DHP")
    lifter = Lifter.load(output)
    assert lifter.metadata["model"]["joints"] == "3dhp"
    pose_2d = np.random.default_rng(2).uniform(300, 700, (5, 17, 2)).astype(np.float32)
    # The same input in both joint sets gives the same pose, in Human3.6M's joints.
    own = from_h36m17(pose_2d, MPI_INF_3DHP)
    lifted = lifter.lift(pose_2d, (1000, 1000))
    np.testing.assert_allclose(lifter.lift(own, (1000, 1000), joints="3dhp"), lifted, atol=1e-6)
    assert (lifted[:, 0] == 0).all()
    if name != "d3dp":
        network = from_published(name, source, joints="3dhp")
        with torch.no_grad():
            expected = network(torch.from_numpy(pose_2d)[None] / 500 - 1.0)[0].numpy()
        np.testing.assert_allclose(lifted[:, 1:], expected[:, 1:], atol=1e-5)
    assert main([name, str(source), *frames, "--output", str(output)]) == 0
    assert np.abs(Lifter.load(output).lift(pose_2d, (1000, 1000)) - lifted).max() > 1e-3


def test_sampling_is_chosen_when_it_is_imported(published, tmp_path):
    import_published("d3dp", published("d3dp"), tmp_path / "a.safetensors", overrides=["sampling.hypotheses=3"])
    module = module_of(load_checkpoint(tmp_path / "a.safetensors"), steps=2)
    assert module.lifter.noises.shape[:3] == (2, 1, 3)


def test_what_does_not_go_together_is_refused(published, merges, tmp_path):
    output = tmp_path / "ours.safetensors"
    with pytest.raises(UsageError, match="give --frames"):
        import_published("stcformer", published("stcformer"), output)
    with pytest.raises(UsageError, match="windows of 5 frames; leave --frames 27 out"):
        import_published("mixste", published("mixste"), output, 27)
    with pytest.raises(ConfigError, match=r"changed by model\.dim=32"):
        import_published("mixste", published("mixste"), output, overrides=["model.dim=32"])
    with pytest.raises(CheckpointError, match="no mixste checkpoint"):
        import_published("mixste", published("stcformer"), output)
    assert not output.exists()


def test_the_command(published, merges, tmp_path, capsys):
    output = tmp_path / "ours.safetensors"
    assert main(["mixste", str(published("mixste")), "--output", str(output)]) == 0
    assert "mixste, width 16, 2 blocks, 5 frames" in capsys.readouterr().out and output.exists()
    assert main(["finepose", str(published("finepose")), "--output", str(output)]) == 2
    assert "merges=" in capsys.readouterr().err
    assert main(["mixste", str(output), "--merges", str(merges), "--output", str(output)]) == 2
    assert main(["mixste", str(tmp_path / "none.bin"), "--output", str(output)]) == 5
    assert main(["mixste", str(output), "--output", str(tmp_path / "x.pth")]) == 2


@pytest.mark.parametrize(
    ("name", "frames", "overrides", "error", "told"),
    [
        ("stcformer", 0, [], UsageError, "at least 1"),
        ("d3dp", None, ["sampling.steps=2000"], ConfigError, "steps"),
        ("d3dp", None, ["sampling.hypotheses=0"], ConfigError, "hypotheses: expected"),
        ("d3dp", None, ["sampling.seed=-1"], ConfigError, "seed"),
        ("d3dp", None, ["frames.x=4"], ConfigError, "frames is a value"),
    ],
)
def test_what_could_not_run_is_not_written(name, frames, overrides, error, told, published, tmp_path):
    output = tmp_path / "ours.safetensors"
    with pytest.raises(error, match=told):
        import_published(name, published(name), output, frames=frames, overrides=overrides)
    assert not output.exists()


def test_files_of_another_kind_are_refused_in_words(tmp_path):
    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.bin")
    with pytest.raises(CheckpointError, match="no state dict"):
        from_published("mixste", tmp_path / "numbers.bin")
    state = MixSTE(16, **SIZES).state_dict() | {"Spatial_pos_embed": torch.zeros(3)}
    with pytest.raises(CheckpointError):
        from_published("mixste", state)
