"""Rows of an earlier report: what is taken over, what is not, and intervals from the means of clips."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench.accuracy.markdown import GAIN_METRICS, format_accuracy

from refiner.errors import UsageError
from refiner.evaluation.bootstrap import bootstrap_difference
from refiner.evaluation.protocol import EvaluationResult, SequenceScore
from studies.accuracy.earlier import clip_means, earlier_row, load_earlier, result_of
from studies.accuracy.rows import record_of
from studies.accuracy.table import TABLE, load_table

RNG = np.random.default_rng(8)
SETTINGS = {"archive": "data_3d_x.npz", "quick": False, "validation": ["S5"], "test": ["S2"], "resamples": 100}
MACHINE = {"processor": "A", "logical_processors": 2}


class StandIn:
    """As much of a runner as decides whether a row counts."""

    def __init__(self, digests, table=None):
        self.table, self.found = load_table() if table is None else table, digests

    def recipe(self, row):
        return json.dumps(self.table.recipe(row))

    def digests(self, row, seed):
        return {name: self.found[name] for name in row.models if name in self.found}


def report_of(*names, **changes):
    table = load_table()
    rows = [
        json.loads(json.dumps(record_of(table.row(name))))
        | {
            "seeds": [0],
            "checkpoints": {"lifter": "aa"},
            "recipe": json.dumps(table.recipe(table.row(name))),
            **changes,
        }
        for name in names
    ]
    return {
        "schema": "refiner-bench/accuracy",
        "environment": MACHINE | {"torch": "2"},
        "settings": SETTINGS | {"seeds": [0]},
        "variants": {name: asdict(variant) for name, variant in table.variants.items()},
        "rows": rows,
    }


def evaluation(clips=6, cameras=3):
    scores = []
    for clip in range(clips):
        for camera in range(cameras):
            frames = int(RNG.integers(5, 90))
            counts = {"mpjpe": frames, "p_mpjpe": frames, "acceleration_error": frames - 2}
            sums = {metric: float(count * RNG.uniform(20, 80)) for metric, count in counts.items()}
            scores.append(SequenceScore(f"Walk {clip}", f"S{clip % 2}", "Walk", str(camera), frames, sums, counts))
    return EvaluationResult(tuple(scores))


@pytest.mark.parametrize("metric", GAIN_METRICS)
def test_the_means_of_clips_give_the_interval_of_the_sequences(metric):
    before = evaluation()
    sums = [{name: value * RNG.uniform(0.7, 1.0) for name, value in score.sums.items()} for score in before.sequences]
    after = EvaluationResult(
        tuple(
            SequenceScore(score.name, score.subject, score.action, score.camera, score.frames, better, score.counts)
            for score, better in zip(before.sequences, sums, strict=True)
        )
    )
    kept = json.loads(json.dumps(clip_means(after, GAIN_METRICS)))
    assert [(clip["subject"], clip["name"]) for clip in kept] == after.clips
    found = bootstrap_difference(
        result_of(clip_means(before, GAIN_METRICS), GAIN_METRICS), result_of(kept, GAIN_METRICS), metric, resamples=500
    )
    expected = bootstrap_difference(before, after, metric, resamples=500)
    for name in ("difference", "difference_low", "difference_high", "gain_percent_low", "gain_percent_high"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-4)


def test_a_clip_too_short_for_a_metric_counts_nothing():
    score = SequenceScore("Walk", "S2", "Walk", "1", 1, {"mpjpe": 30.0, "acceleration_error": 0.0},
                          {"mpjpe": 1, "acceleration_error": 0})  # fmt: skip
    kept = clip_means(EvaluationResult((score,)), ("mpjpe", "acceleration_error"))
    assert kept == [{"subject": "S2", "name": "Walk", "mpjpe": [30.0, 1], "acceleration_error": [0.0, 0]}]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("archive", "data_3d_y.npz", "its archive is data_3d_y.npz, here it is data_3d_x.npz"),
     ("test", ["S9"], "its test is"), ("quick", True, "its quick is"), ("resamples", 3, "its resamples is")],
)  # fmt: skip
def test_a_report_of_other_data_is_refused(tmp_path, name, value, words):
    report = report_of("lifter")
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    assert load_earlier(file, SETTINGS)["rows"] == report["rows"]
    report["settings"][name] = value
    file.write_text(json.dumps(report))
    with pytest.raises(UsageError, match=words):
        load_earlier(file, SETTINGS)


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"schema": "refiner-bench/sweep"}', '{"schema": "refiner-bench/accuracy", "rows": []}'],
)
def test_what_is_no_report_of_the_study_is_refused(tmp_path, content):
    file = tmp_path / "report.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=r"earlier report|no report of refiner-bench accuracy|is not whole"):
        load_earlier(file, SETTINGS)


def test_a_row_is_taken_with_its_machine_and_today_s_words():
    report = report_of("one-euro", title="as it was called", test={"metrics": {"mpjpe": 51.0}})
    found = earlier_row(report, StandIn({"lifter": "aa"}), report["rows"][0], [0, 1])
    assert found["machine"] == MACHINE and found["test"] == {"metrics": {"mpjpe": 51.0}}
    assert found["title"] == load_table().row("one-euro").title
    # A report that has been joined before says where each row comes from; another checkpoint elsewhere is no matter.
    report["rows"][0]["machine"] = {"processor": "B", "logical_processors": 64}
    assert earlier_row(report, StandIn({}), report["rows"][0], [0])["machine"]["processor"] == "B"
    # A checkpoint that does not say where it was trained stays without.
    report["rows"][0]["machine"] = None
    assert earlier_row(report, StandIn({}), report["rows"][0], [0])["machine"] is None


@pytest.mark.parametrize(
    ("changes", "digests", "words"),
    [
        ({"name": "of-long-ago"}, {}, "not in the table any more"),
        ({"steps": 7, "pool_shape": True}, {}, "changed in the table: steps, pool_shape"),
        ({}, {"lifter": "bb"}, "another checkpoint of lifter"),
        ({"checkpoints": {}}, {"lifter": "aa"}, "does not say with which checkpoint of lifter"),
        ({"recipe": "of other days"}, {}, "what it was trained with"),
        ({"seeds": [3]}, {}, "of the seeds 3"),
    ],
)
def test_a_row_that_is_not_the_same_does_not_count(changes, digests, words):
    report = report_of("one-euro", **changes)
    assert words in earlier_row(report, StandIn(digests), report["rows"][0], [0])


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("half-noise", "noise = 0.5", "noise = 0.6"),
        ("no-condition", '"training.steps=2500"', '"training.steps=9"'),
        # Changes of the model that it scores, and of the folds and the refiner that it needs.
        ("five-steps", '"training.steps=2500"', '"training.steps=9"'),
        ("single-lifter-one-shape", "model.dim=96", "model.dim=80"),
        ("cross-fitted", '"training.steps=4000"', '"training.steps=9"'),
        ("taught-further", 'checkpoint = "refiner-correlated"', 'checkpoint = "refiner-white-noise"'),
    ],
)
def test_a_row_whose_training_or_needs_have_changed_does_not_count(tmp_path, name, old, new):
    report, file = report_of(name), tmp_path / "table.toml"
    assert isinstance(earlier_row(report, StandIn({}), report["rows"][0], [0]), dict)
    text = TABLE.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    found = earlier_row(report, StandIn({}, load_table(file)), report["rows"][0], [0])
    assert found == "what it was trained with, what it needs or what it is scored on has changed"


def test_words_and_other_rows_do_not_matter(tmp_path):
    report, file = report_of("five-steps"), tmp_path / "table.toml"
    text = TABLE.read_text().replace('title = "K = 5"', 'title = "five"').replace("noise.time=ar1", "noise.time=white")
    file.write_text(text)
    assert earlier_row(report, StandIn({}, load_table(file)), report["rows"][0], [0])["title"] == "five"


def test_machines_stand_beside_the_rows_once_there_are_two():
    """And reports from before rows named their machine are of one."""
    entry = report_of("one-euro")["rows"][0]
    metrics = {name: {"frame_mean": 50.0} for name in GAIN_METRICS}
    part = {"metrics": metrics, "gains": {}, "extra": {}, "per_action": {"mpjpe": {"Walk": 1.0}}}
    entry |= {"training": None, "validation": part, "test": part}
    report = report_of() | {"rows": [entry, copy.deepcopy(entry) | {"name": "other"}], "missing": []}
    text = format_accuracy(report)
    assert "machine: A, 2 processors." in text and "| machine |" not in text
    for row, processor in zip(report["rows"], ("B", "C"), strict=True):
        row["machine"] = {"processor": processor, "logical_processors": 4, "gpu": "G" if processor == "C" else None}
    text = format_accuracy(report)
    assert "machines: A: B, 4 processors; B: C, 4 processors, G." in text and "| machine |" in text
    # One that is not known is not said to be the other.
    report["rows"][1]["machine"] = None
    text = format_accuracy(report)
    assert "machine: A: B, 4 processors." in text and "| machine |" in text
    report["rows"][0]["machine"] = None
    assert "machine: not recorded." in format_accuracy(report)
