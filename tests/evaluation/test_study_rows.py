"""The rows of an accuracy report in the papers' tables."""

from __future__ import annotations

import json

import pytest

from refiner.errors import ArchiveError
from refiner.evaluation.paper_tables import format_paper_table, paper_table
from refiner.evaluation.study_rows import load_reports


def row(name, kind, error, lifter="", data="default", architecture="mixste", plateau=True, **model):
    described = {"model": {"architecture": architecture, "blocks": 3}, "frames": 81, **model}
    return {
        "name": name,
        "title": f"title of {name}",
        "kind": kind,
        "lifter": lifter,
        "data": data,
        "checkpoint": "",
        "training": {"steps": 1500, "plateau": plateau, "model": described},
        "test": {
            "metrics": {"mpjpe": {"action_mean": error}, "p_mpjpe": {"action_mean": error - 10}},
            "per_action": {"mpjpe": {"Walking": error - 1}, "p_mpjpe": {"Walking": error - 11}},
        },
    }


def study(archive="data_3d_cmu.npz"):
    return {
        "schema": "refiner-bench/accuracy",
        "schema_version": 1,
        "settings": {"archive": archive, "test": ["S2"]},
        "variants": {"default": {"detections": "simulated"}, "gt": {"detections": "ground-truth"}},
        "rows": [
            row("mixste", "lifter", 58.4),
            row("refined", "refiner", 56.8, "mixste", architecture="pose-denoiser", plateau=False, steps=2),
            row("alone", "refiner", 50.0, "not-run", architecture="pose-denoiser"),
            row("smoothed", "score", 58.0, "mixste"),
            row("mixste-gt", "lifter", 45.6, data="gt"),
        ],
    }


OLDER = json.dumps({name: value for name, value in study().items() if name != "variants"})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lifters.json"
    path.write_text(json.dumps(study()))
    return path


def test_rows_stand_in_the_table_of_their_detections(file):
    reports = load_reports(file)
    assert [name for name, _ in reports] == ["lifters, mixste", "lifters, refined", "lifters, mixste-gt"]
    first = format_paper_table(paper_table("I", reports))
    ours = [line.split() for line in first.splitlines() if "ours [" in line and line.startswith("MixSTE")]
    # No action of another archive is one of Human3.6M's.
    assert [line[-1] for line in ours] == ["58.4", "56.8", "48.4", "46.8"] and all("-" in line for line in ours)
    assert ours[1][:4] == ["MixSTE", "+", "D3PRefiner", "81"]
    assert "title of refined, 1,500 steps of training, at whose end it was still getting better" in first
    assert "not comparable with Human3.6M" in first and "Not of this table: lifters, mixste-gt." in first
    second = format_paper_table(paper_table("II", reports))
    # The paper gives no P-MPJPE here.
    assert [line.split()[-1] for line in second.splitlines() if line.startswith("MixSTE ") and "ours [" in line] == [
        "45.6"
    ]


def test_actions_of_human36m_are_shown(tmp_path):
    path = tmp_path / "h36m.json"
    path.write_text(json.dumps(study("data_3d_h36m.npz")))
    table = format_paper_table(paper_table("I", load_reports(path)))
    assert any("57.4" in line.split() for line in table.splitlines() if "ours [1]" in line)


@pytest.mark.parametrize("content", ["[]", "{}", "no JSON", json.dumps(study() | {"schema_version": 2}), OLDER])
def test_what_is_no_report_is_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ArchiveError, match="other"):
        load_reports(path)
