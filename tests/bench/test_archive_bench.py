"""refiner-bench archive: the arithmetic of the estimate, the report, and its tables. No time is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: inputs for the models come from the export's gate")

from refiner_bench.archive import cluster, report
from refiner_bench.archive.cost import Assumed, Measured, estimate, million_frames
from refiner_bench.archive.format import format_archive, measured_of
from refiner_bench.archive.local import CountedEngine, peak_bytes
from refiner_bench.archive.motion import FOCAL, SIDE, make_archive
from refiner_bench.cli import main
from refiner_bench.measures import measures
from refiner_bench.readme import ARCHIVE_TABLES, with_figures

from refiner.errors import InputError, UsageError

ROOT = Path(__file__).parents[2]
MEASURED = Measured(
    worker_rate=4000.0,
    scaling=1.8,
    chunk_frames=9000.0,
    chunk_overhead_s=0.01,
    start_s=8.0,
    bytes_in=340.0,
    bytes_out={"npz": 200.0, "trc": 500.0},
)
ASSUMED = Assumed(frames=1e9, workers=100, failures_per_hour=0.01, core_hour_price=0.05)


def test_the_estimate_by_hand():
    found = estimate(MEASURED, ASSUMED)
    # 4000 frames/s x 0.9 = 3600 frames/s: 1e9 frames take 277,777.8 s = 77.16 hours.
    assert found.efficiency == pytest.approx(0.9)
    assert found.compute_hours == pytest.approx(77.1605, rel=1e-5)
    assert found.chunks == pytest.approx(111_111.1, rel=1e-6)
    # 0.77 workers die; each takes half a chunk of 2.5 s with it and 8 s to start.
    assert found.failures == pytest.approx(0.771605, rel=1e-5)
    assert found.repeated_hours == pytest.approx(0.771605 * 9.25 / 3600, rel=1e-5)
    # 100 workers: 0.7716 hours and the start of 8 s. The driver has 1111 s of work in these 2778 s.
    assert found.wall_hours == pytest.approx((77.1605 + 0.00198) / 100 + 8 / 3600, rel=1e-5)
    assert found.driver_share == pytest.approx(0.4, rel=1e-3)
    assert found.most_workers == pytest.approx(250.0)
    assert found.read_rate == pytest.approx(100 * 3600 * 340)
    assert (found.bytes_in, found.bytes_out) == (340e9, {"npz": 200e9, "trc": 500e9})
    assert found.core_hours == pytest.approx(101 * found.wall_hours)
    assert found.cost == pytest.approx(0.05 * found.core_hours)


def test_more_workers_than_the_driver_feeds_save_nothing():
    few, many = (estimate(MEASURED, replace(ASSUMED, workers=count)) for count in (1000, 100_000))
    assert few.driver_share > 1
    assert few.wall_hours == pytest.approx(111_111.1 * 0.01 / 3600 + 8 / 3600, rel=1e-6)
    assert many.wall_hours == few.wall_hours and many.cost > few.cost


def test_two_workers_that_do_more_than_twice_as_much_count_as_two():
    assert estimate(replace(MEASURED, scaling=2.2), ASSUMED).efficiency == 1.0


def test_a_million_frames():
    found = million_frames(1000.0, ASSUMED)
    assert found.core_hours == pytest.approx(1000 / 3600) and found.cost == pytest.approx(0.05 * 1000 / 3600)


@pytest.mark.parametrize("change", [{"worker_rate": 0.0}, {"start_s": -1.0}, {"bytes_out": {"npz": 0.0}}])
def test_measures_that_none_can_be(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        replace(MEASURED, **change)


@pytest.mark.parametrize("change", [{"workers": 0}, {"frames": 0.0}, {"failures_per_hour": -0.1}])
def test_assumptions_that_make_no_sense(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        replace(ASSUMED, **change)


def test_the_steady_rate_leaves_out_the_start_and_the_end():
    # Two actors finish a chunk each, every two seconds, from second 10 on; the last chunk comes late and alone.
    done = [(10.0 + 2 * (number // 2) + 0.1 * (number % 2), 100) for number in range(20)] + [(60.0, 100)]
    found = cluster._times_of(done, frames=4200, actors=2, whole_s=65.0)
    # From the fourth chunk (12.1 s) to the twentieth (28.1 s): 16 of 21 chunks, of 4200 frames.
    assert found.steady_frames_per_s == pytest.approx(4200 * 16 / 21 / 16.0)
    assert found.start_s == pytest.approx(10.0 - 2 * 200 / found.steady_frames_per_s)
    with pytest.raises(UsageError, match="too few"):
        cluster._times_of(done[:6], frames=600, actors=2, whole_s=20.0)


def test_the_engine_runs_as_many_windows_again_in_full_batches():
    seen = []

    class Engine:
        frames = 27

        def __call__(self, *inputs):
            seen.append([len(part) for part in inputs])
            return inputs[1]

    engine = CountedEngine(Engine(), batch=4)
    for size in (3, 6, 2):
        engine(np.zeros((size, 27, 17, 3), np.float32), np.zeros((size, 27, 17, 3), np.float32))
    assert (engine.windows, engine.frames) == (11, 27)
    seen.clear()
    assert engine.again(11) > 0
    assert seen == [[4, 4], [4, 4], [3, 3]]
    assert engine.windows == 11


def test_the_archive_shows_one_person_twice(tmp_path):
    """The 2D of a sequence is the projection of its 3D, but for the errors of both."""
    make_archive(tmp_path / "archive", sequences=3, frames=40)
    files = sorted((tmp_path / "archive").iterdir())
    assert [file.name for file in files] == [f"sequence-{number:06d}.npz" for number in range(3)]
    for file in files:
        content = np.load(file)
        pose_2d, pose_3d = content["pose_2d"], content["pose_3d"]
        pixels = SIDE / 2 + FOCAL * pose_3d[..., :2] / pose_3d[..., 2:]
        assert pose_2d.shape == (40, 17, 2)
        # 3 cm at 4 m are 9 pixels.
        assert 5 < np.sqrt(np.mean((pose_2d - pixels) ** 2)) < 20


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The report of a small archive, by the command, with a run on Ray that is made up."""
    folder = tmp_path_factory.mktemp("archive-report")
    runs = {
        "1": {"frames": 600.0, "start_s": 8.0, "steady_frames_per_s": 4000.0, "whole_s": 9.0},
        "2": {"frames": 600.0, "start_s": 9.0, "steady_frames_per_s": 7200.0, "whole_s": 9.0},
    }
    made_up = {"actors": runs, "scaling": {"ratio": 1.8, "low": 1.7, "high": 1.9}, "chunk_overhead_s": 0.01}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "require_ray", lambda: None)
        patch.setattr(report, "ray_times", lambda job, rounds, log: made_up)
        words = ["archive", "--sequences", "10", "--frames", "60", "--chunk-frames", "200", "--ray"]
        words += ["--cards", str(ROOT / "bench/reports/cards.json"), "--json", str(folder / "archive.json")]
        assert main(words) == 0
    return folder / "archive.json"


