"""Training by several processes, and on the parts of a batch, ends as training by one process on the same batches."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from shared_runs import LEAST_MINUTES, shared_config, train_lifters, train_shared

from refiner.diffusion.noise_model import ConditionalMoments
from refiner.errors import ConfigError, MissingComponentError, TrainingError, UsageError
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import FinePOSE
from refiner.training import processes as processes_module
from refiner.training.diffusion_lifter import DiffusionLifterTask, label_numbers
from refiner.training.loop import HISTORY_FILE, LAST_FILE, STATE_FILE
from refiner.training.optimiser import build_optimiser
from refiner.training.parts import PartedSampler, PartedStep
from refiner.training.processes import ALONE, Processes, SharedTime, current, joined
from refiner.training.runs import prepare_lifter, train_lifter
from refiner.training.schedule import MovingAverage, TimeBox
from refiner.training.steps import EagerStep
from refiner.training.tasks import LifterTask
from refiner.training.windows import Windows, WindowSampler

PROGRAM = str(Path(__file__).parent / "shared_runs.py")
RUNS = ("lifter", "muon", "refiner", "repeated", "pool", "actions")
# Far above the time of the runs, far below the time that processes wait for each other.
PATIENCE = 600


def start(*arguments, processes=2):
    """Run the program as several processes without torchrun -> what each of them wrote and its exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    running = []
    for rank in map(str, range(processes)):
        environment = {**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, PROGRAM, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
    try:
        return [(*process.communicate(timeout=PATIENCE), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.fixture(scope="module")
def lifters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lifters")
    train_lifters(folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, lifters):
    """All runs by one process."""
    folder = tmp_path_factory.mktemp("alone")
    train_shared(RUNS, lifters, folder)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory, lifters):
    """All runs by two processes, and a run that one process began, two continued, and one ended."""
    folder = tmp_path_factory.mktemp("together")
    train_shared(["lifter"], lifters, folder / "pieces", LEAST_MINUTES)
    pieces = ("--one-step", "lifter", folder / "pieces")
    written = start(*RUNS, "default", "--lifters", lifters, "--output", folder, *pieces)
    assert [code for *_, code in written] == [0, 0], written
    train_shared(["lifter"], lifters, folder / "pieces")
    return folder, written


def assert_same_run(found, expected):
    """The states of two runs are equal to rounding: weights, averages, and the moments that collect the gradients."""
    found, expected = load_file(found / STATE_FILE), load_file(expected / STATE_FILE)
    assert found.keys() == expected.keys()
    largest: dict[str, float] = {}
    for name, value in expected.items():
        largest[kind_of(name)] = max(largest.get(kind_of(name), 0.0), float(value.abs().max()))
    assert min(largest.values()) > 0
    for name, value in expected.items():
        # The gradient of some biases is nothing but rounding, of which Adam makes steps: all tensors count.
        tolerance = 1e-5 * float(value.abs().max()) + 1e-6 * largest[kind_of(name)]
        assert float((found[name] - value).abs().max()) <= tolerance, name


def kind_of(name):
    """ "model", "average", or the name of a moment of the optimiser."""
    return name.split(".")[-1 if name.startswith("optimiser.") else 0]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(name, alone, together):
    """Windows, noise, dropout, clipping, averages, lifters of a pool and the noise fit are those of one process."""
    folder, _ = together
    assert_same_run(folder / name, alone / name)
    ours, theirs = (json.loads((run / name / HISTORY_FILE).read_text()) for run in (folder, alone))
    for here, there in zip(ours, theirs, strict=True):
        assert here["step"] == there["step"]
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
        assert here["mpjpe_mm"] == pytest.approx(there["mpjpe_mm"], rel=1e-4)
    found, expected = (load_checkpoint(run / name / LAST_FILE).tensors for run in (folder, alone))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_a_run_changes_its_number_of_processes(alone, together):
    folder, _ = together
    assert_same_run(folder / "pieces" / "lifter", alone / "lifter")
    curve = json.loads((folder / "pieces" / "lifter" / HISTORY_FILE).read_text())
    assert [(point["step"], point.get("processes", 1)) for point in curve] == [(1, 1), (2, 2), (3, 1), (6, 1)]
    with safe_open(folder / "pieces" / "lifter" / STATE_FILE, "pt") as state:
        assert "rank" not in state.metadata()["run"]


def test_the_first_process_alone_reports(together):
    folder, ((progress, _, _), (silent, errors, _)) = together
    assert (silent, errors) == ("", "")
    assert " windows/s (" in progress and " a process), validation " in progress
    point = json.loads((folder / "default" / HISTORY_FILE).read_text())[-1]
    assert point["processes"] == 2
    assert point["windows_per_s_per_process"] == pytest.approx(point["windows_per_s"] / 2)
    stored = load_checkpoint(folder / "default" / LAST_FILE).config
    assert stored["training"]["parts"] == stored["metrics"]["processes"] == 2


@pytest.mark.parametrize(("how", "rank"), [("raised", 1), pytest.param("killed", 0, marks=pytest.mark.slow)])
def test_a_process_that_fails_ends_all_with_one_message(how, rank, lifters, tmp_path):
    """By the environment alone, so that no launcher ends the others."""
    failing = ("--fail", rank, 2 + rank, how)
    written = start("default", "--lifters", lifters, "--output", tmp_path, *failing)
    assert all(code != 0 for *_, code in written)
    said = [line for _, errors, _ in written for line in errors.splitlines() if line.startswith("error:")]
    expected = "windows.npz: the disk is full" if how == "raised" else "process 1 lost another process of the training"
    assert len(said) == 1 and expected in said[0]
    assert "Traceback" not in "".join(errors for _, errors, _ in written)


@pytest.mark.slow
def test_torchrun_trains_with_the_command(lifters, tmp_path, people):
    """Two processes, one, and two again end as one process that never stopped."""
    file = tmp_path / "made.npz"
    arrays = [np.concatenate([clip.pose_2d for clip in people.clips(part)]) for part in ("train", "validation")]
    truth = [np.concatenate([clip.pose_3d for clip in people.clips(part)]) for part in ("train", "validation")]
    target = np.concatenate(truth).astype(np.float32)
    shaken = target + 0.03 * np.random.default_rng(0).standard_normal(target.shape)
    names = np.repeat(["Ann", "Bob"], [len(part) for part in arrays])
    size = people.clips("train")[0].image_size
    np.savez(
        file,
        pose_2d=np.concatenate(arrays),
        pose_3d=(shaken - shaken[:, :1]).astype(np.float32),
        target_3d=target,
        clip=np.arange(len(names)) // 120,
        person=names,
        image_size=np.array(size),
        fps=50.0,
    )
    shared = ["--config", "refiner-small", "--from-predictions", str(file), "--validation-person", "Bob", "--quiet"]
    changes = {"frames": 9, "model.dim": 16, "model.blocks": 1, "training.steps": 3, "training.parts": 2}
    changes |= {"training.batch": 4, "noise.fit_frames": 400, "optimiser.name": "adam", "optimiser.rate": 1e-5}
    shared += itertools.chain.from_iterable(("--set", f"{key}={value}") for key, value in changes.items())

    def train(output, processes, *options):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *launcher, "-m", "refiner.cli.train", "refiner", *shared, "--output", str(output)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best checkpoint: ") == 1

    train(tmp_path / "whole", 1)
    for processes in (2, 1, 2):
        train(tmp_path / "pieces", processes, "--minutes", str(LEAST_MINUTES))
    assert_same_run(tmp_path / "pieces", tmp_path / "whole")


def a_batch(seed, size):
    rng = np.random.default_rng(seed)
    pose_2d, pose_3d = (rng.normal(0, 0.3, (size, 9, 17, axes)).astype(np.float32) for axes in (2, 3))
    return Windows(pose_2d, pose_3d - pose_3d[:, :, :1], np.array(["S1"] * size))


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
@pytest.mark.parametrize("parts", [2, 8])
def test_the_parts_of_a_batch_are_one_batch(parts, clip_norm, tiny):
    optimiser = {"name": "adam", "rate": 1e-5, "clip_norm": clip_norm}
    changes = {"loss": {"joints": "mixste", "smoothness": 0.5, "velocity": 2.0}, "optimiser": optimiser}
    models = []
    for number in (1, parts):
        config = tiny("lifter", training={"batch": 8, "parts": number}, **changes)
        torch.manual_seed(1)
        task = LifterTask(config, build_model(dataclasses.asdict(config)), None)
        optimiser = build_optimiser(task.model, config.optimiser)
        average = MovingAverage(task.model, 0.9)
        step = EagerStep(config, task, optimiser, average)
        if number > 1:
            step = PartedStep(config, task, optimiser, average, ALONE)
        losses = []
        for count in range(3):
            windows = a_batch(count, 8)
            if number > 1:
                rows = np.array_split(np.arange(8), parts)
                pieces = [Windows(windows.pose_2d[row], windows.pose_3d[row], windows.subjects[row]) for row in rows]
                windows = iter([(parts * count + at, piece) for at, piece in enumerate(pieces)])
            losses.append(float(step(count, windows)))
        models.append((losses, average.values, [value.grad for value in task.model.parameters()]))
    (losses, values, gradients), (parted_losses, parted_values, parted_gradients) = models
    assert parted_losses == pytest.approx(losses, rel=1e-5)
    for name, value in values.items():
        if not name.endswith("qkv.bias"):  # a softmax does not see the bias of its keys, whose gradient is rounding
            torch.testing.assert_close(parted_values[name], value, rtol=1e-5, atol=1e-6)
    largest = max(float(value.abs().max()) for value in gradients)
    for found, expected in zip(parted_gradients, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * largest)


def test_a_mean_over_some_windows_is_that_of_the_whole_batch(lifters):
    """The classifier of actions learns from the windows with a known action, of which the parts have 0, 1, 2 and 2."""
    config = shared_config("actions", lifters)
    config = dataclasses.replace(config, optimiser=dataclasses.replace(config.optimiser, clip_norm=0.0))
    torch.manual_seed(0)
    model = build_model(dataclasses.asdict(config))
    assert isinstance(model, FinePOSE) and model.classifier is not None
    task = DiffusionLifterTask(config, model, None)
    whole = a_batch(0, 8)
    labels = np.array(["Boxing", "Boxing", "Boxing", *["Walking"] * 5])
    parts = [
        Windows(whole.pose_2d[at : at + 2], whole.pose_3d[at : at + 2], whole.subjects[:2], actions=labels[at : at + 2])
        for at in range(0, 8, 2)
    ]
    assert [task.counted(part) for part in parts] == [0, 1, 2, 2]
    step = PartedStep(config, task, build_optimiser(model, config.optimiser), MovingAverage(model, 0.9), ALONE)
    known = np.flatnonzero(labels == "Walking")
    numbers = torch.from_numpy(label_numbers(model.actions, labels)[known])
    loss = torch.nn.functional.cross_entropy(model.classifier(torch.from_numpy(whole.pose_2d[known])), numbers)
    expected = torch.autograd.grad(loss, list(model.classifier.parameters()))
    step(0, iter(list(enumerate(parts))))
    for value, gradient in zip(model.classifier.parameters(), expected, strict=True):
        largest = float(gradient.abs().max())
        assert largest > 1e-4
        torch.testing.assert_close(value.grad, gradient, rtol=1e-4, atol=1e-5 * largest)


def test_every_part_is_drawn_once_by_one_process(people, tiny):
    config = tiny("lifter", training={"batch": 12, "parts": 6})
    sampler = prepare_lifter(config, people).sampler
    assert sampler.size == 2
    shares = [PartedSampler(sampler, 6, Processes(rank, 3)) for rank in range(3)]
    drawn = [dict(share.batch(5)) for share in shares]
    assert [sorted(share) for share in drawn] == [[30, 33], [31, 34], [32, 35]]
    whole = dict(PartedSampler(sampler, 6, ALONE).batch(5))
    for number, windows in whole.items():
        np.testing.assert_array_equal(drawn[number % 3][number].pose_2d, windows.pose_2d)
    assert len({windows.pose_2d.tobytes() for windows in whole.values()}) == 6


def test_a_process_draws_its_own_parts_alone(people, tiny, tmp_path, monkeypatch):
    drawn, draw = [], WindowSampler.batch
    monkeypatch.setattr(WindowSampler, "batch", lambda self, step: drawn.append((step, self.size)) or draw(self, step))
    train_lifter(tiny("lifter", training={"parts": 2, "steps": 3, "batch": 8}), people, tmp_path, quiet=True)
    assert drawn == [(number, 4) for number in range(6)]


def test_moments_of_shares_are_those_of_all_frames():
    rng = np.random.default_rng(3)
    shares, whole = [ConditionalMoments() for _ in range(3)], ConditionalMoments()
    for share, frames in zip(shares, (40, 0, 25), strict=True):
        arrays = [rng.normal(size, 1.0, (frames, 17, axes)) for size, axes in ((300.0, 2), (2.0, 3), (0.1, 3))]
        share.update(*arrays)
        whole.update(*arrays)
    merged = ConditionalMoments.merged(shares)
    assert merged.frames == whole.frames == 65
    for found, expected in zip(merged.condition_moments(), whole.condition_moments(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.finish().covariance, whole.finish().covariance, atol=1e-9)


@pytest.mark.parametrize(
    ("processes", "training", "message"),
    [
        (2, {"batch": 9}, "batch is 9, in 2 parts"),
        (2, {"batch": 12, "parts": 3}, r"in 3 parts \(training.parts\) for 2 processes"),
        (1, {"batch": 12, "parts": 5}, "parts that divide the batch"),
        (1, {"batch": 12, "parts": 2, "compile": "graph"}, r'"graph" records a step of one process'),
        (2, {"batch": 12, "compile": "compile-graph"}, 'take "none" or "compile" for 2 parts'),
        (2, {"batch": 12, "device": "cuda:1"}, 'take "cuda"'),
    ],
)
def test_what_several_processes_cannot_do_is_refused(processes, training, message, tiny):
    with pytest.raises(ConfigError, match=message):
        Processes(0, processes).configured(tiny("lifter", training=training))


def test_scenes_that_parts_cannot_share_are_refused(lifters, people):
    from refiner.training.runs import prepare_refiner

    config = shared_config("pool", lifters)
    config = dataclasses.replace(config, stride=9, training=dataclasses.replace(config.training, batch=12, parts=3))
    with pytest.raises(ConfigError, match=r"12 windows has 4 scenes of 3 windows: .* \(training.parts, 3 here\)"):
        prepare_refiner(config, people)


def test_each_process_of_a_machine_has_a_device(tiny, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    config = tiny("lifter", training={"device": "cuda", "batch": 12})
    assert Processes(5, 6, local_rank=1).configured(config).training.device == "cuda:1"
    assert chosen == [1]
    with pytest.raises(MissingComponentError, match="process 2 of this machine has no CUDA device"):
        Processes(2, 3, local_rank=2).configured(config)


def test_a_process_alone_changes_nothing(tiny, monkeypatch):
    config = tiny("lifter", training={"device": "cuda"})
    assert ALONE.configured(config) == config
    assert ALONE.of_first("here") == "here" and ALONE.gathered(3) == [3] and ALONE.total(2.5) == 2.5
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as processes:
        assert processes is ALONE and current() is ALONE


def test_half_of_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="without LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start with torchrun"), joined():
        pass


def test_processes_that_do_not_find_each_other_are_named(monkeypatch):
    monkeypatch.setattr(processes_module, "LONGEST_START", timedelta(seconds=1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", **place}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TrainingError, match="process 1 found no other process at 127"), joined():
            pass


def test_processes_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(Processes, "gathered", lambda self, value: [value, value, "other", value])
    with pytest.raises(TrainingError, match="the processes differ in their data: 2 of 4 from process 0"):
        Processes(1, 4).check_alike("mine", "their data")


def test_the_first_process_s_clock_stops_all(monkeypatch):
    """The processes have other times: what the first one says counts, and is asked for only where there is a limit."""
    asked = []
    monkeypatch.setattr(Processes, "number_of_first", lambda self, value: asked.append(value) or 0.75)
    unlimited = SharedTime(TimeBox(), Processes(1, 2))
    assert not unlimited.over() and unlimited.gone() == 0.0 and asked == []
    limited = SharedTime(TimeBox(60.0), Processes(1, 2))
    assert limited.over() and limited.gone() == 0.0 and asked == [False]
    finishing = SharedTime(TimeBox(60.0, finish=True), Processes(1, 2))
    finishing.begin()
    assert finishing.gone() == 0.75 and len(asked) == 2
