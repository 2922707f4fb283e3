"""A step of a causal refiner, one frame of one person, in every engine: by its window and by reading its weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from refiner_export.build import export_artefact
from refiner_export.options import ExportOptions

from refiner import bundled
from refiner.arguments import check_whole
from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, NATIVE, EngineOptions
from refiner.errors import MissingComponentError, UsageError
from refiner.evaluation.tables import markdown_table
from refiner.model_files.arrays import load_arrays
from refiner.reports import Report, new_report
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner_bench.inputs import refiner_inputs
from refiner_bench.report import JsonObject
from refiner_bench.timing import PAUSE_S, Ratio, Run, ratio_interval
from refiner_bench.untrained import random_checkpoint

MEASURED = (NATIVE, "torch", "onnx")
# A turn of a contestant: as many calls as fill this time. Its first calls do not count.
TURN_S, UNCOUNTED = 0.1, 3
MOST_ROUNDS = 10_000
# The weights that a step reads: those of the layers that every token goes through.
LAYERS = (".qkv.weight", ".proj.weight", ".fc1.weight", ".fc2.weight")
PAPER = ("model.dim=256", "model.blocks=4", "model.causal=true")

Log = Callable[[str], None]


@dataclass(frozen=True)
class StepResult:
    """The steps of one engine. The field names are the keys of the JSON report.

    Attributes:
        p50_ms: The median of all counted steps.
        p99_ms: Their 99th percentile.
        cheaper_than_window: How many times as long the same engine takes for a window of the same model, of as many
            frames as a frame sees; None for an engine that runs no windows of causal models.
        of_reading: How many times as long as reading the packed weights once, in float32, a step takes.
    """

    p50_ms: float
    p99_ms: float
    cheaper_than_window: Ratio | None
    of_reading: Ratio

    def to_json(self) -> dict[str, object]:
        """The entry of a JSON report; fields without a value are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def steps_report(rounds: int, without: Sequence[str] = (), log: Log = lambda line: None) -> Report:
    """Time causal steps of the bundled causal refiner and of one of the paper's width, on one thread.

    Steps and windows of all engines take turns, as do a loop that does nothing else and a pass over as many bytes as
    the weights have.

    Args:
        rounds: The number of timed rounds.
        without: The names of engines to leave out.
        log: Called with lines about the progress.

    Returns:
        The report: for each model and engine the median and the 99th percentile of a step, and its ratios with 95 %
        intervals over rounds.

    Raises:
        UsageError: The number of rounds is out of range, or an engine is unknown.
    """
    rounds = check_whole(rounds, "rounds", 2, MOST_ROUNDS)
    unknown = [name for name in without if name not in MEASURED]
    if unknown:
        raise UsageError(f"{unknown[0]} has no steps here; these have: {', '.join(MEASURED)}")
    torch.set_num_threads(1)
    report = new_report("steps", {"rounds": rounds, "threads": 1})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paper = random_checkpoint(folder / "random-C256.safetensors", "refiner-small-causal", PAPER)
        files = (bundled.default_checkpoint("causal-refiner"), paper)
        engines = [name for name in MEASURED if name not in without]
        report["models"] = {file.stem: _measured(file, folder, engines, rounds, log) for file in files}
    return report


