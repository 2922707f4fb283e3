"""The rehearsal of the quarter-hour on the CPU, on built-in motion."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench.gpu.bring_back import MOST_BYTES, MOST_FILES, MOST_IN_A_FILE
from refiner_bench.gpu.command import main
from refiner_bench.gpu.training import PLANS

from refiner.data.synthetic import synthetic_archive, synthetic_description
from refiner.training.checkpoints import load_checkpoint

NAMES = [plan.name for plan in PLANS]


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    """A folder of three synthetic people."""
    folder = tmp_path_factory.mktemp("motion")
    positions = synthetic_archive(6, subjects=3, frames=90, actions=("Walking",))
    split = synthetic_description(positions)
    np.savez(folder / "data_3d_synthetic.npz", positions_3d=np.array(positions, dtype=object))
    people = {part: list(getattr(split, part)) for part in ("train", "validation", "test")}
    (folder / "clips.json").write_text(json.dumps({"fps": 50, "split": people}))
    return folder


def steps_of(folder):
    return {name: load_checkpoint(folder / f"{name}.safetensors").config["metrics"]["step"] for name in NAMES}


def summary_of(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return summary, {part["name"]: part["status"] for part in summary["parts"]}


@pytest.mark.slow
def test_a_rehearsal_reports_every_part_and_is_gone_on_from(motion, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["--device", "cpu", "--toy", "--data", str(motion), "--minutes", "5"]
    # What the ordinary build made, too, is not built again.
    assert main([*common, "--parts", "check,latency,train", "--output", str(one)]) == 0
    summary, states = summary_of(one)
    trained = {f"{name}, none": "ok" for name in NAMES}
    skipped = dict.fromkeys(("check", "sanitizer", "tests"), "skipped")
    assert states == {**skipped, "latency": "ok", **trained, "bring back": "ok"}
    assert all(summary["training"][name]["windows_per_s"] > 0 for name in NAMES) and not summary["left_out"]
    files = list(one.rglob("*"))
    sizes = [path.stat().st_size for path in files]
    assert len(files) <= MOST_FILES and max(sizes) <= MOST_IN_A_FILE and sum(sizes) <= MOST_BYTES
    latency = json.loads((one / "latency.json").read_text())
    assert len(latency["models"]) == 8 and len(latency["kernels"]) == 3 and not latency["failed"]
    assert all(row["contestants"]["torch, eager"]["median_ms"] > 0 for row in latency["models"])

    # The state of the second is lost, that of the first is whole.
    (one / f"{NAMES[1]}.state-1-of-1").write_bytes(b"{}\n")
    before = steps_of(one)
    assert main([*common, "--parts", "train", "--state", str(one), "--output", str(two)]) == 4
    lost = {f"{NAMES[1]}, state": "failed", f"{NAMES[1]}, weights": "ok"}
    assert summary_of(two)[1] == {f"{NAMES[0]}, state": "ok", **lost, **trained, "bring back": "ok"}
    assert all(0 < before[name] < after for name, after in steps_of(two).items())


@pytest.mark.slow
def test_a_part_that_fails_is_reported(tmp_path):
    options = ["--device", "cpu", "--toy", "--parts", "train", "--output", str(tmp_path / "out")]
    assert main([*options, "--data", str(tmp_path / "nothing")]) == 4
    summary, states = summary_of(tmp_path / "out")
    assert set(states.values()) == {"failed"} and len(states) == len(NAMES) + 1
    assert "nothing" in summary["parts"][0]["why"] and summary["parts"][0]["exit_code"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parts", "check,paint"], "expected some of build, check, latency, train"),
        (["--minutes", "0"], "a time above 0"),
        (["--parts", "train"], "training needs --data"),
        (["--state", "not-there", "--data", "."], "not-there: there is no such folder"),
    ],
)
def test_wrong_options_cost_no_time(options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    assert main(["--device", "cpu", *options, "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
