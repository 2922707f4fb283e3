"""The whole study as toys on built-in motion: every row runs, is found again, and reaches report and pictures."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from refiner_bench.accuracy.table import load_table
from refiner_bench.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished quick study."""
    folder = tmp_path_factory.mktemp("study")
    files = ["--json", str(folder / "report.json"), "--markdown", str(folder / "report.md")]
    assert main(["accuracy", "--quick", "--jobs", "1", "--output", str(folder / "runs"), *files,
                 "--pictures", str(folder / "pictures")]) == 0  # fmt: skip
    return folder


def test_every_row_is_in_the_report(study):
    report = json.loads((study / "report.json").read_text())
    assert (report["schema"], report["missing"]) == ("refiner-bench/accuracy", [])
    table = load_table(quick=True)
    assert [row["name"] for row in report["rows"]] == [row.name for row in table.rows]
    for row in report["rows"]:
        assert row["test"]["frames"] > 0 and row["test"]["clips"] > 1
        assert row["test"]["metrics"]["mpjpe"]["frame_mean"] > row["test"]["metrics"]["p_mpjpe"]["frame_mean"] > 0
        assert ("lifter" in row["test"]["gains"]) == (row["kind"] != "lifter")
        if row["kind"] != "score" and not row["checkpoint"]:
            assert row["training"]["steps"] == 4 and row["training"]["windows"] == 16
        if row["detail"]:
            place = row["test"]["extra"]["by_place"]
            assert len(place) == row["training"]["frames"] and min(place) > 0
            assert abs(sum(row["test"]["extra"]["premise"]["density"]) * 0.2 - 1) < 0.05
    text = (study / "report.md").read_text()
    assert "Toy models" in text and all(f"| {row.name}" in text for row in table.rows)


def test_the_score_of_a_row_is_that_of_the_runtime(study):
    """K = 1 and K = 5 of one checkpoint differ, and the same lifter is the same before all of them."""
    rows = {row["name"]: row for row in json.loads((study / "report.json").read_text())["rows"]}
    errors = {name: rows[name]["test"]["metrics"]["mpjpe"]["frame_mean"] for name in ("full", "one-step", "five-steps")}
    assert len(set(errors.values())) == 3
    difference = rows["full"]["test"]["gains"]["lifter"]["mpjpe"]["difference"]
    lifter = rows["lifter"]["test"]["metrics"]["mpjpe"]["frame_mean"]
    assert abs(lifter - errors["full"] - difference) < 1e-6
    for name in ("lifter", "bundled", "single-lifter"):
        pooled, plain = rows[f"{name}-one-shape"]["test"]["metrics"], rows[name]["test"]["metrics"]
        assert pooled["mpjpe"]["frame_mean"] != plain["mpjpe"]["frame_mean"]
        # Gains are over the lifter as it is, however a row has it lift.
        best, before = rows[f"{name}-at-its-best"]["test"], rows["single-lifter" if "single" in name else "lifter"]
        difference = best["gains"]["lifter"]["mpjpe"]["difference"]
        found = before["test"]["metrics"]["mpjpe"]["frame_mean"] - best["metrics"]["mpjpe"]["frame_mean"]
        assert abs(found - difference) < 1e-6 and best["metrics"] != pooled


def test_pictures_are_drawn(study):
    names = {path.name for path in (study / "pictures").iterdir()}
    assert {
        "gains.png",
        "learning-curves.png",
        "error-histogram.png",
        "premise-full.png",
        "error-by-place.png",
    } <= names
    assert {"premise-full.png", "skeletons-full.png", "skeletons-full-noise.png", "error-by-joint.png"} <= names


def test_a_second_call_trains_nothing(study, monkeypatch, capsys):
    import refiner.training.runs

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(refiner.training.runs, "train", refuse)
    before = (study / "runs" / "full" / "seed-0" / "scores.json").stat().st_mtime_ns
    assert main(["accuracy", "--quick", "--jobs", "1", "--output", str(study / "runs"), "--rows", "linear"]) == 0
    assert (study / "runs" / "full" / "seed-0" / "scores.json").stat().st_mtime_ns == before
    assert "the published method" in capsys.readouterr().out
