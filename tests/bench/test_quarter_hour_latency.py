"""The latency report of a device, with stand-ins for what only a device can do."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from refiner_bench.gpu import latency
from refiner_bench.gpu.latency import EAGER, GRAPH, TOY, Measured, Sizes, timed_in_turns
from refiner_bench.gpu.latency_text import format_latency
from refiner_bench.gpu.packages import PACKAGES, checkpoint_of, package_of
from refiner_bench.gpu.rates import device_rates

from refiner.errors import MissingComponentError
from refiner.model_files.build import load_module
from refiner.models.causal import CarriedStep, CausalStep
from refiner.runtime.causal import StreamFacts
from refiner.runtime.causal_torch import TensorStreamEngine, TorchCausalEngine

RATES = {"float32_flops_per_s": 1e12, "bfloat16_flops_per_s": 2e12, "copy_bytes_per_s": 1e10}


def measured(tmp_path, kind="window", package=None):
    checkpoint = checkpoint_of("paper", kind, tmp_path, toy=True)
    return Measured("paper", kind, checkpoint, "cpu", tmp_path, TOY, package)


def test_contestants_take_turns_and_the_first_is_the_rival():
    runs = {"slow": lambda frame: time.sleep(0.004), "fast": lambda frame: time.sleep(0.001)}
    found = timed_in_turns(runs, Sizes(seconds=0.08, turns=4, least=2, most=8))
    assert found["slow"].faster_than_first.ratio == 1
    assert found["fast"].faster_than_first.ratio > 0
    # From 4 turns of the least to 4 of the most; how many depends on how busy the machine is.
    assert all(8 <= entry.calls <= 32 for entry in found.values())
    assert 4 <= found["slow"].median_ms <= found["slow"].p99_ms
    assert timed_in_turns({}, TOY) == {}


def test_a_contestant_that_is_wrong_missing_or_out_of_memory_is_named(tmp_path, monkeypatch):
    subject = measured(tmp_path)

    def lacks():
        raise MissingComponentError("there is no package")

    def grows():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    makers = {EAGER: lambda: lambda frame: np.zeros((1, 17, 3)), GRAPH: lambda: lambda frame: np.full((1, 17, 3), 1e-3)}
    monkeypatch.setattr(subject, "_contestants", lambda batch: makers | {"a": lacks, "b": grows})
    missing, failed = {}, {}
    row = subject.row(2, RATES, missing, failed)
    assert missing == {"paper, window, batch 2, a": "there is no package"}
    assert failed.pop("paper, window, batch 2, b") == "CUDA out of memory."
    assert failed == {f"paper, window, batch 2, {GRAPH}": f"1 mm from {EAGER}"}
    assert row["contestants"][GRAPH]["largest_difference_mm"] == pytest.approx(1.0)
    assert row["floor_ms"] == max(row["product_ms"], row["copy_ms"])


def test_a_step_of_a_batch_costs_its_share_of_the_windows(tmp_path):
    window, step = (measured(tmp_path, kind).row(2, RATES, {}, {}) for kind in ("window", "step"))
    assert window["product_ms"] == pytest.approx(27 * step["product_ms"])
    assert window["contestants"].keys() == step["contestants"].keys() == {EAGER}


def test_an_eager_step_is_the_recorded_one(tmp_path):
    """What runs the operations again at every frame keeps the state as a graph does."""
    checkpoint = checkpoint_of("paper", "step", tmp_path, toy=True)
    step = CausalStep(load_module(checkpoint), 2)
    facts = StreamFacts("torch", "cpu", 50.0, None, {})
    eager = TensorStreamEngine(CarriedStep(step), step.layout, facts, torch.device("cpu"), latency._not_recorded)
    expected = TorchCausalEngine(checkpoint, 2)
    pose_2d, pose_3d, size = latency._windows(2, 4)
    for frame in range(4):
        given = (pose_2d[:, frame], pose_3d[:, frame], size)
        np.testing.assert_allclose(eager.step(*given), expected.step(*given), rtol=0, atol=1e-5)


def test_a_package_is_measured_beside_the_eager_model(tmp_path):
    assert all(package_of(name, tmp_path) is None for name in PACKAGES)
    (tmp_path / "paper-window").mkdir()
    (tmp_path / "paper-window" / "some.pt2").write_bytes(b"")
    assert package_of("paper-window", tmp_path) == tmp_path / "paper-window" / "some.pt2"
    missing, failed = {}, {}
    assert list(measured(tmp_path).row(1, RATES, missing, failed)["contestants"]) == [EAGER]
    assert not missing and not failed
    measured(tmp_path, package="bundled-window").row(1, RATES, missing, failed)
    assert list(missing) == ["paper, window, batch 1, aoti, launched", "paper, window, batch 1, aoti"]
    missing = {}
    measured(tmp_path, package="paper-window").row(1, RATES, missing, failed)
    assert not missing and list(failed) == ["paper, window, batch 1, aoti, launched", "paper, window, batch 1, aoti"]


def test_the_text_has_a_row_for_each_contestant():
    even = {"ratio": 2.0, "low": 1.5, "high": 2.5}
    entry = {"median_ms": 0.5, "p99_ms": 0.75, "calls": 50, "faster_than_first": even, "largest_difference_mm": 0.001}
    report = {
        "environment": {"gpu": "a card", "torch": "2.13"},
        "settings": {"toy": False, "device": "cuda"},
        "rates": RATES,
        "models": [{"model": "paper", "kind": "step", "batch": 8, "floor_ms": 0.1, "contestants": {GRAPH: entry}}],
        "kernels": [
            {
                "kernel": "p_mpjpe",
                "items": 1000,
                "rates": {"cpu": 1e6, "cuda": 5e6},
                "faster_than_cpu": even,
                "floor_items_per_s": 1e7,
            }
        ],
        "missing": {"aoti": "no compiler"},
        "failed": {},
    }
    text = format_latency(report)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    models = ["paper", "step", "8", GRAPH, "0.500", "0.750", "2.00 (1.50 to 2.50)", "16,000", "20%", "0.0010"]
    assert rows[2] == models and rows[-1] == ["p_mpjpe", "1,000", "1", "5", "2.00 (1.50 to 2.50)", "50.0%"]
    assert text.startswith("# Latency on a card") and text.endswith("missing: aoti: no compiler")


def test_rates_are_of_this_machine(monkeypatch):
    monkeypatch.setattr("refiner_bench.gpu.rates.SIZES", {"cpu": (64, 2**16)})
    assert all(rate > 1e6 for rate in device_rates("cpu").values())


def test_a_result_that_is_no_number_is_not_timed(tmp_path, monkeypatch):
    subject = measured(tmp_path)
    makers = {EAGER: lambda: lambda frame: np.zeros(3), GRAPH: lambda: lambda frame: np.array([0.0, np.nan, 0.0])}
    monkeypatch.setattr(subject, "_contestants", lambda batch: makers)
    failed = {}
    row = subject.row(1, RATES, {}, failed)
    assert failed == {f"paper, window, batch 1, {GRAPH}": f"nan mm from {EAGER}"} and list(row["contestants"]) == [
        EAGER
    ]


def test_an_engine_of_windows_is_opened_once(tmp_path, monkeypatch, capsys):
    subject, opened = measured(tmp_path), []

    def open_engine(*arguments, **options):
        opened.append(arguments)
        return lambda *arrays: arrays[1]

    monkeypatch.setattr(latency, "open_engine", open_engine)
    for batch in (1, 2):
        assert subject.row(batch, RATES, {}, {})["contestants"][EAGER]["calls"] > 0
    assert len(opened) == 1
    # The log tells where the time went.
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if f"to the first result: {EAGER}" in line]
    assert [line.split(":")[0] for line in told] == [f"paper, window, batch {batch}" for batch in (1, 2)]
    # Each risky thing is told before it is done.
    before = [f"paper, window, batch 1, {EAGER}: opening", f"paper, window, batch 1, {EAGER}: first call"]
    assert lines[:3] == [*before, f"paper, window, batch 1: timing {EAGER}"]


def test_a_report_that_is_cut_short_has_single_calls_first(tmp_path, monkeypatch):
    """A time box that ends at the first kernel leaves a row of every model."""
    written = []

    def stopped(*arguments):
        raise KeyboardInterrupt
        yield

    def row(self, batch, *arguments):
        return {"model": self._name, "kind": self._kind, "batch": batch, "contestants": {}, "floor_ms": 1.0}

    monkeypatch.setattr(latency, "device_rates", lambda device: RATES)
    monkeypatch.setattr(latency, "kernel_rows", stopped)
    monkeypatch.setattr(latency, "publish", lambda report, *rest: written.append(list(report["models"])))
    monkeypatch.setattr(Measured, "row", row)
    words = ["--device", "cpu", "--toy", "--output", str(tmp_path / "reports"), "--packages", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        latency._command(latency.build_parser().parse_args(words))
    found = [(row["model"], row["kind"], row["batch"]) for row in written[-1]]
    assert found == [(model, kind, 1) for model in ("bundled", "paper") for kind in ("window", "step")]


def test_a_package_adds_its_rows_to_the_report(tmp_path, monkeypatch):
    """What a job before it has measured stays, and its failures are not this job's."""

    def row(self, batch, *arguments):
        return {"model": self._name, "kind": self._kind, "batch": batch, "contestants": {}, "floor_ms": 1.0}

    monkeypatch.setattr(Measured, "row", row)
    reports = tmp_path / "reports"
    reports.mkdir()
    settings = {"device": "cpu", "toy": True}
    before = {"settings": settings, "environment": {"processor": "one", "torch": "2"}, "rates": RATES, "missing": {}}
    before |= {"models": [{"model": "earlier"} | row(measured(tmp_path), 1)], "kernels": [], "failed": {"a": "b"}}
    (reports / "latency.json").write_text(json.dumps(before))
    words = ["--device", "cpu", "--toy", "--output", str(reports), "--packages", str(tmp_path)]
    for package in ("bundled-window", "bundled-step-64"):
        assert latency._command(latency.build_parser().parse_args([*words, "--package", package])) == 0
    report = json.loads((reports / "latency.json").read_text())
    found = [(row["model"], row["kind"], row["batch"]) for row in report["models"]]
    assert found == [
        ("paper", "window", 1),
        *(("bundled", "window", batch) for batch in TOY.batches),
        ("bundled", "step", 64),
    ]
    assert report["failed"] == {"a": "b"} and report["rates"] == RATES


def test_kernels_have_a_time_of_their_own(monkeypatch):
    monkeypatch.setattr(latency, "kernel_rows", lambda *arguments: iter([{"kernel": name} for name in "abc"]))
    report = {"kernels": [], "missing": {}}
    latency._add_kernels(report, "cpu", Sizes(kernel_seconds=-1.0), RATES)
    assert [row["kernel"] for row in report["kernels"]] == ["a"] and list(report["missing"]) == ["further kernels"]
    report = {"kernels": [], "missing": {}}
    latency._add_kernels(report, "cpu", Sizes(kernel_seconds=1e9), RATES)
    assert [row["kernel"] for row in report["kernels"]] == ["a", "b", "c"] and not report["missing"]
