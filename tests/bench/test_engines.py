"""refiner-bench engines: the peer computes the same thing, and the report holds together."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import torch
from refiner_bench.cli import main
from refiner_bench.engines import PEER

from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint


@pytest.fixture
def small(tmp_path):
    config = {
        "kind": "refiner",
        "frames": 9,
        "model": {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2, "joint_embedding": True},
        "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
    }
    torch.manual_seed(0)
    tensors = {f"model.{name}": value for name, value in build_model(config).state_dict().items()}
    save_checkpoint(tmp_path / "small.safetensors", config, tensors | {"error_scale": torch.full((51,), 0.03)})
    return tmp_path / "small.safetensors"


def test_every_engine_is_measured_beside_the_plain_export(small, tmp_path, capsys):
    file = tmp_path / "engines.json"
    words = ["engines", "--checkpoint", str(small), "--rounds", "4", "--threads", "1", "--without"]
    words += ["aoti", "openvino", "torch-compile"]
    assert main([*words, "--json", str(file), "--markdown", str(tmp_path / "engines.md")]) == 0
    report = json.loads(file.read_text())
    assert report["schema"] == "refiner-bench/engines" and next(iter(report["contestants"])) == PEER
    assert {"onnx fp32", "torch fp32"} <= set(report["contestants"])
    for title, entry in report["contestants"].items():
        ratio = entry["faster_than_peer"]
        assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"] and 0 < entry["median_ms"] <= entry["p99_ms"]
        # The plain export computes what the model computes: otherwise it would be no peer.
        assert entry["largest_difference_mm"] < (1.0 if title.endswith("bf16") else 0.01)
        # Against the floor and the native engine in the same rounds.
        share, slower = entry["of_floor"], entry["slower_than_native"]
        assert 0 < share["low"] <= share["ratio"] <= share["high"]
        assert 0 < slower["low"] <= slower["ratio"] <= slower["high"]
    plain, ours = report["contestants"][PEER], report["contestants"]["onnx fp32"]
    assert ours["nodes"] < plain["nodes"] and ours["transposes"] < plain["transposes"]
    # 9 frames of 17 joints, 2 steps, one block: two modules of 4 C^2 and one MLP of 2 x 2 C^2.
    assert report["floor_ms"]["gflop"] == pytest.approx(2 * 9 * 17 * 2 * 16**2 * (2 * 4 + 2 * 2) / 1e9)
    native = report["contestants"]["native fp32"]
    assert native["slower_than_native"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    floors = report["floor_ms"]
    printed = capsys.readouterr().out
    assert "times as fast as the plain export" in printed and "of its floor" in printed
    assert f"{floors['float32_ms']:.2f} ms in float32, {floors['bfloat16_ms']:.2f} ms in bfloat16" in printed
    # What can't run here is named with the reason.
    assert all(reason in printed for reason in report["missing"].values())
    assert set(report["contestants"]) | set(report["missing"]) >= {"native fp32", "native bf16", "torch fp32"}


@pytest.mark.slow
def test_windows_of_another_length(small, tmp_path):
    file = tmp_path / "engines.json"
    words = ["engines", "--checkpoint", str(small), "--rounds", "2", "--threads", "1", "--frames", "12", "--without"]
    assert main([*words, "aoti", "openvino", "torch-compile", "onnx", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["settings"]["frames"] == 12 and {"native fp32", "torch fp32"} <= set(report["contestants"])
    assert report["floor_ms"]["gflop"] == pytest.approx(2 * 12 * 17 * 2 * 16**2 * (2 * 4 + 2 * 2) / 1e9)


@pytest.mark.slow
def test_a_precision_that_the_processor_has_not_is_missing(small, tmp_path, monkeypatch, capsys):
    from refiner_bench import engines

    from refiner.errors import UsageError

    opened = engines.open_engine

    def without_bf16(path, role, options):
        if options.precision == "bf16":
            raise UsageError("no bf16 here")
        return opened(path, role, options)

    monkeypatch.setattr(engines, "open_engine", without_bf16)
    file = tmp_path / "engines.json"
    words = ["engines", "--checkpoint", str(small), "--rounds", "2", "--threads", "1", "--json", str(file), "--without"]
    assert main([*words, "aoti", "openvino", "torch-compile", "onnx"]) == 0
    report = json.loads(file.read_text())
    assert report["missing"] == {"native bf16": "no bf16 here"} and "native fp32" in report["contestants"]
    assert "native bf16 was not measured: no bf16 here" in capsys.readouterr().out


def test_a_device_that_is_not_there(small, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["engines", "--checkpoint", str(small), "--device", "cuda"]) == 3
    assert "no CUDA device" in capsys.readouterr().err


def test_counts_below_one(capsys):
    for words in (["--rounds", "0"], ["--frames", "0"]):
        assert main(["engines", *words]) == 2
    assert "at least 1" in capsys.readouterr().err
