"""The report on where people are: its errors by hand, its rows, and the committed figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refiner_bench.cli import main
from refiner_bench.headlines import headline_of
from refiner_bench.trajectory.errors import frame_place_errors, mean_errors, mrpe_interval
from refiner_bench.trajectory.format import LENSES, format_trajectory
from refiner_bench.trajectory.known import ROWS, Known, upright_height

from refiner.errors import UsageError
from refiner.ground import Ground
from refiner.trajectory import CROWN_M

REPORTS = Path(__file__).parents[2] / "bench" / "reports"


def test_the_errors_of_one_frame_by_hand():
    """4 m away, 30 mm too far, 40 mm to the side; a hand is another 50 mm off."""
    truth = np.zeros((1, 17, 3))
    truth[..., 2] = 4.0
    pose = truth + np.array([0.04, 0.0, 0.03])
    pose[0, 13] += [0.01, 0.0, 0.0]
    errors = frame_place_errors(pose, truth)
    assert errors["mrpe"][0] == pytest.approx(50.0)
    assert (errors["along"][0], errors["across"][0]) == pytest.approx((30.0, 40.0))
    assert errors["share"][0] == pytest.approx(1.25)
    assert errors["absolute_mpjpe"][0] == pytest.approx((16 * 50.0 + np.hypot(50, 30)) / 17)
    assert frame_place_errors(pose, truth, [0, 13])["absolute_mpjpe"][0] == pytest.approx((50 + np.hypot(50, 30)) / 2)


def test_the_ray_leads_to_the_person_and_not_along_the_axis():
    truth = np.tile([3.0, 0.0, 4.0], (1, 17, 1))
    errors = frame_place_errors(truth * 1.02, truth)
    assert (errors["along"][0], errors["across"][0]) == pytest.approx((100.0, 0.0), abs=1e-9)


def test_accelerations_and_means_over_views():
    truth = np.tile([0.0, 0.0, 4.0], (4, 17, 1))
    moved = truth.copy()
    moved[1, :, 0] += 0.01
    first, second = frame_place_errors(moved, truth), frame_place_errors(truth[:3], truth[:3])
    assert first["root_acceleration"] == pytest.approx([20.0, 10.0])
    means = mean_errors([first, second])
    assert means.mrpe == pytest.approx(10.0 / 7) and means.root_acceleration == pytest.approx(10.0)


def test_the_interval_resamples_whole_clips():
    views = [{"mrpe": np.full(10, value)} for value in (10.0, 10.0, 30.0)]
    low, high = mrpe_interval(views, ["a", "a", "b"])
    assert (low, high) == pytest.approx((10.0, 30.0))
    assert mrpe_interval(views, ["a", "a", "a"]) == pytest.approx((50 / 3, 50 / 3))


def test_what_a_user_states():
    true = Ground(10.0, 1.5, 3.0)
    by_name = {row.name: row for row in ROWS}
    assert by_name["nothing"].ground(true, 0) is None
    assert by_name["pitch"].ground(true, 0) == Ground(10.0)
    assert by_name["ground"].ground(true, 0) == Ground(10.0, 1.5)
    assert [by_name["ground-off"].ground(true, number).pitch for number in (0, 1)] == [9.0, 11.0]
    assert Known("x", "x").smooth and not by_name["alone"].smooth
    motion = np.zeros((100, 17, 3))
    motion[:, 10, 2] = np.linspace(1.0, 1.7, 100)
    motion[:, [3, 6], 2] = 0.08
    climbing = motion + np.array([0.0, 0.0, 0.4])
    assert upright_height([motion, climbing]) == pytest.approx(1.67 + CROWN_M, abs=0.01)


@pytest.mark.slow
def test_a_quick_run_writes_its_report(tmp_path, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    files = ["--json", str(tmp_path / "quick.json"), "--markdown", str(tmp_path / "quick.md")]
    small = ["--lifter", "lifter-nano-rays", "--refiner", "refiner-nano-rays", "--cameras", "1"]
    assert main(["trajectory", "--quick", *small, *files]) == 0
    report = json.loads((tmp_path / "quick.json").read_text())
    assert (tmp_path / "quick.md").read_text() == format_trajectory(report) + "\n"
    names = [row["name"] for row in report["rows"]]
    assert names == [f"{lens}-{row.name}" for lens in LENSES for row in ROWS]
    assert report["settings"]["cameras"] == 1 and len(report["real"]) == 10
    errors = {row["name"]: row for row in report["rows"]}
    assert errors["known-nothing"]["root_acceleration"] < 0.2 * errors["known-alone"]["root_acceleration"]
    capsys.readouterr()


def test_the_committed_report_says_what_the_pages_say():
    report = json.loads((REPORTS / "trajectory.json").read_text())
    assert (REPORTS / "trajectory.md").read_text() == format_trajectory(report) + "\n"
    assert report["settings"]["part"] == "test" and set(report["heights"]) == {"S2", "S14"}
    rows = {row["name"]: row for row in report["rows"]}
    # Each thing that is known lowers the error, a wrong pitch takes some of it back, and smoothing calms the root.
    assert rows["known-nothing"]["mrpe"] < rows["guessed-nothing"]["mrpe"]
    assert rows["known-all"]["mrpe"] < rows["known-ground"]["mrpe"] < rows["known-ground-off"]["mrpe"]
    assert rows["known-nothing"]["root_acceleration"] < 0.1 * rows["known-alone"]["root_acceleration"]
    for row in report["rows"]:
        assert row["mrpe_low"] <= row["mrpe"] <= row["mrpe_high"]
        assert row["along"] + row["across"] >= row["mrpe"] >= max(row["along"], row["across"])
    assert report["ms_per_frame"]["trajectory"] < 0.2 * report["ms_per_frame"]["models"]
    assert f"{rows['known-all']['mrpe']:.0f} mm off where all is known" in headline_of(report)


def test_options_that_make_no_sense(monkeypatch, capsys):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    assert main(["trajectory"]) == UsageError.exit_code
    assert "--data FOLDER" in capsys.readouterr().err
    assert main(["trajectory", "--quick", "--cameras", "0"]) == UsageError.exit_code
    assert "--cameras must be at least 1" in capsys.readouterr().err
