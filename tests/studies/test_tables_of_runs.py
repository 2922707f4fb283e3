"""Tables of runs beside the study's own: each row has a configuration that describes a model, and runs as a toy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from refiner_bench.untrained import describe  # noqa: E402

import studies  # noqa: E402
from refiner.evaluation.paper_tables import format_paper_table, paper_table  # noqa: E402
from refiner.evaluation.study_rows import load_reports  # noqa: E402
from refiner.model_files.build import build_model  # noqa: E402
from refiner.training.config import load_config  # noqa: E402
from studies.accuracy.command import main  # noqa: E402
from studies.accuracy.table import load_table  # noqa: E402

TABLES = sorted(Path(studies.__file__).parent.glob("*.toml"))


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_every_row_describes_a_model(file):
    table = load_table(file)
    assert table.title != "Accuracy study" and table.rows
    for row in table.rows:
        if not row.trained:
            continue
        config = load_config(row.config, table.overrides(row))
        with torch.device("meta"):
            model = build_model(describe(config))
        assert config.kind == row.kind and sum(value.numel() for value in model.parameters()) > 0
        if row.kind == "refiner":
            lifter = table.row(row.lifter)
            frames = 27 if lifter.checkpoint else load_config(lifter.config, table.overrides(lifter)).frames
            assert frames == config.frames
        # What a row learns from is what it is scored on.
        assert table.variants[row.data].detections == config.data.detections


def test_the_lifters_table_has_every_pair_at_every_length():
    (file,) = (file for file in TABLES if file.stem == "lifters")
    names = {row.name for row in load_table(file).rows}
    for lifter in ("stcformer", "mixste", "finepose"):
        for kind in ("", "-81", "-243", "-gt"):
            assert {f"{lifter}{kind}", f"{lifter}{kind}-refined", f"{lifter}{kind}-smoothed"} <= names
    assert {f"finepose-{prompts}" for prompts in ("none", "m", "s", "c", "al")} <= names


@pytest.mark.slow
def test_lifters_their_refiner_and_smoothnet_run_as_toys(tmp_path, capsys):
    (file,) = (file for file in TABLES if file.stem == "lifters")
    rows = ["stcformer-refined", "mixste-refined", "finepose-refined", "mixste-smoothed", "d3dp", "mixste-gt-refined"]
    rows += ["finepose-unknown", "finepose-label"]
    out = tmp_path / "report.json"
    arguments = ["--table", str(file), "--rows", *rows, "--jobs", "1", "--output", str(tmp_path / "runs")]
    assert main(["--quick", *arguments, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(rows) <= {row["name"] for row in report["rows"]} and "mixste-243" in report["missing"]
    entered = dict(load_reports(out))
    assert "report, finepose-refined" in entered and "report, finepose-label" not in entered
    table = format_paper_table(paper_table("II", list(entered.items())))
    assert "MixSTE + D3PRefiner" in table and "report, mixste-gt: " in table and "Not of this table: " in table
    gains = {row["name"]: row["test"]["gains"].get("lifter") for row in report["rows"]}
    assert gains["finepose-label"]["mpjpe"]["percent"] != 0 and gains["finepose"] is None
    scored = {row["name"]: row["test"]["metrics"]["mpjpe"]["frame_mean"] for row in report["rows"]}
    assert len({scored[name] for name in ("finepose", "finepose-unknown", "finepose-label")}) == 3
    text = capsys.readouterr().out
    assert "# The lifters and what refines them" in text and "MPJPE gain over the control" not in text
