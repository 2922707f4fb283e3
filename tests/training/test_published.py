"""Published weights as checkpoints: they run as the model itself does, and say what they are."""

from __future__ import annotations

import pytest
import torch

from refiner.cli.convert import main
from refiner.errors import CheckpointError, ConfigError, UsageError
from refiner.model_files.build import load_module, module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import D3DP, FinePOSE, MixSTE, STCFormer, from_published
from refiner.models.d3dp import CleanPoseDenoiser
from refiner.models.finepose import ClipVocabulary, FinePoseDenoiser, PromptedText, TextTower
from refiner.models.finepose.vocabulary import CLIP_MERGES
from refiner.models.published import HUMAN36M_ACTIONS
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

    def write(name):
        torch.manual_seed(3)
        if name == "finepose":
            text = PromptedText(TextTower(49408, 64, 1, 1), ClipVocabulary.from_file(merges), HUMAN36M_ACTIONS)
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
        ("d3dp", None, ["sampling.hypotheses=0"], ConfigError, "hypothesis"),
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
