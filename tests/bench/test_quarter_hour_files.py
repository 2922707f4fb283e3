"""What comes back from a quarter-hour, and what the next one takes up."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from refiner_bench.gpu import bring_back as module
from refiner_bench.gpu import training as training_module
from refiner_bench.gpu.bring_back import bring_back
from refiner_bench.gpu.jobs import Result
from refiner_bench.gpu.parts import RunSetup
from refiner_bench.gpu.training import OTHER_RUN, TO_BEGIN, Plan, Training, progress_of, resume, train_plan

from refiner.data.synthetic import synthetic_folder
from refiner.models.weights import read_safetensors
from refiner.training.config import config_from_dict
from refiner.training.loop import BEGUN_FILE, STATE_FILE
from refiner.training.runs import train_lifter
from refiner.training.travel import bytes_of_state, join_state, split_state

WEIGHTS, PARTS = ["first.safetensors", "second.safetensors"], ["first.state-1-of-1", "second.state-1-of-1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped after its first step."""
    model = {"dim": 32, "blocks": 2, "heads": 4, "mlp_ratio": 2}
    training = {"steps": 6, "batch": 4, "threads": 1}
    config = config_from_dict({"kind": "lifter", "frames": 9, "model": model, "training": training})
    folder = tmp_path_factory.mktemp("run")
    people = synthetic_folder(5, subjects=3, frames=40, actions=("Walking",))
    train_lifter(config, people, folder, quiet=True, minutes=1e-9)
    return folder


@pytest.fixture
def back(run, tmp_path):
    """Brings two runs and two reports back, where there is room for so many files and bytes."""
    reports = [tmp_path / "latency.json", tmp_path / "latency.md"]
    for report in reports:
        report.write_text("x" * 1000)

    def call(monkeypatch, files=8, size=module.MOST_BYTES):
        monkeypatch.setattr(module, "MOST_FILES", files)
        monkeypatch.setattr(module, "MOST_BYTES", size)
        return bring_back([("first", run), ("second", run)], reports, tmp_path / "out", tmp_path)

    return call


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_comes_back_where_there_is_room(back, tmp_path, monkeypatch):
    room = back(monkeypatch)
    assert room.taken == [*WEIGHTS, "latency.json", "latency.md", *PARTS] and not room.left_out
    assert names_in(tmp_path / "out") == sorted(room.taken)
    assert join_state([tmp_path / "out"], "second", tmp_path / "next") == 1


def test_the_state_is_left_out_first_and_then_the_reports(back, tmp_path, monkeypatch):
    room = back(monkeypatch, files=6)
    assert room.taken == [*WEIGHTS, "latency.json", "latency.md", PARTS[0]] and list(room.left_out) == ["second.state"]
    assert "1 files" in room.left_out["second.state"] and "room for 0" in room.left_out["second.state"]
    room = back(monkeypatch, files=4)
    assert room.taken == [*WEIGHTS, "latency.json"]
    assert list(room.left_out) == ["latency.md", "first.state", "second.state"]
    assert names_in(tmp_path / "out") == sorted(room.taken)  # nothing is left of the first try


