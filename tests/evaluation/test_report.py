"""Reports: what they hold, their JSON round trip, and how they print."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.errors import ArchiveError, InputError, UsageError
from refiner.evaluation import EvaluationResult, Sequence, evaluate_sequences
from refiner.evaluation.report import build_report, curve_line, format_report, load_report
from refiner.evaluation.tables import markdown_table, text_table
from refiner.reports import write_report

CLIPS = [("Walking", 20), ("Walking 1", 12), ("Sitting", 30), ("Jumping", 2)]


def scored(noise_mm: float, seed: int = 0) -> EvaluationResult:
    rng = np.random.default_rng(seed)
    sequences = []
    for name, frames in CLIPS:
        target = rng.normal(0.0, 0.3, (frames, 17, 3))
        for camera in "ab":
            noise = rng.normal(0.0, noise_mm / 1000.0, target.shape)
            sequences.append(Sequence(name, "S2", name.split(" ")[0], camera, target + noise, target))
    return evaluate_sequences(sequences)


@pytest.fixture
def report() -> dict:
    columns = {"lifter": scored(40.0), "linear": scored(36.0), "refined": scored(30.0)}
    curve = [{"step": 100.0 * n, "mpjpe_mm": 120.0 - n} for n in range(30)]
    return build_report(
        columns,
        data={"description": "random poses", "subjects": ["S2"]},
        acknowledgement="thanks",
        validation_curve=curve,
        resamples=200,
    )


def test_the_numbers_are_the_results(report):
    columns = {"lifter": scored(40.0), "linear": scored(36.0), "refined": scored(30.0)}
    for metric, entry in report["metrics"].items():
        for label, result in columns.items():
            assert entry["frame_mean"][label] == result.frame_mean(metric)
            assert entry["action_mean"][label] == result.action_mean(metric)
    assert report["metrics"]["acceleration_error"]["per_action"]["refined"]["Jumping"] is None
    assert report["counts"]["per_action"]["Walking"] == {"clips": 2, "sequences": 4, "frames": 64}
    assert report["counts"]["clips"] == 4 and report["counts"]["frames"] == 128
    gains = {(gain["metric"], gain["from"], gain["to"]): gain for gain in report["gains"]}
    assert set(gains) == {
        (metric, *pair)
        for metric in report["metrics"]
        for pair in (("lifter", "linear"), ("lifter", "refined"), ("linear", "refined"))
    }
    gain = gains["mpjpe", "linear", "refined"]
    assert gain["difference"] == pytest.approx(gain["before"] - gain["after"])
    assert gain["difference_low"] <= gain["difference"] <= gain["difference_high"]
    row = report["sequences"][0]
    assert (row["subject"], row["clip"], row["camera"], row["frames"]) == ("S2", "Walking", "a", 20)
    assert row["mpjpe"]["lifter"] == columns["lifter"].sequences[0].mean("mpjpe")


def test_json_round_trip(report, tmp_path):
    path = tmp_path / "deep" / "report.json"
    write_report(path, report)
    assert load_report(path) == report
    assert format_report(load_report(path)) == format_report(report)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_nan_is_written_as_null(report, tmp_path):
    path = tmp_path / "report.json"
    write_report(path, report | {"settings": {"bad": float("nan"), "worse": [float("inf")]}})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert load_report(path)["settings"] == {"bad": None, "worse": [None]}


def test_foreign_files_are_refused(report, tmp_path):
    path = tmp_path / "report.json"
    for text in ("", "{", "[]", '{"format": "other"}', json.dumps(report | {"version": "99"})):
        path.write_text(text)
        with pytest.raises(ArchiveError, match=r"report\.json"):
            load_report(path)
    with pytest.raises(ArchiveError, match="missing"):
        load_report(tmp_path / "missing.json")


@pytest.mark.parametrize("markdown", [False, True])
def test_the_printed_report(report, markdown):
    text = format_report(report, markdown=markdown)
    for expected in (
        "Data: random poses",
        "frame-wise",
        "action-wise",
        "Walking",
        "95 %",
        "Acknowledgement: thanks",
    ):
        assert expected in text
    assert "4 clips, 8 clip-and-camera sequences, 128 frames" in text
    jumping = [line for line in text.splitlines() if "Jumping" in line]
    assert len(jumping) == 3 and "-" not in jumping[0] and jumping[2].rstrip(" |").endswith("-")
    assert "lifter -> refined" in text and "linear -> refined" in text
    assert f"{report['metrics']['mpjpe']['frame_mean']['refined']:.1f}" in text
    assert ("| metric" in text) == markdown


def test_the_printed_report_says_how_it_was_scored(report):
    plain = format_report(report)
    settings = {"flip_test": True, "pool_shape": True, "shape_of": "person", "smoothing": True, "engine": None}
    told = format_report(report | {"settings": settings})
    (added,) = set(told.splitlines()) - set(plain.splitlines())
    assert added == (
        "How: averaged with the mirrored pass; refined poses smoothed; refined poses with one body shape a person."
    )
    assert "body shape a clip" in format_report(report | {"settings": {"pool_shape": True}})


def test_one_column_has_no_gains():
    report = build_report({"lifter": scored(40.0)}, data={"description": "random poses"})
    assert report["gains"] == [] and "Reduction" not in format_report(report)


def test_a_single_clip_prints_without_intervals():
    target = np.random.default_rng(1).normal(size=(9, 17, 3))
    columns = {
        label: evaluate_sequences([Sequence("Walking", "S2", "Walking", "0", target * scale, target)])
        for label, scale in (("lifter", 1.1), ("refined", 1.05))
    }
    report = build_report(columns, data={"description": "one clip"})
    assert report["gains"][0]["difference_low"] is None
    assert "50.00" in format_report(report)


def test_columns_must_fit_together():
    with pytest.raises(InputError, match="same sequences"):
        build_report(
            {"lifter": scored(40.0), "refined": EvaluationResult(scored(30.0).sequences[1:])},
            data={"description": "random poses"},
        )
    with pytest.raises(UsageError):
        build_report({}, data={"description": "nothing"})
    with pytest.raises(UsageError):
        build_report({"lifter": scored(40.0)}, data={})


def test_the_curve_is_compact(report):
    line = curve_line(report)
    assert "\n" not in line and line.count("(") == 9
    assert "120.0 (0)" in line and "91.0 (2900)" in line and "best 91.0" in line
    assert curve_line(report | {"lifter_validation_curve": None}) == ""
    assert "80.0 (5)" in curve_line({"lifter_validation_curve": [{"step": 5, "mpjpe_mm": 80.0}]})


def test_tables_align():
    header, rows = ["name", "value"], [["a", "1.0"], ["longer", "10.25"]]
    assert text_table(header, rows).splitlines() == [
        "name    value",
        "------  -----",
        "a         1.0",
        "longer  10.25",
    ]
    lines = markdown_table(header, [["a|b", "1.0"]]).splitlines()
    assert lines == ["| name | value |", "| :--- | ----: |", "| a\\|b |   1.0 |"]