def _measured(file: Path, folder: Path, engines: Sequence[str], rounds: int, log: Log) -> dict[str, object]:
    arrays = load_arrays(file).weights()
    read_bytes = 4 * sum(array.size for name, array in arrays.items() if name.endswith(LAYERS))
    steps: dict[str, Run] = {}
    windows: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for engine in engines:
        log(f"{file.stem}: {engine}")
        try:
            steps[engine] = step_of(file, folder, engine)
            if ENGINES[engine].suffix == CHECKPOINT_SUFFIX:
                windows[engine] = _window(file, engine)
        except MissingComponentError as error:
            missing[engine] = str(error)
    weights = torch.ones(read_bytes // 4)
    contestants = {f"step {name}": run for name, run in steps.items()}
    contestants |= {f"window {name}": run for name, run in windows.items()}
    contestants |= {"reading": weights.sum, "loop": _loop}
    log(f"{file.stem}: timing")
    times = turns(contestants, rounds)
    reading = _medians(times["reading"])
    results = {}
    for engine in steps:
        own = times[f"step {engine}"]
        window = times.get(f"window {engine}")
        results[engine] = StepResult(
            p50_ms=1000.0 * float(np.median(np.concatenate(own))),
            p99_ms=1000.0 * float(np.percentile(np.concatenate(own), 99)),
            cheaper_than_window=None if window is None else ratio_interval(_medians(window) / _medians(own)),
            of_reading=ratio_interval(_medians(own) / reading),
        )
    loop = np.concatenate(times["loop"])
    return {
        "read_bytes": read_bytes,
        "reading_ms": 1000.0 * float(np.median(reading)),
        "loop_p99_of_p50": float(np.percentile(loop, 99) / np.median(loop)),
        "engines": {name: result.to_json() for name, result in results.items()},
        "missing": missing,
    }


def _medians(rounds: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.array([np.median(times) for times in rounds])


def turns(contestants: Mapping[str, Run], rounds: int, turn_s: float = TURN_S) -> dict[str, list[NDArray[np.float64]]]:
    """Time all calls of contestants that take turns; the order rotates by one position from round to round.

    Returns:
        By name, for every round the seconds of each call, without the first ones.
    """
    names = list(contestants)
    times: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run, seconds = contestants[name], list[float]()
            time.sleep(PAUSE_S)
            while len(seconds) <= UNCOUNTED or sum(seconds) < turn_s:
                began = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - began)
            if number:  # the first round warms up
                times[name].append(np.array(seconds[UNCOUNTED:]))
    return times


def _loop() -> None:
    """Does nothing for about 0.1 ms: its own spread is that of the machine and of Python."""
    for _ in range(2500):
        pass


def step_of(file: Path, folder: Path, engine: str) -> Run:
    """One step of an engine: each call takes the next frame of a walk."""
    path = file
    if ENGINES[engine].suffix != CHECKPOINT_SUFFIX:
        path = export_artefact(ExportOptions(engine, folder / f"{file.stem}-{engine}", file), lambda line: None).path
    opened = open_causal_engine(path, EngineOptions(engine, threads=1))
    frames = 100
    keypoints, pose, lens = refiner_inputs(opened.rays, frames)
    seen = [np.ascontiguousarray(keypoints[:, frame]) for frame in range(frames)]
    bodies = [np.ascontiguousarray(pose[:, frame]) for frame in range(frames)]
    count = 0

    def run() -> None:
        nonlocal count
        opened.step(seen[count % frames], bodies[count % frames], lens)
        count += 1

    # As many frames as one sees: from then on every step costs the same.
    for _ in range(opened.frames):
        run()
    return run


def _window(file: Path, engine: str) -> Run:
    opened = open_engine(file, "refiner", EngineOptions(engine, threads=1))
    inputs = refiner_inputs(opened.rays, opened.frames)
    return lambda: opened(*inputs)


def format_models(report: JsonObject) -> str:
    """What was measured of each model, as Markdown."""
    header = ["engine", "p50 ms", "p99 ms", "its window takes, times as long", "times as long as reading the weights"]
    parts = []
    for model, measured in report["models"].items():
        rows = [
            [
                engine,
                f"{entry['p50_ms']:.3f}",
                f"{entry['p99_ms']:.3f}",
                _interval(entry.get("cheaper_than_window")),
                _interval(entry["of_reading"]),
            ]
            for engine, entry in measured["engines"].items()
        ]
        parts.append(f"A step of {model}:\n\n{markdown_table(header, rows)}")
        parts.append(
            f"Reading its {measured['read_bytes'] / 1e6:.1f} MB of weights once takes {measured['reading_ms']:.3f} ms. "
            f"The 99th percentile of an empty loop is {measured['loop_p99_of_p50']:.2f} times its median."
        )
        parts += [f"{engine} was not measured: {reason}" for engine, reason in measured["missing"].items()]
    return "\n\n".join(parts)


def format_steps(report: JsonObject) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    return (
        f"# Causal steps\n\nOne frame of one person, {report['environment']['processor']}, {settings['threads']} "
        f"thread, in turns within one run, {settings['rounds']} rounds.\n\n"
    ) + format_models(report)


def _interval(ratio: JsonObject | None) -> str:
    return "" if ratio is None else "{ratio:.1f} ({low:.1f} to {high:.1f})".format(**ratio)
