"""The profile of a training step, on the CPU."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from refiner_bench.gpu import profile_step
from refiner_bench.gpu.profile_step import (
    NAME_CHARACTERS,
    ROWS,
    STEPS,
    WARM_UP,
    KernelTime,
    kernels_of,
    profiled,
    table,
)

from refiner.data.synthetic import synthetic_folder
from refiner.training.config import load_config
from refiner.training.runs import prepare_lifter

TOY = ("model.dim=16", "model.blocks=1", "frames=9", "training.batch=2", "training.device=cpu", "training.threads=1")
TOY += ("training.compile=none", "training.precision=float32")


def event(name, kind, micros, annotation=False):
    span = SimpleNamespace(elapsed_us=lambda: micros)
    device = SimpleNamespace(name=kind)
    return SimpleNamespace(
        name=name, device_type=device, time_range=span, self_cpu_time_total=micros, is_user_annotation=annotation
    )


def test_kernels_are_summed_by_name_for_a_step():
    long = "kernel" * 40
    events = [event("slow", "CUDA", 3000.0), event("slow", "CUDA", 5000.0), event(long, "CUDA", 500.0)]
    events += [event("Optimizer.step", "CUDA", 9000.0, True), event("aten::mm", "CPU", 70.0)]
    found = table(events, True, 2)
    assert found == [
        KernelTime("slow", 1.0, 4.0),
        KernelTime(long[:NAME_CHARACTERS], 0.5, 0.25),
    ]
    assert table(events, False, 2) == [KernelTime("aten::mm", 0.5, 0.035)]


def test_a_call_is_taken_apart():
    left = torch.ones(64, 64)
    rows = {row.name: row for row in kernels_of(lambda step: (left @ left, left @ left), torch.device("cpu"))}
    assert rows["aten::mm"].calls == 2 and rows["aten::mm"].ms > 0


def test_a_step_of_a_plan_is_profiled():
    prepared = prepare_lifter(
        load_config("lifter-small-rays", TOY), synthetic_folder(5, subjects=3, frames=60, actions=("Walking",))
    )
    taken, batch = [], prepared.sampler.batch
    prepared.sampler.batch = lambda step: taken.append(step) or batch(step)
    found = profiled("toy", prepared)
    # The batch is timed alone, with the step, and profiled alone; the step is profiled on one batch.
    assert len(taken) == WARM_UP + 1 + 3 * STEPS
    assert found["wall_ms"] >= found["host_ms"] > 0 and found["batch_kernels"] > 100
    assert len(found["rows"]) == ROWS and found["rows"][0]["ms"] >= found["rows"][-1]["ms"] > 0
    # No draw of the batch is counted for the step.
    assert not any(row["name"] == "aten::randn" for row in found["rows"])
    assert found["device_ms"] >= sum(row["ms"] for row in found["rows"])


def test_every_plan_is_profiled_and_one_that_fails_leaves_the_others(tmp_path, monkeypatch):
    (tmp_path / "plans.json").write_text(json.dumps({"a": ["1"], "b": ["2"]}))
    loaded = []

    def prepared(words, folders):
        loaded.append(words)
        if words == ["1"]:
            raise OSError("there is no file\nat all")
        return words

    monkeypatch.setattr(profile_step, "_prepared", prepared)
    monkeypatch.setattr(profile_step, "_by_way", lambda prepared, way: (prepared, way))
    monkeypatch.setattr(profile_step, "profiled", lambda name, made: {"wall_ms": 1.0, "made": made})
    words = ["--plans", str(tmp_path / "plans.json"), "--output", str(tmp_path / "out.json"), "--seconds"]
    assert profile_step.main([*words, "1000", "--compiled"]) == 4
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["a"] == {way: {"failed": "there is no file"} for way in profile_step.WAYS}
    assert found["b"] == {way: {"wall_ms": 1.0, "made": [["2"], way]} for way in profile_step.WAYS}
    # What is loaded serves both ways.
    assert loaded.count(["2"]) == 1
    assert profile_step.main([*words, "1000"]) == 4
    assert json.loads((tmp_path / "out.json").read_text())["b"].keys() == {"none"}
