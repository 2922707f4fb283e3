"""refiner-bench native: the peers compute the same thing, and the report holds together."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench import timing
from refiner_bench.cli import main
from refiner_bench.native_kernels import numpy_p_mpjpe, torch_p_mpjpe
from refiner_bench.timing import interleaved, ratio_interval

from refiner import native
from refiner.errors import UsageError


def test_the_peers_give_what_the_kernel_gives():
    import torch

    target = np.random.default_rng(0).normal(size=(50, 17, 3))
    pred = target * [1, 1, -1] + np.random.default_rng(1).normal(scale=0.3, size=target.shape)
    expected = native.p_mpjpe(pred, target)
    np.testing.assert_allclose(numpy_p_mpjpe(pred, target), expected, rtol=1e-9)
    found = torch_p_mpjpe(torch.from_numpy(pred), torch.from_numpy(target)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_report_has_rates_ratios_and_floors(tmp_path, capsys):
    file = tmp_path / "native.json"
    assert main(["native", "--items", "2000", "--rounds", "3", "--threads", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["schema"] == "refiner-bench/native" and report["single_pose_us"] > 0
    for group in report["groups"].values():
        assert set(group["ratios"]) == set(group["rates"]) - {"native"}
        assert group["share_of_floor"] > 0 and group["bound_by"] in ("memory", "arithmetic")
        share = group["share_interval"]
        assert share["low"] <= share["ratio"] <= share["high"] and share["ratio"] == group["share_of_floor"]
        for ratio in group["ratios"].values():
            assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert "native is faster by" in capsys.readouterr().out


def test_rounds_turn_and_the_first_does_not_count():
    order = []
    contestants = {name: (1, lambda name=name: order.append(name)) for name in "abc"}
    rates = interleaved(contestants, 2)
    assert order == list("abc" + "bca" + "cab") and all(len(values) == 2 for values in rates.values())


def test_a_turn_is_filled_and_its_median_counts(monkeypatch):
    clock, calls = [0.0], []
    durations = iter([0.5, 0.1, 0.1, 0.1, 0.3])  # the first call of a turn is the slow one
    monkeypatch.setattr(timing.time, "sleep", lambda _: None)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def run():
        calls.append(clock[0])
        clock[0] += next(durations)

    (rate,) = interleaved({"a": (10, run)}, 1, warm_up=0, turn_s=0.75)["a"]
    assert len(calls) == 4 and rate == pytest.approx(100.0)


def test_the_interval_holds_the_median():
    found = ratio_interval(np.array([2.0, 2.1, 1.9, 2.0, 5.0]))
    assert found.ratio == 2.0 and found.low <= 2.0 <= found.high
    alone = ratio_interval(np.array([3.0]))
    assert (alone.low, alone.ratio, alone.high) == (3.0, 3.0, 3.0)


def test_intervals_of_few_rounds_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(5)
    found = [ratio_interval(4.0 * np.exp(rng.normal(0, 0.2, 7))) for _ in range(300)]
    assert sum(entry.low <= 4.0 <= entry.high for entry in found) >= 0.93 * len(found)


def test_counts_below_one_are_refused():
    from refiner_bench.native_kernels import native_report

    with pytest.raises(UsageError, match="at least 1"):
        native_report(0, 1, 1)
