"""refiner-bench busy: the contestants, their ratios, and what is refused. No time is judged."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from refiner_bench import busy
from refiner_bench.cli import main
from refiner_bench.measures import measures


def test_the_report(monkeypatch, tmp_path, capsys):
    """Both engines' calls are stand-ins, so that only the report is tested; the program beside them is a real one."""
    asked, running = [], []
    monkeypatch.setattr(busy, "_file_of", lambda engine, folder, log: engine)
    monkeypatch.setattr(busy, "_call", lambda file, engine, threads: asked.append((engine, threads)) or time_passes)
    monkeypatch.setattr("refiner_bench.timing.PAUSE_S", 0.0)
    started = busy.subprocess.Popen
    monkeypatch.setattr(busy.subprocess, "Popen", lambda command: running.append(started(command)) or running[-1])

    def time_passes():
        assert [program.poll() for program in running] == [None, None]

    words = ["busy", "--programs", "2", "--rounds", "3", "--without", "native", "aoti", "openvino"]
    assert main([*words, "--json", str(tmp_path / "busy.json")]) == 0
    report = json.loads((tmp_path / "busy.json").read_text())
    processors = report["settings"]["processors"]
    assert asked == [(engine, threads) for engine in ("torch", "onnx") for threads in (None, 1, processors)]
    assert [program.poll() is None for program in running] == [False, False]
    names = [
        f"{engine}, {label}"
        for engine in ("torch", "onnx")
        for label in ("default", "1 thread", f"{processors} threads")
    ]
    assert list(report["contestants"]) == names
    for engine in ("torch", "onnx"):
        assert report["contestants"][f"{engine}, 1 thread"]["times_as_long_as_one_thread"]["ratio"] == 1.0
    assert "busy: torch, default, median" in [measure.name for measure in measures(report)]
    assert "| onnx, default" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--programs", "-1"], ["--rounds", "1"], ["--without", "tpu"]])
def test_what_is_refused(words, capsys):
    assert main(["busy", *words]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_real_call(engine):
    from refiner import bundled

    call = busy._call(bundled.default_checkpoint("refiner"), engine, 1)
    assert call().shape == (1, 27, 17, 3)
