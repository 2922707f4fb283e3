"""The papers' tables: their figures to the letter, ours where they belong, and what ours was measured on."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from refiner.errors import UsageError
from refiner.evaluation.paper_tables import (
    ACTIONS,
    OTHER_FILE,
    PER_ACTION_FILE,
    TITLES,
    format_paper_table,
    paper_rows,
    paper_table,
)

VARIANT = "another reading, or beyond the paper"


def report(archive="data_3d_h36m.npz", detections="cpn", seed=1, actions=tuple(ACTIONS), **models):
    rng = np.random.default_rng(seed)
    columns = ["lifter", "linear mean", "refined"]

    def figures():
        per_action = {label: dict(zip(actions, rng.uniform(20, 60, len(actions)), strict=True)) for label in columns}
        return {
            "per_action": per_action,
            "action_mean": {label: float(np.mean(list(values.values()))) for label, values in per_action.items()},
        }

    lifter = {"model": {"architecture": "mixste", "dim": 64, "blocks": 2}, "frames": 27} | models.get("lifter", {})
    refiner = {"model": {"dim": 64, "blocks": 3}, "steps": 2, "noise": {"errors": "conditional"}}
    return {
        "data": {"description": f"{archive}, test people", "archive": archive, "detections": detections},
        "models": {"lifter": lifter, "refiner": refiner | models.get("refiner", {})},
        "columns": columns,
        "metrics": {"mpjpe": figures(), "p_mpjpe": figures()},
    }


def rows_of(table, whose):
    return [row for section in table.sections for row in section.rows if row[2].startswith(whose)]


def test_every_published_row_is_there_and_nothing_else():
    for table, metrics in (("I", 2), ("II", 1)):
        found = rows_of(paper_table(table), "paper")
        assert len(found) == 8 * metrics
        for row in paper_rows(PER_ACTION_FILE):
            cells = list(row.values())
            assert (row["table"] == table) == ([cells[3], cells[4], "paper", *cells[5:]] in found)
    assert [row[3:] for row in rows_of(paper_table("IV"), "paper")] == [
        ["40.3", "", "7.2"],
        ["40.2", "", "10.5"],
        ["40.0", "", "13.9"],
        ["40.0", "", "17.2"],
    ]
    assert rows_of(paper_table("III"), "paper")[1] == ["without conditional noise model", "27", "paper", "46.1", "35.5"]
    poster = rows_of(paper_table("FinePOSE"), "paper")
    assert ["FinePOSE", "-", "paper", "26.8", "98.7", "79.7"] in poster
    assert len(poster) == sum(row["table"].startswith("FinePOSE") for row in paper_rows(OTHER_FILE))


def test_the_figures_say_where_they_are_from():
    for file in (PER_ACTION_FILE, OTHER_FILE):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# D3PRefiner (Yan et al., arXiv 2401.03914)")
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        assert rows == paper_rows(file) and len(rows) > 20


def test_the_averages_of_the_paper_are_those_of_its_actions():
    for row in paper_rows(PER_ACTION_FILE):
        mean = np.mean([float(row[short]) for short in ACTIONS.values()])
        assert float(row["Avg"]) == pytest.approx(mean, abs=0.11), row


def test_ours_on_human36m_fill_the_actions():
    mine = report()
    table = paper_table("I", [("run", mine)])
    lifter, refined, *protocol2 = rows_of(table, "ours [1]")
    assert lifter[:2] == ["MixSTE", "27"] and refined[0] == "MixSTE + D3PRefiner" and len(protocol2) == 2
    per_action = mine["metrics"]["mpjpe"]["per_action"]["refined"]
    assert refined[3:-1] == [f"{per_action[action]:.1f}" for action in ACTIONS]
    assert refined[-1] == f"{mine['metrics']['mpjpe']['action_mean']['refined']:.1f}"
    assert "Other data" not in format_paper_table(table)
    assert not rows_of(paper_table("II", [("run", mine)]), "ours")


def test_other_data_is_named_and_fills_the_mean_alone():
    mine = report("data_3d_cmu.npz", "simulated", actions=("Walking", "Boxing"))
    table = paper_table("I", [("cmu run", mine)])
    row = rows_of(table, "ours")[0]
    assert set(row[3:-1]) == {"-"} and row[-1] != "-"
    text = format_paper_table(table)
    assert "ours [1] cmu run: action-wise mean on data_3d_cmu.npz, test people" in text
    assert "Other data than the paper's: the two cannot be compared." in text


def test_settings_that_change_the_numbers_are_named():
    mine = report() | {"settings": {"flip_test": True, "pool_shape": True, "steps": None}}
    (note,) = paper_table("I", [("run", mine)]).notes
    assert "averaged with the mirrored pass" in note and "one body shape" in note
    assert "mirrored" not in paper_table("I", [("run", report())]).notes[0]


def test_ground_truth_2d_goes_to_table_ii():
    mine = report(detections="ground-truth")
    assert len(rows_of(paper_table("II", [("run", mine)]), "ours")) == 2
    first = paper_table("I", [("run", mine)])
    assert not rows_of(first, "ours") and "Not of this table: run." in first.notes


@pytest.mark.parametrize(
    ("refiner", "name"),
    [
        ({}, "base (full method)"),
        ({"noise": {"errors": "observed"}, "steps": 2}, "without conditional noise model"),
        ({"noise": {"errors": "observed"}, "steps": 1}, "without diffusion"),
        (
            {"noise": {"errors": "observed"}, "diffusion": {"start": "corrected"}},
            "another reading, or beyond the paper",
        ),
        ({"noise": {"errors": "marginal"}}, "noise from one Gaussian of all errors (ours)"),
        ({"noise": {}}, "not said how its errors were drawn"),
        (
            {"noise": {"errors": "conditional"}, "diffusion": {"normalisation": "none"}},
            "another reading, or beyond the paper",
        ),
        ({"noise": {"errors": "conditional", "time": "full"}}, VARIANT),
    ],
)
def test_the_ablation_is_told_from_the_refiner(refiner, name):
    table = paper_table("III", [("run", report(refiner=refiner))])
    rows = table.sections[0].rows
    (mine,) = rows_of(table, "ours")
    assert mine[0] == name
    # Behind the paper's row of that name.
    before = rows[rows.index(mine) - 1]
    assert before[0] == name or name.startswith(("not said", "another reading", "noise from one"))


def test_depths_stand_beside_the_paper_s():
    table = paper_table("IV", [("run", report())])
    (mine,) = rows_of(table, "ours")
    assert mine[0] == "depth 6" and table.sections[0].rows[table.sections[0].rows.index(mine) - 1][0] == "depth 6"


def test_finepose_s_ablation_takes_the_prompts():
    lifter = {"model": {"architecture": "finepose", "dim": 64, "blocks": 2}, "text": {"prompts": "AL"}}
    table = paper_table("FinePOSE", [("run", report(lifter=lifter))])
    names = [row[0] for row in rows_of(table, "ours")]
    assert names == ["FinePOSE", "AL-Prompt"]
    # One that is told ground-truth 2D is no row of the ablation, and a refined pose none of the whole table.
    projected = paper_table("FinePOSE", [("run", report(lifter=lifter, detections="gt"))])
    assert [row[0] for row in rows_of(projected, "ours")] == ["FinePOSE"]
    refined = report(lifter=lifter) | {"columns": ["refined"]}
    assert "Not of this table: run." in paper_table("FinePOSE", [("run", refined)]).notes


def test_every_table_prints():
    for table in TITLES:
        for markdown in (False, True):
            text = format_paper_table(paper_table(table, [("run", report())]), markdown)
            assert TITLES[table] in text and "paper" in text
    assert "no report was given" in format_paper_table(paper_table("I"))
    with pytest.raises(UsageError, match="choose one of I, II, III, IV, FinePOSE"):
        paper_table("V")


def test_another_refiner_is_no_row_of_the_denoisers_tables():
    smooth = report(refiner={"model": {"architecture": "smoothnet", "dim": 512, "blocks": 5}})
    for table in ("III", "IV"):
        assert rows_of(paper_table(table, [("smooth.json", smooth)]), "ours") == []
        assert len(rows_of(paper_table(table, [("ours.json", report())]), "ours")) == 1
    assert any("SmoothNet" in row[0] for row in rows_of(paper_table("I", [("smooth.json", smooth)]), "ours"))


@pytest.mark.parametrize("detections", ["ground-truth", "gt", "data_2d_h36m_gt.npz", "h36m_gt"])
def test_projected_ground_truth_belongs_to_table_ii(detections):
    entry = [("gt.json", report(detections=detections))]
    assert rows_of(paper_table("I", entry), "ours") == [] and rows_of(paper_table("II", entry), "ours")


def test_notes_name_the_networks_and_what_was_left_out():
    part = report() | {"settings": {"limit_clips": 3}}
    (note,) = paper_table("III", [("part.json", part)]).notes
    assert "MixSTE of width 64" in note and "D3PRefiner of width 64" in note and "a few of the archive's clips" in note
