"""refiner-bench profile-native: the phases add up, the networks differ as they should, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from refiner_bench import profile_native
from refiner_bench.cli import main
from refiner_bench.inputs import refiner_inputs
from refiner_bench.measures import measures
from refiner_bench.untrained import random_checkpoint

from refiner.errors import UsageError
from refiner.model_files.arrays import load_arrays

SMALL = ("model.dim=32", "model.heads=4", "model.mlp_ratio=2", "model.blocks=3", "frames=9")
CASES = (
    profile_native.Case("a window", "refiner-nano-rays", SMALL),
    profile_native.Case("a step", "refiner-nano-rays-causal", SMALL, step=True),
)


def test_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("refiner_bench.timing.PAUSE_S", 0.0)
    monkeypatch.setattr(profile_native, "TURN_S", 0.0)
    monkeypatch.setattr(profile_native.profile_report, "__defaults__", ((), CASES, lambda line: None))
    words = ["profile-native", "--rounds", "3", "--without", "onnx", "--json", str(tmp_path / "profile.json")]
    assert main(words) == 0
    report = json.loads((tmp_path / "profile.json").read_text())
    assert report["schema"] == "refiner-bench/profile-native" and list(report["cases"]) == ["a window", "a step"]
    for title, measured in report["cases"].items():
        assert list(measured["engines"]) == ["native", "torch"] and measured["missing"] == {}
        for engine, phases in measured["engines"].items():
            assert {"call", "MLPs", "attention layers", "the rest"} <= set(phases)
            parts = [name for name in phases if name.startswith(profile_native.PART)]
            assert len(parts) == (4 if engine == "native" and title == "a window" else 0)
            assert all(phase["low_ms"] <= phase["ms"] <= phase["high_ms"] for phase in phases.values())
    window = report["cases"]["a window"]
    assert window["engines"]["native"]["of it inputs and sampling"]["ms"] > 0
    # 2 C^2 r and 2 x 4 C^2 multiplications a token, block and step.
    assert window["floors"]["products"]["ms"] == pytest.approx(2 * window["floors"]["MLPs"]["ms"])
    assert any(measure.name.endswith("a window, native, MLPs") for measure in measures(report))
    printed = capsys.readouterr().out
    assert "A window (C = 32, 3 blocks, MLPs of ratio 2" in printed and "| the rest" in printed


def test_phases_follow_from_the_differences(tmp_path, monkeypatch):
    """A made-up engine: 3 ms before and after, and in each block 4 ms of attention and 1 ms of MLP for each ratio."""

    def made_up(contestants, rounds, warm_up, turn_s):
        times = {"inputs": 2.0, "mixing": 0.25, "large product": 1.0}
        rates = {}
        for name in contestants:
            blocks, ratio = {"whole": (3, 2), "narrow": (3, 1), "shallow": (1, 2)}.get(name.split(", ")[-1], (0, 0))
            rates[name] = [1000.0 / times.get(name, 3.0 + blocks * (4.0 + ratio))] * rounds
        return rates

    monkeypatch.setattr(profile_native, "interleaved", made_up)
    report = profile_native.profile_report(2, ("onnx",), CASES[:1])
    phases = report["cases"]["a window"]["engines"]
    # Three blocks, two steps, two attention layers in each: 12 times the mixing.
    expected = {
        "call": 21, "MLPs": 6, "attention layers": 12, "of it attention and convolution": 3,
        "of it products and norms": 9, "the rest": 3, "of it inputs and sampling": 2, "of it embedding, head": 1,
    }  # fmt: skip
    assert {name: phase["ms"] for name, phase in phases["native"].items()} == pytest.approx(expected)
    assert {name: phase["ms"] for name, phase in phases["torch"].items()} == pytest.approx(
        {name: value for name, value in expected.items() if not name.startswith("of it")}
    )
    with pytest.raises(UsageError, match="needs two blocks"):
        profile_native.profile_report(
            2, (), [profile_native.Case("a", "refiner-nano-rays", (*SMALL, "model.blocks=1"))]
        )


def test_a_call_without_its_network(tmp_path):
    """What the native engine does beside its network: with the network's output 0 everywhere."""
    path = random_checkpoint(tmp_path / "small.safetensors", "refiner-nano-rays", SMALL)
    run = profile_native._without_network(path, 1)
    pose = refiner_inputs(True, 9)[1]
    result = run()
    assert result.shape == pose.shape and np.isfinite(result).all()
    whole = profile_native.open_engine(path, "refiner", profile_native.EngineOptions("native"))(
        *refiner_inputs(True, 9)
    )
    assert not np.array_equal(whole, result)


def test_attention_alone(tmp_path):
    model = load_arrays(random_checkpoint(tmp_path / "small.safetensors", "refiner-nano-rays", SMALL)).config["model"]
    run = profile_native._mixing(model, 9, 1)
    run()
    (out,) = [
        cell.cell_contents for cell in run.__closure__ if getattr(cell.cell_contents, "shape", ()) == (1, 9, 17, 32)
    ]
    assert np.isfinite(out).all() and np.abs(out).max() > 0.1


@pytest.mark.parametrize("words", [["--rounds", "1"], ["--without", "openvino"]])
def test_what_is_refused(words, capsys):
    assert main(["profile-native", *words]) == 2
    assert "error:" in capsys.readouterr().err
