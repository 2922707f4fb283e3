"""The part "fused" of the quarter-hour: what it finds wrong, and a rehearsal on the CPU."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench.gpu import fused

from refiner import native


def test_a_rehearsal_on_the_cpu(tmp_path, monkeypatch, capsys):
    rates = ("float32_flops_per_s", "bfloat16_flops_per_s", "copy_bytes_per_s")
    monkeypatch.setattr(fused, "device_rates", lambda device: dict.fromkeys(rates, 1e12))
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *given, **more: None)  # it needs a real stderr
    file = tmp_path / "reports" / "fused.json"
    assert fused.main(["--device", "cpu", "--toy", "--output", str(file)]) == 0
    report = json.loads(file.read_text())
    assert [(row["model"], row["batch"]) for row in report["rows"]] == [
        (model, batch) for batch in (1, 2) for model in ("bundled", "paper")
    ]
    for row in report["rows"]:
        assert row["times_ms"].keys() == {fused.EAGER, fused.FUSED} and min(row["times_ms"].values()) > 0
        assert row["errors"][fused.FUSED][1] < 1 and row["memory_ms"] > 0
    assert report["engines"][0]["mean_distance_mm"] < 0.01 and not report["wrong"]
    assert "bundled, batch 2: floor" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["nan", "shift"])
def test_a_wrong_result_fails(monkeypatch, fault):
    usual, calls = fused.windows_of, []

    def broken(*given):
        calls.append(given)
        result = usual(*given)
        if len(calls) % 2 == 0:  # the one that is compared
            result[0, 0, 3] += np.nan if fault == "nan" else 0.1
        return result

    assert fused.check_small("cpu", (32,)) == []
    monkeypatch.setattr(fused, "windows_of", broken)
    assert len(fused.check_small("cpu", (32,))) == 2


def test_without_a_device(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "features", lambda: {"built": True, "cuda": False, "cuda_devices": 0})
    assert fused.main(["--device", "cuda", "--small", "--output", str(tmp_path / "fused.json")]) == 3
