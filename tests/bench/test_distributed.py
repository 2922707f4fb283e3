"""refiner-bench distributed: its contestants, their summary, and what is refused. No time is judged."""

from __future__ import annotations

import json
import statistics

import pytest

pytest.importorskip("torch")

from refiner_bench import distributed
from refiner_bench.cli import main
from refiner_bench.distributed import CONTESTANTS, Trained, distributed_report
from refiner_bench.measures import measures

from refiner.errors import RefinerError

# By the seed and the number of processes; the speeds by the number of processes.
ERRORS = {(0, 1): 50.0, (1, 1): 54.0, (0, 2): 51.0, (1, 2): 57.0}
SPEEDS = {1: 100.0, 2: 180.0}


def test_the_report(monkeypatch, tmp_path, capsys):
    asked = []

    def train(contestant, data, output, seed, steps, batch):
        assert (data / "data_3d_synthetic.npz").is_file() and (data / "clips.json").is_file()
        asked.append((contestant, seed, steps, batch))
        return Trained(ERRORS[seed, contestant.processes], SPEEDS[contestant.processes])

    monkeypatch.setattr(distributed, "_train", train)
    file = tmp_path / "distributed.json"
    assert main(["distributed", "--seeds", "2", "--steps", "8", "--batch", "6", "--json", str(file)]) == 0
    assert asked == [(contestant, seed, 8, 6) for seed in (0, 1) for contestant in CONTESTANTS.values()]
    report = json.loads(file.read_text())
    one, two = (report["contestants"][name] for name in ("one process", "two processes"))
    assert (one["mpjpe_mm"], two["mpjpe_mm"], report["difference_mm"]) == (52.0, 54.0, 2.0)
    assert one["sd_mm"] == pytest.approx(statistics.stdev([50.0, 54.0]))
    assert report["standard_error_mm"] == pytest.approx(((8 + 18) / 2) ** 0.5)
    assert report["speed_ratio"] == pytest.approx(1.8)
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if line.startswith("| two processes ")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["51.00", "57.00", "54.00 ± 4.24", "180", "90"]
    assert "differ from one by +2.00 mm" in text
    names = [measure.name for measure in measures(report)]
    assert names[:2] == [f"distributed: one process, {what}" for what in ("validation MPJPE", "speed")]


@pytest.mark.parametrize("words", [["--seeds", "1"], ["--steps", "3"], ["--batch", "1"]])
def test_what_is_refused(words, capsys):
    assert main(["distributed", *words]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.slow
def test_real_trainings():
    """Short ones: two processes draw and compute what one process with two parts does."""
    report = distributed_report(seeds=2, steps=4, batch=4)
    parted, two = (report["contestants"][name]["runs"] for name in ("one process, two parts", "two processes"))
    for here, there in zip(two, parted, strict=True):
        assert here["mpjpe_mm"] == pytest.approx(there["mpjpe_mm"], rel=1e-3) and here["windows_per_s"] > 0


def test_a_training_that_fails_says_why(tmp_path):
    with pytest.raises(RefinerError, match=r"a training of 1 processes failed:\n.*nowhere"):
        distributed._train(CONTESTANTS["one process"], tmp_path / "nowhere", tmp_path / "run", 0, 4, 4)
