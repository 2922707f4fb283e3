"""Latency in turns, and what the streaming report says of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from refiner_bench.cli import main
from refiner_bench.compare import compare_reports, regressions
from refiner_bench.measures import measures
from refiner_bench.page_plots import draw_plots, plots_of
from refiner_bench.streaming.format import delay_table, format_streaming
from refiner_bench.streaming.latency import in_turns, percentiles, spin, summary
from refiner_bench.timing import Ratio


def test_turns_hold_every_call_of_everyone():
    seen = {"a": [], "b": []}
    turns = in_turns({name: (calls, seen[name].append) for name, calls in (("a", 10), ("b", 2))}, 40, warm_up=3)
    assert {name: [len(taken) for taken in turns[name]] for name in turns} == {"a": [10] * 4, "b": [2] * 4}
    assert seen["a"] == [0, 1, 2, *range(40)] and seen["b"] == [0, 1, *range(8)]


def test_percentiles_and_ratios():
    rng = np.random.default_rng(0)
    slow = [10.0 + rng.random(100) for _ in range(20)]
    found = summary({"fast": [taken / 4 for taken in slow], "slow": slow}, "slow")
    assert found["fast"].faster_than_rival.ratio == pytest.approx(4.0)
    assert found["slow"].faster_than_rival == Ratio(1.0, 1.0, 1.0)
    assert found["slow"].calls == 2000
    expected = {"p50_ms": 500.0, "p99_ms": 990.0, "p99.9_ms": 999.0}
    assert percentiles(np.arange(1001.0)) == pytest.approx(expected)


def test_an_empty_loop_takes_what_it_should():
    began = time.perf_counter()
    spin(5.0)(0)
    assert time.perf_counter() - began >= 0.005


def report(mpjpe=48.0, ratio=15.0):
    entry = {"p50_ms": 5.0, "p99_ms": 7.0, "p99.9_ms": 9.0, "calls": 1000}
    even = {"ratio": 1.0, "low": 1.0, "high": 1.0}
    errors = dict.fromkeys(("mpjpe", "p_mpjpe", "acceleration_error"), mpjpe)
    return {
        "schema": "refiner-bench/streaming",
        "environment": {"processor": "a processor"},
        "settings": {"config": "refiner-paper", "engine": "onnx", "threads": 2, "data": "clips.json"},
        "latency": {
            "causal step": entry | {"faster_than_rival": {"ratio": ratio, "low": ratio - 0.5, "high": ratio + 0.5}},
            "window again": entry | {"faster_than_rival": even},
            "empty loop": entry | {"faster_than_rival": even, "of_ms": 5.0},
        },
        "people": [{"people": 4, "p50_ms": 8.0, "p99_ms": 9.0, "p99.9_ms": 10.0, "frames_per_s": 500.0}],
        "delay": {
            "frames": 1234,
            "errors": {
                "window": {"0": errors, "4": errors},
                "window, one shape": {"0": {name: value - 1 for name, value in errors.items()}},
                "causal": {"0": errors},
            },
        },
        "coverage": {"causal": {"half": 0.51, "nine_tenths": 0.89, "std_mm": 31.0}, "window": None},
    }


def test_the_text_says_what_was_measured():
    text = format_streaming(report())
    for told in ("| causal step", "15.0 (14.5 to 15.5)", "1,234 frames", "causal: 51 % and 89 %, mean spread 31 mm"):
        assert told in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in delay_table(report(), "mpjpe").splitlines()
    ]
    assert rows[0] == ["delay in frames", "0", "4"]
    assert rows[2] == ["window", "48.00 (47.00)", "48.00"] and rows[3] == ["causal", "48.00", ""]
    assert [title for title, _ in plots_of(report())] == [
        "MPJPE, mm against delay",
        "acceleration error, mm/frame^2 against delay",
    ]


@pytest.mark.slow
def test_the_whole_run_at_toy_size(tmp_path, monkeypatch):
    for needed in ("torch", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    monkeypatch.delenv("REFINER_DATA", raising=False)
    out = tmp_path / "streaming.json"
    words = ["--config", "refiner-small", "--frames", "200", "--threads", "1", "--people", "1", "3", "--hour", "400"]
    assert main(["streaming", *words, "--json", str(out), "--markdown", str(tmp_path / "streaming.md")]) == 0
    found = json.loads(out.read_text())
    assert [entry["calls"] for entry in found["latency"].values()] == [200, 200, 200, 10, 200]
    assert all(0 < entry["p50_ms"] <= entry["p99_ms"] <= entry["p99.9_ms"] for entry in found["latency"].values())
    assert [row["people"] for row in found["people"]] == [1, 3] and "delay" not in found
    assert found["hour"]["frames"] == 400 and found["hour"]["drift_mm"] < 0.01 and len(found["hour"]["memory_mb"]) == 20
    assert "One stream of 400 frames" in (tmp_path / "streaming.md").read_text()


def test_a_slower_step_and_a_worse_stream_are_caught():
    assert regressions(compare_reports(report(), report())) == []
    names = [change.name for change in regressions(compare_reports(report(), report(ratio=11.0)))]
    assert names == ["streaming: causal step, speed over the window again"]
    assert len(regressions(compare_reports(report(), report(mpjpe=48.1)))) == 12
    assert len(measures(report())) == 3 * 2 + 1 + 4 * 3


def test_error_against_delay_is_drawn(tmp_path):
    content = json.loads((Path(__file__).parents[2] / "bench" / "reports" / "streaming.json").read_text())
    files = draw_plots(content, tmp_path / "new")
    assert [file.name for file in files] == ["streaming-1.svg", "streaming-2.svg"]
    for file in files:
        text = file.read_text()
        assert text.startswith("<svg") and "delay, frames at 50 a second" in text and "causal, smoothed" in text
