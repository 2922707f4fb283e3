"""The rehearsal of the quarter-hour on the CPU, on built-in motion."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from threading import Lock

import numpy as np
import pytest

pytest.importorskip("torch")

from refiner_bench.gpu import command, training
from refiner_bench.gpu.bring_back import MOST_BYTES, MOST_FILES, MOST_IN_A_FILE
from refiner_bench.gpu.command import TO_BRING_BACK, main, words_of
from refiner_bench.gpu.jobs import Result
from refiner_bench.gpu.packages import PACKAGES
from refiner_bench.gpu.parts import BOX_OF_OTHERS, BOX_OF_PACKAGE, BOXES, RunSetup
from refiner_bench.gpu.summary import Summary

from refiner.data.synthetic import synthetic_archive, synthetic_description
from refiner.model_files.checkpoint import load_checkpoint

NAMES = ["lifter-base", "lifter-small"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    """A folder of three synthetic people."""
    folder = tmp_path_factory.mktemp("motion")
    positions = synthetic_archive(6, subjects=3, frames=90, actions=("Walking",))
    split = synthetic_description(positions)
    np.savez(folder / "data_3d_synthetic.npz", positions_3d=np.array(positions, dtype=object))
    people = {part: list(getattr(split, part)) for part in ("train", "validation", "test")}
    (folder / "clips.json").write_text(json.dumps({"fps": 50, "split": people}))
    return folder


def steps_of(folder):
    return {name: load_checkpoint(folder / f"{name}.safetensors").config["metrics"]["step"] for name in NAMES}


def summary_of(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return summary, {part["name"]: part["status"] for part in summary["parts"]}


@pytest.mark.slow
def test_a_rehearsal_reports_every_part_and_is_gone_on_from(motion, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["--device", "cpu", "--toy", "--data", str(motion), "--minutes", "5", "--plans", ",".join(NAMES)]
    # What the ordinary build made, too, is not built again.
    assert main([*common, "--parts", "profile,check,latency,train", "--output", str(one)]) == 0
    summary, states = summary_of(one)
    trained = {f"{name}, none": "ok" for name in NAMES}
    skipped = dict.fromkeys(("check", "sanitizer", "tests"), "skipped")
    assert states == {"profile": "ok", **skipped, "latency": "ok", **trained, "bring back": "ok"}
    assert all(summary["profile"][name]["none"]["batch_kernels"] > 100 for name in NAMES)
    assert all(summary["training"][name]["windows_per_s"] > 0 for name in NAMES) and not summary["left_out"]
    files = list(one.rglob("*"))
    sizes = [path.stat().st_size for path in files]
    assert len(files) <= MOST_FILES and max(sizes) <= MOST_IN_A_FILE and sum(sizes) <= MOST_BYTES
    latency = json.loads((one / "latency.json").read_text())
    assert len(latency["models"]) == 8 and len(latency["kernels"]) == 3 and not latency["failed"]
    assert all(row["contestants"]["torch, eager"]["median_ms"] > 0 for row in latency["models"])

    # The state of the second is lost, that of the first is whole.
    (one / f"{NAMES[1]}.state-1-of-1").write_bytes(b"{}\n")
    before = steps_of(one)
    assert main([*common, "--parts", "train", "--side-by-side", "--state", str(one), "--output", str(two)]) == 4
    lost = {f"{NAMES[1]}, state": "failed", f"{NAMES[1]}, weights": "ok"}
    assert summary_of(two)[1] == {f"{NAMES[0]}, state": "ok", **lost, **trained, "bring back": "ok"}
    assert all(0 < before[name] < after for name, after in steps_of(two).items())


@pytest.mark.slow
def test_a_part_that_fails_is_reported(tmp_path):
    options = ["--device", "cpu", "--toy", "--parts", "train", "--plans", NAMES[1], "--output", str(tmp_path / "out")]
    assert main([*options, "--data", str(tmp_path / "nothing")]) == 4
    summary, states = summary_of(tmp_path / "out")
    assert states == {f"{NAMES[1]}, none": "failed", "bring back": "failed"}
    assert "nothing" in summary["parts"][0]["why"] and summary["parts"][0]["exit_code"] == 5


class Stage:
    """Stands in for all jobs: each waits until those that are to run beside it have begun."""

    def __init__(self, beside):
        self.barrier, self.beside, self.order, self.lock = (
            threading.Barrier(max(1, len(beside)), timeout=60),
            beside,
            [],
            Lock(),
        )

    def run_jobs(self, jobs, logs, environment):
        name = jobs[0].name
        if name in self.beside:
            self.barrier.wait()
        with self.lock:
            self.order.append(jobs)
        return [Result(job.name, "ok", 1.0, 0) for job in jobs]


def names_of(stage):
    return [jobs[0].name for jobs in stage.order]


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """Runs the command with `Stage` for a device of CUDA; returns it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)

    def call(beside, *options):
        stage = Stage(beside)
        monkeypatch.setattr(command, "run_jobs", stage.run_jobs)
        monkeypatch.setattr(training, "run_jobs", stage.run_jobs)
        common = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--plans", ",".join(NAMES)]
        main([*common, "--minutes", "9.3", *options])
        return stage

    return call


