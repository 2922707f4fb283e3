from __future__ import annotations

import json
from pathlib import Path

import pytest
from refiner_bench.cli import main


def test_flops_prints_table_iv_beside_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--no-torch"]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    by_depth = {row[0]: (row[2], row[3]) for row in rows[2:6]}
    assert by_depth == {
        "4": ("7.2 M", "7.2 M"),
        "6": ("10.5 M", "10.5 M"),
        "8": ("13.9 M", "13.9 M"),
        "10": ("17.2 M", "17.2 M"),
    }
    assert "not run" in printed


def test_flops_writes_json_and_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_path, markdown_path = tmp_path / "new" / "flops.json", tmp_path / "flops.md"
    sizes = ["--dim", "32", "--depth", "2", "--frames", "9", "--steps", "3"]
    assert main(["flops", *sizes, "--json", str(report_path), "--markdown", str(markdown_path)]) == 0
    assert markdown_path.read_text() == capsys.readouterr().out
    report = json.loads(report_path.read_text())
    assert (report["schema"], report["schema_version"]) == ("refiner-bench/flops", 1)
    (row,) = report["rows"]
    assert row["torch"]["window_with_time_path"] == row["window_with_time_path"]
    assert row["torch"]["parameters"] == row["parameters"]
    assert row["refinement_exported"] == 3 * row["window_without_time_path"]
    assert row["refinement_with_time_path"] == 3 * row["window_with_time_path"]
    assert row["window_without_time_path"] == 9 * row["frame"] == 9 * 17 * row["token"]
    assert row["paper_table_iv"] is None  # the paper's figure is of another width
    assert [path.name for path in report_path.parent.iterdir()] == ["flops.json"]


@pytest.mark.parametrize(
    "arguments",
    [["flops", "--depth", "7"], ["flops", "--dim", "100"], ["flops", "--steps", "0"], ["train-step", "--rounds", "0"]],
    ids=" ".join,
)
def test_bad_sizes_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "got" in capsys.readouterr().err


def test_a_command_is_required() -> None:
    assert main([]) == 2


def test_unwritable_report_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert main(["flops", "--no-torch", "--json", str(tmp_path / "file" / "flops.json")]) == 5
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["lifter", "mixste"])
def test_the_training_step_of_a_lifter(tmp_path: Path, model: str) -> None:
    path = tmp_path / "step.json"
    arguments = ["--model", model, "--dim", "32", "--batch", "1", "--rounds", "1", "--steps", "1", "--threads", "1"]
    assert main(["train-step", *arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert report["settings"]["model"] == model and report["noise"] is None
    assert "fused attention" in report["time_shares"]["fused"]
    assert "PyTorch's attention" in report["time_shares"]["plain"]


@pytest.mark.slow
def test_train_step_reports_all_contestants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from refiner.models import fused_layers

    monkeypatch.setattr(fused_layers, "_faster", lambda: True)  # as on a processor on which the layers' kernels pay
    path = tmp_path / "step.json"
    arguments = ["--dim", "32", "--batch", "2", "--rounds", "2", "--steps", "1", "--threads", "1"]
    assert main(["train-step", *arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert set(report["windows_per_s"]) == {"plain", "attention", "fused", "bfloat16"}
    assert set(report["ratios"]) == {"fused over attention", "bfloat16 over attention"}
    low, high = report["ratio_interval"]
    assert 0 < low <= report["ratio"] <= high
    for shares in report["time_shares"].values():
        assert sum(shares.values()) == pytest.approx(1.0, abs=0.01)
    assert "fused attention" in report["time_shares"]["fused"]
    assert "fused attention" not in report["time_shares"]["plain"]
    assert "fused layers" in report["time_shares"]["fused"] and "matrix products" in report["time_shares"]["bfloat16"]
    for other in ("plain", "attention", "bfloat16"):
        assert "fused layers" not in report["time_shares"][other]
    noise = report["noise"]
    assert set(noise["draw_us"]) == {"native", "PyTorch"} and set(noise["windows_per_s"]) == {
        "native",
        "PyTorch",
        "none",
    }
    ratio = noise["native_over_pytorch"]
    assert min(noise["draw_us"].values()) > 0 and 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
