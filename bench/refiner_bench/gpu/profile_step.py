"""Profile of a training step of each plan: the kernels with the most time, for the batch and the step separately."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from refiner.cli.common import run
from refiner.cli.train import build_parser as train_parser
from refiner.cli.train import configuration_of, open_folders
from refiner.data import MotionFolder
from refiner.files import atomic_write_text
from refiner.training.optimiser import build_optimiser
from refiner.training.runs import PreparedRun, prepare_lifter, prepare_refiner
from refiner.training.schedule import MovingAverage
from refiner.training.steps import build_step, check_device
from refiner_bench.report import JsonObject

# The number of warm-up steps, and of measured steps.
WARM_UP, STEPS = 5, 10
# The number of rows of a table, and of characters of a kernel's name.
ROWS, ROWS_OF_BATCH, NAME_CHARACTERS = 15, 5, 80
# The ways to run a step. "none" is not compiled; with it kernels have the names of PyTorch's operations.
WAYS = ("none", "compile")
# The least time in seconds for the start of a way.
LEAST_SECONDS = {"none": 3.0, "compile": 15.0}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the job's arguments."""
    parser = argparse.ArgumentParser(prog="profile", allow_abbrev=False)
    parser.add_argument("--plans", type=Path, required=True, help="JSON: name -> words of refiner-train")
    parser.add_argument("--output", type=Path, required=True, help="JSON, written again after every plan and way")
    parser.add_argument("--seconds", type=float, required=True, help="the job ends by itself after this time")
    parser.add_argument("--compiled", action="store_true", help="measure all plans compiled, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each plan without compiling, then compiled, while there is time."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    until = time.monotonic() + arguments.seconds
    # Compiling cannot be interrupted. Earlier results are already in the file, so that the process can simply end.
    watch = threading.Timer(arguments.seconds, _out_of_time)
    watch.daemon = True
    watch.start()
    plans: dict[str, list[str]] = json.loads(arguments.plans.read_text(encoding="utf-8"))
    profiles: dict[str, dict[str, JsonObject]] = {name: {} for name in plans}
    folders: dict[str, MotionFolder] = {}
    prepared: dict[str, PreparedRun] = {}
    for way in WAYS if arguments.compiled else WAYS[:1]:
        for name, words in plans.items():
            if until - time.monotonic() < LEAST_SECONDS[way]:
                print(f"no time was left for {name}, {way}")
                continue
            print(f"{name}, {way}: loading")
            try:
                if name not in prepared:
                    prepared[name] = _prepared(words, folders)
                profiles[name][way] = profiled(f"{name}, {way}", _by_way(prepared[name], way))
            except Exception as error:  # errors of many types; the other plans go on
                profiles[name][way] = {"failed": (str(error).strip() or repr(error)).splitlines()[0]}
                print(f"{name}, {way}: {profiles[name][way]['failed']}")
            atomic_write_text(arguments.output, json.dumps(profiles, indent=1) + "\n")
    watch.cancel()
    return 4 if any("failed" in entry for ways in profiles.values() for entry in ways.values()) else 0


def _out_of_time() -> None:
    print("the time is over", flush=True)
    os._exit(0)


def _prepared(words: Sequence[str], folders: dict[str, MotionFolder]) -> PreparedRun:
    """Prepare the training of ``refiner-train`` with these arguments.

    Args:
        words: The arguments of ``refiner-train``.
        folders: The motion folders that were already read. New folders are added.
    """
    arguments = train_parser().parse_args(words)
    config = configuration_of(arguments)
    check_device(config.training.device)
    key = json.dumps([arguments.data, arguments.weight])
    if key not in folders:
        folders[key] = open_folders(arguments, config)
    if arguments.kind == "lifter":
        return prepare_lifter(config, folders[key])
    return prepare_refiner(config, folders[key])


def _by_way(prepared: PreparedRun, way: str) -> PreparedRun:
    """The same training with another setting of ``training.compile``."""
    training = dataclasses.replace(prepared.config.training, compile=way)  # type: ignore[arg-type]
    return dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, training=training))


@dataclasses.dataclass(frozen=True)
class KernelTime:
    """A kernel in a profile: its name, its calls per step and its milliseconds per step."""

    name: str
    calls: float
    ms: float


