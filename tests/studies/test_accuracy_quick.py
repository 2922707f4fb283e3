"""The whole study as toys on built-in motion: every row runs, is found again, and reaches report and pictures."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import numpy as np
import torch

from refiner.errors import TrainingError
from refiner.model_files.checkpoint import load_checkpoint
from refiner.runtime import Lifter, Refiner
from refiner.shape import pool_together
from refiner.training.loop import LAST_FILE
from studies.accuracy.clips import study_clips
from studies.accuracy.command import main
from studies.accuracy.runner import Runner
from studies.accuracy.spec import Spec
from studies.accuracy.table import TABLE, load_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a finished quick study."""
    folder = tmp_path_factory.mktemp("study")
    files = ["--json", str(folder / "report.json"), "--markdown", str(folder / "report.md")]
    assert main(["--quick", "--jobs", "1", "--output", str(folder / "runs"), *files,
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


@pytest.fixture
def runner(study):
    """The runner of the finished quick study."""
    return Runner(spec := Spec(TABLE, None, study / "runs", True, 1), *spec.load())


def test_the_mirrored_passes_are_the_runtime_s(runner):
    """Both the lifter and the refiner run mirrored; the body shape comes after both."""
    clip, before, found = runner.refined_test_clip(runner.table.row("bundled-at-its-best"), 0, 0)
    lifter, refiner = (runner.checkpoint(name, 0) for name in ("lifter", "bundled"))
    lifted = Lifter.load(lifter, flip_test=True, threads=1).lift(clip.pose_2d, clip.image_size, clip.fps)
    best = Refiner.load(refiner, flip_test=True, pool_shape=True, threads=1)
    expected = best.refine(clip.pose_2d, lifted, clip.image_size, fps=clip.fps)
    np.testing.assert_allclose(found, expected - expected[:, :1], atol=1e-5)
    plain = Lifter.load(lifter, threads=1).lift(clip.pose_2d, clip.image_size, clip.fps)
    np.testing.assert_allclose(before, plain - plain[:, :1], atol=1e-5)


@pytest.mark.parametrize("name", ["bundled-one-person-smoothed", "bundled-one-person-one-camera"])
def test_one_shape_of_a_person_is_the_runtime_s(runner, name):
    """Smoothed or not, by all cameras or by one; kept poses are what the refiner says."""
    row = runner.table.row(name)
    lifter = Lifter.load(runner.checkpoint("lifter", 0), flip_test=True, threads=1)
    refiner = Refiner.load(runner.checkpoint("bundled", 0), flip_test=True, smoothing=row.smooth, threads=1)
    clips = study_clips(runner.folder, "test", runner.table.variants["default"])
    poses = []
    for clip in clips:
        lifted = lifter.lift(clip.pose_2d, clip.image_size, clip.fps)
        pose = refiner.refine(clip.pose_2d, lifted, clip.image_size, fps=clip.fps)
        poses.append(pose - pose[:, :1])
    people = [clip.subject if row.shape_of == "person" else (clip.subject, clip.camera) for clip in clips]
    expected = pool_together(poses, people)
    for index in (0, len(clips) - 1):
        np.testing.assert_allclose(runner.refined_test_clip(row, 0, index)[2], expected[index], atol=1e-5)


def test_scores_are_not_of_a_checkpoint_that_came_while_they_were_made(runner, monkeypatch):
    row = runner.table.row("linear")
    checkpoint, file = runner.checkpoint("full", 0), runner.run_folder(row, 0) / "scores.json"
    content, scored = checkpoint.read_bytes(), file.read_text()
    own = runner.scores(row, 0)
    file.unlink()

    def score(*_):
        checkpoint.write_bytes(runner.checkpoint("no-condition", 0).read_bytes())
        return own

    monkeypatch.setattr(runner, "_score", score)
    try:
        runner.run(row, 0)
        assert runner.scores(row, 0) is None
        checkpoint.write_bytes(content)
        assert runner.scores(row, 0) == own
    finally:
        checkpoint.write_bytes(content)
        file.write_text(scored)


CHAIN = """
[quick]
lifter = ["model.dim=16", "model.blocks=1", "model.heads=4", "model.mlp_ratio=2", "training.batch=4"]
[[row]]
name = "first"
title = "t"
group = "g"
kind = "lifter"
config = "lifter-small"
set = ["training.steps=4", "training.validate_every=2"]
[[row]]
name = "second"
title = "t"
group = "g"
kind = "lifter"
config = "lifter-small"
start_from = "first"
set = ["training.steps=2", "training.validate_every=1", "optimiser.rate=1e-12", "optimiser.name=adam"]
[[row]]
name = "bad"
title = "t"
group = "g"
kind = "lifter"
config = "lifter-small"
set = ["training.steps=2", "training.validate_every=1", "data.bones=-1e9"]
"""


def test_a_row_starts_from_another_and_a_bad_one_leaves_its_traceback(tmp_path, capsys):
    table = tmp_path / "table.toml"
    table.write_text(CHAIN)
    command = ["--quick", "--table", str(table), "--output", str(tmp_path / "runs"), "--jobs", "2"]
    assert main([*command, "--json", str(tmp_path / "report.json")]) == TrainingError.exit_code
    said = capsys.readouterr().err
    assert "bad, seed 0: " in said and "bad (seed 0)" in said
    assert "Traceback" in (tmp_path / "runs" / "bad" / "seed-0" / "log.txt").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["first", "second"] and report["missing"] == ["bad"]
    first, second = (load_checkpoint(tmp_path / "runs" / name / "seed-0" / LAST_FILE) for name in ("first", "second"))
    for name, value in first.state().items():
        torch.testing.assert_close(second.state()[name], value, rtol=1e-5, atol=1e-7)


def test_rows_are_held_against_what_is_scored_like_them(study):
    rows = {row["name"]: row for row in json.loads((study / "report.json").read_text())["rows"]}
    errors = {name: row["test"]["metrics"]["mpjpe"]["frame_mean"] for name, row in rows.items()}
    for name, rival in (("bundled", "single-lifter"), ("bundled-one-shape", "single-lifter-one-shape"),
                        ("bundled-at-its-best", "single-lifter-at-its-best"), ("lifter", "single-lifter")):  # fmt: skip
        found = rows[name]["test"]["gains"]["single-lifter"]["mpjpe"]["difference"]
        assert abs(found - (errors[rival] - errors[name])) < 1e-6
    # The conditional mean has been scored as it is alone, and says nothing of other lifters and other clips.
    for name in ("bundled-one-shape", "bundled-on-other-lifter", "other-lifter", "new-cameras"):
        assert "linear" not in rows[name]["test"]["gains"]
    assert set(rows["bundled-on-other-lifter"]["test"]["gains"]) == {"lifter"}


def test_rows_that_are_not_here_come_from_an_earlier_report(study, tmp_path, capsys):
    """One row and what it needs is run again; what was scored with the replaced checkpoint does not count, nor does
    what the table does not know any more."""
    earlier = tmp_path / "earlier.json"
    content = json.loads((study / "report.json").read_text())
    content["rows"].append(content["rows"][0] | {"name": "of-long-ago"})
    for row in content["rows"]:
        if row["name"] in ("one-step", "five-steps"):
            row["checkpoints"]["full"] = "trained elsewhere"
    earlier.write_text(json.dumps(content))
    command = ["--quick", "--jobs", "1", "--output", str(tmp_path / "runs"), "--rows", "linear"]
    assert main([*command, "--earlier", str(earlier), "--json", str(tmp_path / "report.json")]) == 0
    joined, whole = (json.loads(path.read_text()) for path in (tmp_path / "report.json", earlier))
    assert joined["missing"] == ["one-step", "five-steps"]
    assert list(joined["left_out"]) == ["one-step", "five-steps", "of-long-ago"]
    assert "five-steps: not taken from" in capsys.readouterr().err
    known = {row["name"]: row for row in whole["rows"]}
    for row in joined["rows"]:
        if row["name"] not in ("lifter", "full", "linear"):
            same = [dict(entry, test=dict(entry["test"], gains=None)) for entry in (row, known[row["name"]])]
            assert same[0] == same[1]
        assert set(row["test"]["gains"]) == set(known[row["name"]]["test"]["gains"])
        for rival, gain in row["test"]["gains"].items():
            expected = known[row["name"]]["test"]["gains"][rival]["mpjpe"]
            np.testing.assert_allclose(gain["mpjpe"]["difference"], expected["difference"], atol=0.01)


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
    assert main(["--quick", "--jobs", "1", "--output", str(study / "runs"), "--rows", "linear"]) == 0
    assert (study / "runs" / "full" / "seed-0" / "scores.json").stat().st_mtime_ns == before
    assert "the published method" in capsys.readouterr().out
