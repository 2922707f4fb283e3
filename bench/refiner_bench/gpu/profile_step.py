"""Where the time of a training step goes: kernels by name, the batch and the step apart, for each plan in turn."""

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

# Steps before any is measured, and steps that are measured.
WARM_UP, STEPS = 5, 10
# Rows of a table, and characters of a kernel's name.
ROWS, ROWS_OF_BATCH, NAME_CHARACTERS = 15, 5, 80
# Operation by operation first: there kernels have the names of PyTorch's operations.
WAYS = ("none", "compile")
# A way is not begun with less time than this.
LEAST_SECONDS = {"none": 3.0, "compile": 15.0}


def build_parser() -> argparse.ArgumentParser:
    """The job's arguments."""
    parser = argparse.ArgumentParser(prog="profile", allow_abbrev=False)
    parser.add_argument("--plans", type=Path, required=True, help="JSON: name -> words of refiner-train")
    parser.add_argument("--output", type=Path, required=True, help="JSON, written anew after every plan and way")
    parser.add_argument("--seconds", type=float, required=True, help="the job ends by itself after so many")
    parser.add_argument("--compiled", action="store_true", help="compiled, too, after all plans")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each plan operation by operation, then compiled, while there is time."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    until = time.monotonic() + arguments.seconds
    # Compiling cannot be interrupted. What was measured is written, so the process simply ends.
    watch = threading.Timer(arguments.seconds, _out_of_time)
    watch.daemon = True
    watch.start()
    plans: dict[str, list[str]] = json.loads(arguments.plans.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {name: {} for name in plans}
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
                found[name][way] = profiled(f"{name}, {way}", _by_way(prepared[name], way))
            except Exception as error:  # of many kinds; the other plans go on
                found[name][way] = {"failed": (str(error).strip() or repr(error)).splitlines()[0]}
                print(f"{name}, {way}: {found[name][way]['failed']}")
            atomic_write_text(arguments.output, json.dumps(found, indent=1) + "\n")
    watch.cancel()
    return 4 if any("failed" in entry for ways in found.values() for entry in ways.values()) else 0


def _out_of_time() -> None:
    print("the time is over", flush=True)
    os._exit(0)


def _prepared(words: Sequence[str], folders: dict[str, MotionFolder]) -> PreparedRun:
    """What ``refiner-train`` with these words would train. Folders are read once."""
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
    training = dataclasses.replace(prepared.config.training, compile=way)  # type: ignore[arg-type]
    return dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, training=training))


def profiled(name: str, prepared: PreparedRun) -> dict[str, Any]:
    """Milliseconds of a step and of its batch, and the kernels that take most of them.

    ``wall_ms``: of a whole step, the batch included, without the profiler. ``host_ms``: until the host is done with
    it; ``batch_wall_ms`` and ``batch_host_ms``: the same of the batch alone. ``device_ms`` and ``kernels``: how long
    the device works on a step without the batch, and in how many launches; ``batch_device_ms`` and ``batch_kernels``:
    on a batch. On a CPU an operation counts as a kernel.
    """
    config, task, sampler = prepared.config, prepared.task, prepared.sampler
    device = torch.device(config.training.device)
    model = task.model.to(device)
    # The one that a captured step has, whose rates are tensors.
    optimiser = build_optimiser(model, config.optimiser, device.type == "cuda")
    average = MovingAverage(model, config.training.ema)
    take_step = build_step(config, task, optimiser, average)
    model.train()
    print(f"{name}: first steps")
    for step in range(WARM_UP):
        take_step(step, sampler.batch(step))
    kept = sampler.batch(0)

    def batch(step: int) -> None:
        sampler.batch(step)

    def whole(step: int) -> None:
        take_step(step, sampler.batch(step))

    def alone(step: int) -> None:
        take_step(step, kept)

    print(f"{name}: timing")
    batch_host, batch_wall = timed(batch, device)
    host, wall = timed(whole, device)
    print(f"{name}: profiling")
    rows, batch_rows = kernels_of(alone, device), kernels_of(batch, device)
    result = {
        "wall_ms": wall,
        "host_ms": host,
        "device_ms": sum(row["ms"] for row in rows),
        "kernels": sum(row["calls"] for row in rows),
        "batch_wall_ms": batch_wall,
        "batch_host_ms": batch_host,
        "batch_device_ms": sum(row["ms"] for row in batch_rows),
        "batch_kernels": sum(row["calls"] for row in batch_rows),
    }
    told = ", ".join(f"{key} {value:.1f}" for key, value in result.items())
    print(f"{name}: {told}")
    for row in rows[:ROWS]:
        print(f"  {row['ms']:9.3f} ms {row['calls']:7.1f} x {row['name']}")
    return {**result, "rows": rows[:ROWS], "batch_rows": batch_rows[:ROWS_OF_BATCH]}


def timed(function: Callable[[int], None], device: torch.device) -> tuple[float, float]:
    """Milliseconds of a call until the host is done with it, and until the device is, which ends all calls at once."""
    _wait(device)
    began = time.perf_counter()
    for step in range(STEPS):
        function(WARM_UP + step)
    host = time.perf_counter() - began
    _wait(device)
    return 1000 * host / STEPS, 1000 * (time.perf_counter() - began) / STEPS


def kernels_of(function: Callable[[int], None], device: torch.device) -> list[dict[str, Any]]:
    """What a call launches: ``name``, ``calls`` and ``ms`` of each kernel per call, the longest first."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for step in range(STEPS):
            function(WARM_UP + step)
        _wait(device)
    return table(profiler.events() or (), device.type == "cuda", STEPS)


def table(events: Iterable[Any], on_cuda: bool, steps: int) -> list[dict[str, Any]]:
    """Events of the profiler as rows, per step."""
    calls: dict[str, int] = defaultdict(int)
    micros: dict[str, float] = defaultdict(float)
    wanted = "CUDA" if on_cuda else "CPU"
    for event in events:
        # Ranges that somebody named lie over the kernels in them, and would count them twice.
        if event.device_type.name != wanted or getattr(event, "is_user_annotation", False):
            continue
        name = event.name[:NAME_CHARACTERS]
        calls[name] += 1
        micros[name] += event.time_range.elapsed_us() if on_cuda else event.self_cpu_time_total
    rows = [{"name": name, "calls": calls[name] / steps, "ms": micros[name] / 1000 / steps} for name in calls]
    return sorted(rows, key=lambda row: -float(row["ms"]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
