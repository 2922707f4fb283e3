"""refiner-bench sweep: every depth beside its peer, and the counts that follow from it."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import torch
from refiner_bench.cli import main
from refiner_bench.compare import compare_reports, regressions
from refiner_bench.engines import PEER
from refiner_bench.sweep import SweepOptions, resolved_difference, sweep_report
from scipy import stats

from refiner.data.synthetic import synthetic_folder
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint


def write_checkpoint(path, blocks, scale=1.0):
    config = {
        "kind": "refiner",
        "frames": 9,
        "model": {"dim": 16, "blocks": blocks, "heads": 2, "mlp_ratio": 2, "joint_embedding": True},
        "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
    }
    torch.manual_seed(blocks)
    tensors = {f"model.{name}": value * scale for name, value in build_model(config).state_dict().items()}
    save_checkpoint(path, config, tensors | {"error_scale": torch.full((51,), 0.03)})
    return path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    write_checkpoint(folder / "depth-2-seed-0.safetensors", 1)
    words = [
        "sweep",
        "--depths",
        "2",
        "4",
        "--dim",
        "16",
        "--rounds",
        "3",
        "--threads",
        "1",
        "--engines",
        "onnx",
        "torch",
    ]
    words += ["--checkpoints", str(folder), "--json", str(folder / "sweep.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REFINER_DATA", raising=False)  # accuracy has a test of its own
        assert main([*words, "--markdown", str(folder / "sweep.md")]) == 0
    return folder, words, json.loads((folder / "sweep.json").read_text())


@pytest.mark.slow
def test_every_depth_beside_the_plain_export(sweep):
    folder, _, report = sweep
    trained, random = report["rows"]
    assert trained["trained"] and random["trained"] == [] and trained["accuracy"] is None
    assert (trained["model"]["dim"], trained["frames"], random["model"]["dim"], random["frames"]) == (16, 9, 16, 27)
    model = build_model(load_checkpoint(folder / "depth-2-seed-0.safetensors").config)
    assert trained["parameters"] == sum(value.numel() for value in model.parameters())
    for row in report["rows"]:
        assert row["floor_ms"] == pytest.approx(1000 * row["window_flops"] / report["products_per_s"])
        assert row["peak_mb"] > 50 and list(row["engines"]) == [PEER, "onnx fp32", "torch fp32"]
        for title, entry in row["engines"].items():
            assert entry["largest_difference_mm"] < 0.01 and 0 < entry["median_ms"] <= entry["p99_ms"]
            assert ("bytes" in entry) == (title != PEER)
        assert row["engines"]["onnx fp32"]["nodes"] < row["engines"][PEER]["nodes"]
    text = (folder / "sweep.md").read_text()
    assert "Depth 4: random weights, no accuracy." in text and "2, onnx fp32" in text


@pytest.mark.slow
def test_a_deeper_checkpoint_under_the_same_name_is_refused_and_one_more_layer_is_caught(sweep, tmp_path, capsys):
    folder, words, report = sweep
    write_checkpoint(tmp_path / "depth-2-seed-0.safetensors", 2)
    again = [*words]
    again[again.index(str(folder))] = str(tmp_path)
    assert main(again) == 2
    assert "which is depth 4, not 2" in capsys.readouterr().err
    deeper = json.loads(json.dumps(report))
    deeper["rows"][0] |= {name: report["rows"][1][name] for name in ("parameters", "window_flops")}
    names = [change.name for change in regressions(compare_reports(report, deeper))]
    assert "sweep: depth 2, parameters" in names or "sweep: depth 2, a window" in names


@pytest.mark.slow
def test_accuracy_is_that_of_the_checkpoint(tmp_path, monkeypatch):
    """Weights with noise on them give another accuracy, which `compare` sees."""
    folder = synthetic_folder(3, subjects=3, frames=60, actions=("Walking",))
    found = []
    for scale in (1.0, 1.3):
        place = tmp_path / str(scale)
        place.mkdir()
        write_checkpoint(place / "depth-2-seed-0.safetensors", 1, scale)
        options = SweepOptions(depths=(2,), rounds=1, threads=1, checkpoints=place, pairs=())
        found.append(sweep_report(options, folder))
    first, second = (report["rows"][0]["accuracy"] for report in found)
    assert first["mpjpe"]["lifter"] == second["mpjpe"]["lifter"] != first["mpjpe"]["mean"]
    assert all(np.isfinite(entry["mean"]) and len(entry["by_seed"]) == 1 for entry in first.values())
    assert found[0]["resolved"] == dict.fromkeys(first)  # one seed resolves nothing
    changes = compare_reports(*found)
    assert {change.verdict for change in changes if "mpjpe" in change.name} <= {"worse", "better"}


def test_what_seeds_resolve():
    """Against SciPy's own interval of a difference of means, for two depths of three seeds."""
    groups = ([50.1, 50.4, 50.2], [49.8, 49.9, 50.3])
    rows = [{"accuracy": {"mpjpe": {"by_seed": values}}} for values in groups] + [{"accuracy": None}]
    interval = stats.ttest_ind(*groups).confidence_interval(0.95)
    assert resolved_difference(rows, "mpjpe") == pytest.approx((interval.high - interval.low) / 2)
    assert resolved_difference(rows[2:], "mpjpe") is None


@pytest.mark.parametrize("words", [["--depths", "3"], ["--depths", "0"], ["--rounds", "0"]])
def test_wrong_settings(words, capsys):
    assert main(["sweep", *words]) == 2
    assert "error:" in capsys.readouterr().err