def test_the_report(small):
    found = json.loads(small.read_text())
    local = found["local"]
    assert (local["sequences"], local["frames"]) == (10, 600)
    assert local["windows"] >= 10 * 3 and local["chunks"] >= 3
    assert 0 < local["share"]["low"] <= local["share"]["ratio"] <= local["share"]["high"]
    assert found["memory"]["sequences"] == {"tenth": 1, "all": 10}
    assert all(2**24 < peak < 2**34 for peak in found["memory"]["peak_bytes"].values())
    # A frame has at least 17 joints of three float32.
    assert all(size > 17 * 3 * 4 / 2 for size in found["bytes"]["out"].values())
    assert found["bytes"]["in"] >= 17 * 5 * 4
    assert set(found["models"]) == set(report.RATED)
    assert [lifter["name"] for lifter in found["lifters"]] == list(report.PUBLISHED_LIFTERS)
    names = [measure.name for measure in measures(found)]
    assert "archive: two actors over one" in names and len(names) == len(set(names))


def test_its_tables(small):
    text = format_archive(json.loads(small.read_text()))
    for title in ("One process", "Memory", "On Ray", "A large archive", "Beside running a lifter"):
        assert f"## {title}" in text
    assert "4,000 x 0.90" in text
    page = "\n".join(f"<!-- figures archive-{name} {small.name} -->\n<!-- end -->\n" for name in ARCHIVE_TABLES)
    filled = with_figures(page, small.parent)
    assert filled.count("| :") == len(ARCHIVE_TABLES)
    # The table is the model's.
    found = estimate(measured_of(json.loads(small.read_text())), Assumed())
    assert f"{found.wall_hours:.2f}" in filled


def test_the_memory_is_that_of_the_command_alone(tmp_path):
    """The test's own process has more; the kernel's count for a child would hold it too."""
    own = np.ones(2**27)  # 1 GiB
    make_archive(tmp_path / "archive", sequences=1, frames=30)
    words = [str(tmp_path / "archive"), "--output", str(tmp_path / "out"), "--fps", "50", "--joints", "h36m17"]
    words += ["--image-size", "1000", "1000", "--checkpoint", "refiner-nano-rays"]
    assert 2**24 < peak_bytes(words, tmp_path) < own.nbytes
    with pytest.raises(InputError, match="no format 'salad'"):
        peak_bytes([*words, "--formats", "salad"], tmp_path)


def test_without_ray_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr("refiner.archive.ray_job.find_spec", lambda name: None)
    monkeypatch.setattr(report, "make_archive", lambda *arguments: pytest.fail("the archive was made before"))
    assert main(["archive", "--ray"]) == 3
    assert "pose-refiner[ray]" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--sequences", "1"], ["--frames", "2"], ["--rounds", "0"]])
def test_what_is_refused(words, capsys):
    assert main(["archive", *words]) == 2
    assert "error:" in capsys.readouterr().err
