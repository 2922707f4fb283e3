"""The variants of a layer that are measured on a device."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from refiner_bench.gpu import operations
from refiner_bench.gpu.operations import VARIANTS, measured
from refiner_bench.gpu.profile_step import STEPS

from refiner.models import fused, fusible
from refiner.models.stc import STCAttention
from refiner.training.scenes.replayed import FIRST_BATCHES


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_measured_with_its_parts_as_sums(variant, monkeypatch):
    """Compiling is left out: this machine has no device to compile for."""
    compiled, parts = [], []
    monkeypatch.setattr(STCAttention, "compile", lambda self: compiled.append(self))
    usual = operations.timed
    monkeypatch.setattr(operations, "timed", lambda *given: parts.append(fusible._parts) or usual(*given))
    with fused.attention_by("plain"):
        found = measured(16, VARIANTS[variant], torch.device("cpu"), 2)
    assert found["wall_ms"] > 0 and found["device_ms"] >= found["rows"][0]["ms"] > 0
    assert parts == [VARIANTS[variant] or ()] and len(compiled) == (variant != "eager")
    assert fusible._parts == ("attention", "convolution")


def test_a_batch_of_scenes_is_measured_both_ways(monkeypatch):
    """The graph is left out: its batches are those of the sampler."""
    taken = []

    class Replayed:
        def __init__(self, scenes):
            self._scenes = scenes

        def batch(self, step):
            taken.append(step)
            return self._scenes.batch(step)

    monkeypatch.setattr(operations, "ReplayedScenes", Replayed)
    found = operations.scenes_measured(torch.device("cpu"), 2)
    assert found.keys() == {"host_ms", "wall_ms", "replayed_host_ms", "replayed_wall_ms"} and min(found.values()) > 0
    # The graph is there before its time is taken.
    assert len(taken) == FIRST_BATCHES + 1 + STEPS


def test_without_a_device_there_is_nothing_to_measure(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert operations.main(["--output", str(tmp_path / "out.json")]) == 3
    assert "no CUDA device" in capsys.readouterr().err