@dataclasses.dataclass(frozen=True)
class StepProfile:
    """The profile of a training step. The field names are the keys of the JSON file.

    On a CPU every operation counts as a kernel.

    Attributes:
        wall_ms: Milliseconds of a whole step with its batch, without the profiler.
        host_ms: Milliseconds until the host has finished the step.
        device_ms: Milliseconds of all kernels of a step without its batch.
        kernels: The number of kernel launches of a step without its batch.
        batch_wall_ms: Like ``wall_ms``, for the sampling of the batch alone.
        batch_host_ms: Like ``host_ms``, for the sampling of the batch alone.
        batch_device_ms: Like ``device_ms``, for the sampling of the batch alone.
        batch_kernels: Like ``kernels``, for the sampling of the batch alone.
        rows: The kernels of a step with the most time.
        batch_rows: The kernels of the batch with the most time.
    """

    wall_ms: float
    host_ms: float
    device_ms: float
    kernels: float
    batch_wall_ms: float
    batch_host_ms: float
    batch_device_ms: float
    batch_kernels: float
    rows: list[KernelTime]
    batch_rows: list[KernelTime]


def profiled(name: str, prepared: PreparedRun) -> JsonObject:
    """Profile a training step; returns the entry of the JSON file, see `StepProfile`.

    Args:
        name: A name for lines of progress.
        prepared: The training.
    """
    config, task, sampler = prepared.config, prepared.task, prepared.sampler
    device = torch.device(config.training.device)
    model = task.model.to(device)
    # On CUDA the optimiser is that of a captured step, whose learning rates are tensors.
    optimiser = build_optimiser(model, config.optimiser, device.type == "cuda")
    average = MovingAverage(model, config.training.ema)
    take_step = build_step(config, task, optimiser, average)
    model.train()
    print(f"{name}: first steps")
    for step in range(WARM_UP):
        take_step(step, sampler.batch(step))
    fixed_batch = sampler.batch(0)

    def batch(step: int) -> None:
        sampler.batch(step)

    def whole(step: int) -> None:
        take_step(step, sampler.batch(step))

    def alone(step: int) -> None:
        take_step(step, fixed_batch)

    print(f"{name}: timing")
    batch_host, batch_wall = timed(batch, device)
    host, wall = timed(whole, device)
    print(f"{name}: profiling")
    rows, batch_rows = kernels_of(alone, device), kernels_of(batch, device)
    step_profile = StepProfile(
        wall_ms=wall,
        host_ms=host,
        device_ms=sum(row.ms for row in rows),
        kernels=sum(row.calls for row in rows),
        batch_wall_ms=batch_wall,
        batch_host_ms=batch_host,
        batch_device_ms=sum(row.ms for row in batch_rows),
        batch_kernels=sum(row.calls for row in batch_rows),
        rows=rows[:ROWS],
        batch_rows=batch_rows[:ROWS_OF_BATCH],
    )
    entry = dataclasses.asdict(step_profile)
    totals = ", ".join(f"{key} {value:.1f}" for key, value in entry.items() if not isinstance(value, list))
    print(f"{name}: {totals}")
    for row in step_profile.rows:
        print(f"  {row.ms:9.3f} ms {row.calls:7.1f} x {row.name}")
    return entry


def timed(function: Callable[[int], None], device: torch.device) -> tuple[float, float]:
    """Time `STEPS` calls.

    Args:
        function: Runs one step, whose number it receives.
        device: The device.

    Returns:
        Milliseconds per call until the host has finished, and until the device has finished all calls.
    """
    _wait(device)
    began = time.perf_counter()
    for step in range(STEPS):
        function(WARM_UP + step)
    host = time.perf_counter() - began
    _wait(device)
    return 1000 * host / STEPS, 1000 * (time.perf_counter() - began) / STEPS


def kernels_of(function: Callable[[int], None], device: torch.device) -> list[KernelTime]:
    """The kernels of a call, those with the most time first."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for step in range(STEPS):
            function(WARM_UP + step)
        _wait(device)
    return table(profiler.events() or (), device.type == "cuda", STEPS)


def table(events: Iterable[Any], on_cuda: bool, steps: int) -> list[KernelTime]:
    """Sum the events of PyTorch's profiler by kernel.

    Args:
        events: The events.
        on_cuda: Whether to sum the events of CUDA; otherwise those of the CPU.
        steps: The number of steps that the events are from.
    """
    calls: dict[str, int] = defaultdict(int)
    micros: dict[str, float] = defaultdict(float)
    wanted = "CUDA" if on_cuda else "CPU"
    for event in events:
        # A range that user code named contains kernels, which must not count twice.
        if event.device_type.name != wanted or getattr(event, "is_user_annotation", False):
            continue
        name = event.name[:NAME_CHARACTERS]
        calls[name] += 1
        micros[name] += event.time_range.elapsed_us() if on_cuda else event.self_cpu_time_total
    rows = [KernelTime(name, calls[name] / steps, micros[name] / 1000 / steps) for name in calls]
    return sorted(rows, key=lambda row: -row.ms)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