def test_models_train_beside_building_and_latency_is_measured_alone(stage):
    plans = [f"{name}, compile-graph" for name in NAMES]
    ran = stage(["build", *plans], "--side-by-side")
    names = names_of(ran)
    assert sorted(names) == sorted(["profile", "build", "check", "latency", *plans])
    # Steps are profiled before anything else is on the device.
    assert names[0] == "profile" and names.index("build") < names.index("check") and names[-1] == "latency"
    jobs = {job.name: job for jobs in ran.order for job in jobs}
    assert list(jobs["build"].command[:3]) == ["nice", "-n", "10"] and jobs["build"].seconds > BOXES["build"]
    # The device is left to latency for as long as its box, and there is time to bring back.
    left = 9.3 * 60 - BOXES["latency"] - TO_BRING_BACK
    assert jobs["profile"].seconds == BOXES["profile"]
    assert left - 30 < jobs[plans[0]].seconds <= left and jobs["latency"].seconds == BOX_OF_OTHERS


def test_models_train_one_after_the_other_with_equal_shares(stage):
    plans = [f"{name}, compile-graph" for name in NAMES]
    ran = stage(["build", plans[0]], "--parts", "build,train")
    assert sorted(names_of(ran)) == sorted(["build", *plans])
    assert names_of(ran).index(plans[0]) < names_of(ran).index(plans[1])
    jobs = {job.name: job for jobs in ran.order for job in jobs}
    # The stand-in takes no time, so the second plan has what the first has left: all of it.
    all_of_it = 9.3 * 60 - TO_BRING_BACK
    assert all_of_it / 2 - 30 < jobs[plans[0]].seconds <= all_of_it / 2
    assert all_of_it - 30 < jobs[plans[1]].seconds <= all_of_it


def test_a_plan_that_goes_wrong_leaves_the_next_its_time(tmp_path):
    summary, began = Summary(tmp_path / "summary.json", tmp_path, {}), []

    def train(plan, until):
        began.append((plan.name, until))
        if len(began) == 1:
            raise OSError("the disk is full")

    training_ = training.Training(RunSetup(tmp_path, "cuda", False), (), (), time.monotonic() + 1000.0)
    plans = training.PLANS[:3]
    command._in_turns(plans, train, training_, summary)
    assert [name for name, _ in began] == [plan.name for plan in plans]
    assert summary_of(tmp_path)[1] == {plans[0].name: "failed"}
    # A third, then half of the rest, then all of the rest.
    left = [training_.until - until for _, until in began]
    assert 600 < left[0] < 667 and 400 < left[1] < 501 and left[2] == 0


