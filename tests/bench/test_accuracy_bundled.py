"""The reports of the bundled models: a table of evaluations, run one by one."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from refiner_bench.accuracy.bundled import ROOT, Evaluation, load_evaluations, run_evaluations, select
from refiner_bench.cli import main

from refiner.errors import InputError, TrainingError
from refiner.evaluation.report import load_report


def test_the_table_names_models_and_reports_that_are_there():
    """Every report of it is committed, made by the options that stand beside it."""
    for entry in load_evaluations():
        report = load_report(ROOT / "bench" / "reports" / f"{entry.file}.json")
        words = entry.arguments
        kind = "random" if "--cameras" in words else "archive"
        assert report["data"]["cameras"]["kind"] == kind and report["settings"].get("live", False) is (
            "--live" in words
        )
        assert report["data"]["people"] == ["S2", "S14"]


def test_reports_are_written(tmp_path, capsys):
    table = tmp_path / "table.toml"
    table.write_text(
        '[[report]]\nfile = "a/first"\narguments = ["--cameras", "random", "--cameras-per-clip", "1", "--lifter", '
        '"bench/estimators/mixste-nano-rays.safetensors"]\n[[report]]\nfile = "other"\narguments = []\n'
    )
    words = ["accuracy", "--bundled", "--quick", "--table", str(table)]
    assert main([*words, "--rows", "a/first", "--reports", str(tmp_path)]) == 0
    report = load_report(tmp_path / "a" / "first.json")
    assert report["models"]["lifter"]["file"] == "mixste-nano-rays.safetensors"
    assert report["data"]["cameras"] == {"kind": "random", "number": 1, "seed": 77}
    assert "| MPJPE (mm)" in (tmp_path / "a" / "first.md").read_text()
    assert not (tmp_path / "other.json").exists() and "first.json" in capsys.readouterr().out
    assert main([*words, "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["a/first", "other"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--quick"], "--reports DIR says where"),
        (["--rows", "salad"], "no report salad"),
        (["--jobs", "2"], "--jobs: of the study"),
    ],
)
def test_what_cannot_be_asked(words, told, capsys, monkeypatch):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    assert main(["accuracy", "--bundled", *words]) != 0
    assert told in capsys.readouterr().err


def test_a_failed_evaluation_is_named(tmp_path, capsys):
    wrong = [Evaluation("one", ("--cameras", "random", "--pool-shape", "camera"))]
    with pytest.raises(TrainingError, match="one: refiner-evaluate"):
        run_evaluations(wrong, None, tmp_path)
    assert "--pool-shape camera" in capsys.readouterr().err
    (tmp_path / "no.toml").write_text("[[report]]\nfile = 'x'\n")
    with pytest.raises(InputError, match="no table of evaluations"):
        load_evaluations(tmp_path / "no.toml")
    with pytest.raises(InputError, match="the table has one"):
        select(wrong, ["two"])