def test_weights_travel_in_float16_where_float32_does_not_fit(back, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEADERS", 2**14)
    monkeypatch.setattr(module, "SUMMARY_BYTES", 0)
    files = split_state(run, tmp_path / "sizes", "first")
    weights, state = (path.stat().st_size for path in files)
    saved = state - bytes_of_state(run, "float16")
    assert saved > 2 * module.HEADERS
    room = back(monkeypatch, size=2 * weights + 2000 + 2 * state - saved // 2)
    assert room.taken[-2:] == PARTS and not room.left_out
    assert join_state([tmp_path / "out"], "second", tmp_path / "next") == 1
    kept = [(tmp_path / "out" / part).stat().st_size for part in PARTS]
    assert kept[0] == state and kept[1] < state - saved // 2
    before, after = (read_safetensors(folder / STATE_FILE)[0] for folder in (run, tmp_path / "next"))
    assert before.keys() == after.keys()


def test_other_files_in_the_folder_count(back, tmp_path, monkeypatch):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "mine").write_text("mine")
    room = back(monkeypatch, files=7)
    assert list(room.left_out) == ["second.state"] and (tmp_path / "out" / "deep" / "mine").exists()


def test_weights_that_are_too_large_are_named(back, monkeypatch):
    monkeypatch.setattr(module, "LIMIT", 1000)
    room = back(monkeypatch)
    assert list(room.left_out) == ["first", "second"] and "more than the limit of 1,000" in room.left_out["first"]
    assert room.taken == ["latency.json", "latency.md"]


def test_earlier_runs_are_taken_up(run, tmp_path):
    training = Training(RunSetup(tmp_path, "cpu", True), (), (), 0.0)
    plan, saved = Plan("first", "lifter", "lifter-small"), tmp_path / "saved"

    def statuses(states):
        return {result.name: result.status for result in resume(plan, states, training)}

    assert statuses([]) == {} and progress_of(training.folder(plan)) is None
    saved.mkdir()
    assert statuses([saved]) == {"first, state": "skipped"}
    checkpoint, part = split_state(run, saved, "first")
    assert statuses([saved]) == {"first, state": "ok"} and progress_of(training.folder(plan))["step"] == 1
    part.write_bytes(part.read_bytes()[:-1])
    assert statuses([saved]) == {"first, state": "failed", "first, weights": "ok"}
    assert progress_of(training.folder(plan)).keys() == {"step", "mpjpe_mm"}
    checkpoint.write_bytes(b"")
    assert statuses([saved]) == {"first, state": "failed", "first, weights": "failed"}


@pytest.mark.parametrize("same_network", [True, False])
def test_a_state_of_another_run_fails_once(same_network, run, tmp_path, monkeypatch):
    training = Training(RunSetup(tmp_path, "cpu", True), (), (), float("inf"))
    plan, saved = Plan("first", "lifter", "lifter-small"), tmp_path / "saved"
    split_state(run, saved, "first")
    resume(plan, [saved], training)
    taken = []

    def jobs(jobs, logs, environment):
        taken.extend(jobs)
        why = f"error: another configuration; {OTHER_RUN}"
        return [Result(jobs[0].name, *(("failed", 1.0, 5, why) if len(taken) == 1 else ("ok", 1.0, 0)))]

    monkeypatch.setattr(training_module, "run_jobs", jobs)
    if same_network:
        monkeypatch.setattr("refiner.training.travel.adopt_state", lambda run, config: 7)
    results = train_plan(plan, training)
    statuses = ["failed", "ok" if same_network else "failed", "ok"]
    assert [result.status for result in results] == statuses and [job.name for job in taken] == ["first, none"] * 2
    assert ("step 7" if same_network else "another network") in results[1].why
    assert training.folder(plan).exists() == same_network


def words(plan, monkeypatch, training):
    """The command of a plan's first job."""
    taken = []

    def jobs(jobs, logs, environment):
        taken.extend(jobs)
        return [Result(jobs[0].name, "ok", 1.0, 0)]

    monkeypatch.setattr(training_module, "run_jobs", jobs)
    assert [result.status for result in train_plan(plan, training)] == ["ok"]
    return taken[0].command


def test_a_plan_has_words_of_its_own(tmp_path, monkeypatch):
    given = {"refiner": ("--lifter", "a b", "--lifter", "c", "--set", "optimiser.rate=0.5")}
    training = Training(RunSetup(tmp_path, "cuda", False), ("d",), (), float("inf"), given)
    refiner = words(Plan("refiner", "refiner", "refiner-small", ("optimiser.rate=0.1",)), monkeypatch, training)
    assert refiner[refiner.index("refiner") :][:3] == ["refiner", "--config", "refiner-small"]
    assert refiner[-4:] == ["--lifter", "a b", "--lifter", "c"]
    # The command line's change comes after the plan's, and wins.
    assert refiner.index("optimiser.rate=0.1") < refiner.index("optimiser.rate=0.5")
    # A refiner's task is not one that a CUDA graph can hold: no time is spent on finding that out.
    assert "training.compile=compile" in refiner
    lifter = words(Plan("lifter", "lifter", "lifter-small"), monkeypatch, training)
    assert "--finish" in lifter
    assert "--lifter" not in lifter and "training.compile=compile-graph" in lifter


def test_a_way_that_hangs_leaves_time_to_the_next(tmp_path, monkeypatch):
    training, taken = Training(RunSetup(tmp_path, "cuda", False), ("d",), (), float("inf")), []
    plan = Plan("lifter", "lifter", "lifter-small")
    begun = training.folder(plan) / BEGUN_FILE

    def jobs(jobs, logs, environment):
        # What an earlier way has left does not count as the next one's beginning.
        assert not begun.exists()
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.touch()
        taken.extend(jobs)
        return [Result(jobs[0].name, "failed", 1.0, None, "stopped")]

    monkeypatch.setattr(training_module, "run_jobs", jobs)
    assert len(train_plan(plan, training)) == 4
    assert [job.seconds_to_begin for job in taken] == [TO_BEGIN, TO_BEGIN, TO_BEGIN, float("inf")]
    assert {job.begun for job in taken} == {begun}


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (Plan("later", "lifter", "no-such-rays"), "there is no configuration no-such-rays"),
        (Plan("refiner", "refiner", "refiner-small"), "--plan-option 'refiner=--lifter FILE'"),
    ],
)
def test_a_plan_that_cannot_run_is_skipped(plan, why, tmp_path):
    (result,) = train_plan(plan, Training(RunSetup(tmp_path, "cpu", True), (), (), float("inf")))
    assert (result.name, result.status) == (plan.name, "skipped") and why in result.why