def test_parts_without_training_follow_each_other(stage):
    ran = stage(["build"], "--parts", "build,check,latency")
    assert names_of(ran) == ["build", "check", "latency"]
    boxes = [BOXES["build"], BOXES["check"], BOX_OF_OTHERS]
    assert all(job.seconds == box for jobs, box in zip(ran.order, boxes, strict=True) for job in jobs)
    assert not any("nice" in job.command for jobs in ran.order for job in jobs)


def test_a_layer_is_measured_where_it_is_asked_for(stage):
    assert names_of(stage([], "--parts", "operations")) == ["operations"]


def test_training_alone_has_all_the_time(stage):
    plans = [f"{name}, compile-graph" for name in NAMES]
    ran = stage(plans, "--parts", "train", "--side-by-side")
    assert all(job.seconds > 9.3 * 60 - TO_BRING_BACK - 30 for jobs in ran.order for job in jobs)


def test_each_package_is_measured_in_a_process_of_its_own(tmp_path, monkeypatch):
    ran, names = [], list(PACKAGES)

    def run_jobs(jobs, logs, environment):
        ran.append([(job.name, job.seconds) for job in jobs])
        return [Result(jobs[0].name, "failed", 1.0, -11)]

    for name in names[:2]:
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "x.pt2").write_bytes(b"")
    monkeypatch.setattr(command, "run_jobs", run_jobs)
    summary = Summary(tmp_path / "summary.json", tmp_path, {})
    command._measure_packages(RunSetup(tmp_path, "cuda", False), float("inf"), summary)
    assert ran == [[(f"latency, {name}", BOX_OF_PACKAGE)] for name in names[:2]]
    states = summary_of(tmp_path)[1]
    expected = ["failed"] * 2 + ["skipped"] * 2
    assert states == {f"latency, {name}": state for name, state in zip(names, expected, strict=True)}


def test_a_thread_that_goes_wrong_is_a_failed_part(tmp_path):
    summary = Summary(tmp_path / "summary.json", tmp_path, {})

    def wrong():
        raise OSError("the disk is full")

    command._side_by_side({"wrong": wrong, "right": lambda: summary.add([Result("right", "ok", 1.0, 0)])}, summary)
    found = {part["name"]: (part["status"], part["why"]) for part in summary_of(tmp_path)[0]["parts"]}
    assert found == {"right": ("ok", ""), "wrong": ("failed", "OSError('the disk is full')")}


def test_a_summary_is_written_by_several_threads(tmp_path):
    summary = Summary(tmp_path / "summary.json", tmp_path, {})

    def several(name):
        for number in range(20):
            summary.train(name, {"step": number})
            summary.add([Result(f"{name}, {number}", "ok", 1.0, 0)])

    command._side_by_side({name: partial(several, name) for name in ("a", "b", "c")}, summary)
    found, states = summary_of(tmp_path)
    assert len(states) == 60 and found["training"] == {name: {"step": 19} for name in ("a", "b", "c")}


def test_words_of_plans():
    found = words_of(["a=--lifter 'my file'", "b=--set x=1", "a=--lifter other"])
    assert found == {"a": ("--lifter", "my file", "--lifter", "other"), "b": ("--set", "x=1")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parts", "check,paint"], "expected some of profile, operations, build, fused, check, latency, train"),
        (["--minutes", "0"], "a time above 0"),
        (["--parts", "train"], "training and its profile need --data"),
        (["--parts", "profile"], "training and its profile need --data"),
        (["--plans", "lifter-base,painter", "--data", "."], "there is no plan painter; there are lifter-base"),
        (["--plan-option", "painter=--half", "--data", "."], "there is no plan painter"),
        (["--plan-option", "lifter-base", "--data", "."], "expected PLAN=WORDS"),
        (["--plan-option", "lifter-base='", "--data", "."], "No closing quotation"),
        (["--state", "not-there", "--data", "."], "not-there: there is no such folder"),
    ],
)
def test_wrong_options_cost_no_time(options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("REFINER_DATA", raising=False)
    assert main(["--device", "cpu", *options, "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
