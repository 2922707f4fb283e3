"""The rehearsal of the quarter-hour on the CPU."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from refiner_bench.gpu.command import NAME, main

from refiner.training.checkpoints import load_checkpoint
from refiner.training.travel import LIMIT

pytestmark = pytest.mark.slow


@pytest.mark.data
def test_a_rehearsal_reports_every_part_and_is_gone_on_from(motion_folder, tmp_path):
    common = ["--device", "cpu", "--toy", "--minutes", "0.6", "--data", str(motion_folder)]
    assert main([*common, "--parts", "check,train", "--output", str(tmp_path / "one")]) == 0
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    states = {part["name"]: part["status"] for part in summary["parts"]}
    assert states == {"check": "skipped", "train, none": "ok", "bring back": "ok"}
    assert max(path.stat().st_size for path in (tmp_path / "one").iterdir()) <= LIMIT
    again = ["--parts", "train", "--state", str(tmp_path / "one"), "--output", str(tmp_path / "two")]
    assert main([*common, *again]) == 0
    steps = [
        load_checkpoint(tmp_path / place / f"{NAME}.safetensors").config["metrics"]["step"] for place in ("one", "two")
    ]
    assert 0 < steps[0] < steps[1]


def test_a_part_that_fails_is_reported(tmp_path):
    missing = ["--data", str(tmp_path / "nothing")]
    options = ["--device", "cpu", "--toy", "--minutes", "0.6", "--parts", "train", "--output", str(tmp_path / "out")]
    assert main([*options, *missing]) == 4
    parts = json.loads((tmp_path / "out" / "summary.json").read_text())["parts"]
    assert [part["status"] for part in parts] == ["failed", "failed"] and parts[0]["exit_code"] != 0 and parts[0]["why"]
