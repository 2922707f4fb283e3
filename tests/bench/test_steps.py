"""refiner-bench steps: what takes turns, the ratios, and what is refused. No time is judged."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from refiner_bench import steps
from refiner_bench.cli import main
from refiner_bench.measures import measures

from refiner.runtime.causal import StreamEngine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(steps, "PAUSE_S", 0.0)
    monkeypatch.setattr(steps.turns, "__defaults__", (0.0,))


def test_the_report(tmp_path, monkeypatch, capsys):
    taken = []
    step = StreamEngine.step

    def counted(engine, *given):
        result = step(engine, *given)
        assert np.isfinite(result).all()
        taken.append((engine.engine, engine.layout.dim))
        return result

    monkeypatch.setattr(StreamEngine, "step", counted)
    monkeypatch.setattr(steps, "PAPER", ("model.dim=128", "model.blocks=1", "model.causal=true"))
    assert main(["steps", "--rounds", "3", "--json", str(tmp_path / "steps.json")]) == 0
    report = json.loads((tmp_path / "steps.json").read_text())
    assert report["schema"] == "refiner-bench/steps" and len(report["models"]) == 2
    for measured, dim in zip(report["models"].values(), (64, 128), strict=True):
        assert list(measured["engines"]) == ["native", "torch", "onnx"] and measured["missing"] == {}
        # The frames of a window first; then a round that warms up and three that count.
        calls = 27 + 4 * (steps.UNCOUNTED + 1)
        for engine, entry in measured["engines"].items():
            # An export compares its steps with PyTorch's, too.
            assert taken.count((engine, dim)) == calls or (engine != "native" and taken.count((engine, dim)) > calls)
            assert 0 < entry["p50_ms"] <= entry["p99_ms"] and entry["of_reading"]["ratio"] > 0
            # The window of an artefact is none: it takes frames.
            assert ("cheaper_than_window" in entry) == (engine != "onnx")
    # qkv and proj of two modules and an MLP of ratio 8 in one block, four bytes each.
    assert list(report["models"].values())[1]["read_bytes"] == 4 * 128**2 * (2 * 4 + 2 * 8)
    assert any("native, steps in the time of a window" in measure.name for measure in measures(report))
    printed = capsys.readouterr().out
    assert "| native" in printed and "MB of weights once" in printed


def test_first_calls_do_not_count():
    calls = iter(range(10**6))
    times = steps.turns({"a": lambda: next(calls)}, 2)
    assert [len(part) for part in times["a"]] == [1, 1] and next(calls) == 3 * (steps.UNCOUNTED + 1)


@pytest.mark.parametrize("words", [["--rounds", "1"], ["--without", "openvino"]])
def test_what_is_refused(words, capsys):
    assert main(["steps", *words]) == 2
    assert "error:" in capsys.readouterr().err
