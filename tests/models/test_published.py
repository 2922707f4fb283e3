"""Checkpoints as their authors publish them: entries, prefixes, files, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.diffusion import cosine_schedule  # noqa: E402
from refiner.errors import CheckpointError, UsageError  # noqa: E402
from refiner.models import D3DP, MixSTE, STCFormer, from_published  # noqa: E402
from refiner.models.published import SCHEDULE_BUFFERS  # noqa: E402


@pytest.fixture
def mixste(layouts, random_state):
    """A state dict, its input and what it gives."""
    state = random_state(layouts.mixste(16, 2, 5))
    pose_2d = torch.randn(2, 5, 17, 2)
    return state, pose_2d, from_published("mixste", state)(pose_2d).detach()


def training_file(state, optimiser_of=None):
    """What the authors' training scripts save beside the weights."""
    return {
        "epoch": 60,
        "lr": np.float64(3.2e-5),
        "random_state": np.random.RandomState(4),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "model_pos": {f"module.{name}": value for name, value in state.items()},
    }


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".pt"])
def test_a_training_script_s_file_is_read(mixste, tmp_path, suffix):
    state, pose_2d, expected = mixste
    torch.save(training_file(state), tmp_path / f"epoch{suffix}")
    torch.testing.assert_close(from_published("mixste", tmp_path / f"epoch{suffix}")(pose_2d), expected)


def test_a_dict_and_a_safetensors_file_are_the_same(mixste, tmp_path):
    from safetensors.torch import save_file

    state, pose_2d, expected = mixste
    save_file(state, tmp_path / "a.safetensors")
    for source in (tmp_path / "a.safetensors", training_file(state), {f"module.{k}": v for k, v in state.items()}):
        torch.testing.assert_close(from_published("mixste", source)(pose_2d), expected)


def test_half_and_double_weights_run_in_float32(mixste):
    state, pose_2d, expected = mixste
    model = from_published("mixste", {name: value.double() for name, value in state.items()})
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model(pose_2d), expected)


@pytest.mark.parametrize(("dim", "layers", "heads", "mlp_ratio"), [(32, 2, 8, 4), (48, 1, 3, 2)])
def test_stcformer_is_the_straight_line_pass(layouts, random_state, in_float64, dim, layers, heads, mlp_ratio):
    state = random_state(layouts.stcformer(dim, layers, heads, mlp_ratio))
    # Large enough for its 1e-4 to show.
    state["stcformer.stc_block.0.stc_att.emb.weight"] *= 1000.0
    model = from_published("stcformer", state)
    assert isinstance(model, STCFormer)
    pose_2d = torch.randn(2, 7, 17, 2, generator=torch.Generator().manual_seed(3))
    expected = layouts.stcformer_pass(pose_2d.double().numpy(), in_float64(state), heads)
    with torch.no_grad():
        np.testing.assert_allclose(model(pose_2d).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_d3dp_s_schedule_is_checked_and_left_out(layouts, random_state):
    shapes = layouts.mixste(16, 1, 5, channels=5) | layouts.time_mlp(16)
    state = random_state({f"pose_estimator.{name}": shape for name, shape in shapes.items()})
    abar = torch.from_numpy(cosine_schedule(1000))
    buffers = {name: torch.rand(1000, dtype=torch.float64) for name in SCHEDULE_BUFFERS} | {"alphas_cumprod": abar}
    model = from_published("d3dp", {"model_pos": state | buffers})
    assert isinstance(model, D3DP) and model.timesteps == 1000
    assert set(model.state_dict()) == set(state)
    with pytest.raises(CheckpointError, match="not the cosine schedule"):
        from_published("d3dp", state | buffers | {"alphas_cumprod": abar.flip(0)})


def test_what_does_not_fit_is_named(mixste):
    state, _, _ = mixste
    lacking = {name: value for name, value in state.items() if name != "TTEblocks.1.attn.proj.bias"}
    with pytest.raises(CheckpointError, match=r"missing: TTEblocks\.1\.attn\.proj\.bias"):
        from_published("mixste", lacking)
    with pytest.raises(CheckpointError, match="unexpected: extra"):
        from_published("mixste", state | {"extra": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"head\.1\.weight \(4, 16\) instead of \(3, 16\)"):
        from_published("mixste", state | {"head.1.weight": torch.ones(4, 16)})
    with pytest.raises(CheckpointError, match=r"no stcformer checkpoint: it has no 'pose_emb\.weight'"):
        from_published("stcformer", state)
    with pytest.raises(UsageError, match="choose one of stcformer, mixste, d3dp"):
        from_published("poseformer", state)


def test_what_holds_no_state_dict_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="epoch, lr, random_state"):
        from_published("mixste", {"epoch": 3, "lr": 0.1, "random_state": None})
    with pytest.raises(CheckpointError, match="model_pos is a int"):
        from_published("mixste", {"model_pos": 3})
    torch.save(torch.ones(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        from_published("mixste", tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        from_published("mixste", tmp_path / "none.pth")


def test_a_file_that_asks_for_code_is_not_read(tmp_path):
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    torch.save({"model_pos": {}, "extra": Attack()}, tmp_path / "attack.bin")
    with pytest.raises(CheckpointError, match=r"asks for \w+\.mkdir"):
        from_published("mixste", tmp_path / "attack.bin")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more", b"\x80\x02}q\x00."])
def test_broken_files_are_refused(tmp_path, content):
    for suffix in (".bin", ".safetensors"):
        (tmp_path / f"broken{suffix}").write_bytes(content)
        with pytest.raises(CheckpointError):
            from_published("mixste", tmp_path / f"broken{suffix}")


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_a_program_is_not_read(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive, which is a program"):
        from_published("mixste", tmp_path / "program.pt")


def test_a_model_keeps_the_published_names(mixste):
    state, _, _ = mixste
    model = MixSTE(dim=16, depth=2, heads=8, frames=5)
    model.load_state_dict(state)
    assert set(model.state_dict()) == set(state)
