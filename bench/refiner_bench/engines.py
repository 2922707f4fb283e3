"""Latency of one window in every engine that this machine has, beside what a plain port and export would give."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from refiner_export.build import Clock, assemble
from refiner_export.engines import engine_module
from refiner_export.gate import parity_windows
from refiner_export.graph import example_inputs, quiet_exporter
from refiner_export.options import Batch, ExportOptions

from refiner.engines import EngineOptions
from refiner.errors import MissingComponentError, UsageError
from refiner.evaluation.tables import markdown_table
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import UnrolledRefiner
from refiner.reports import new_report
from refiner.runtime.engine import input_names
from refiner.runtime.loading import open_engine
from refiner_bench.naive_model import naive_form
from refiner_bench.timing import Run, best_rate, interleaved, large_product, ratio_interval
from refiner_bench.untrained import random_checkpoint

PEER = "plain export in ONNX Runtime"
# Engine and precision, in the order of the report.
CONTESTANTS = {
    "cpu": (
        ("onnx", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("aoti", "fp32"),
        ("torch", "fp32"),
        ("torch-compile", "fp32"),
    ),
    "cuda": (
        ("onnx", "fp32"),
        ("onnx", "fp16"),
        ("aoti", "fp32"),
        ("aoti", "fp16"),
        ("torch", "fp32"),
        ("torch-compile", "fp32"),
    ),
}
WARM_UP = 5


def engines_report(
    checkpoint: Path | None, batch: int, threads: int, rounds: int, without: list[str], device: str = "cpu"
) -> dict[str, Any]:
    """Milliseconds of a call: median, p99, ratio to the peer with a 95 % interval over rounds, all in one run.

    ``checkpoint`` None is a refiner of the paper's size with random weights. A round calls every contestant once, in an
    order that turns by one each round. On ``device`` "cuda" a call brings its windows to the device and the result
    back. Raises UsageError for counts below 1, MissingComponentError without the device.
    """
    if min(batch, threads, rounds) < 1:
        raise UsageError(f"batch, threads and rounds must be at least 1, got {batch}, {threads} and {rounds}")
    with tempfile.TemporaryDirectory() as name:
        file = checkpoint or random_checkpoint(Path(name) / "random.safetensors")
        pairs = [pair for pair in CONTESTANTS[device] if pair[0] not in without]
        measured = measure_engines(file, batch, threads, rounds, pairs, device=device)
    module = measured.module
    settings: dict[str, Any] = {"batch": batch, "threads": threads, "rounds": rounds, "device": device}
    settings |= {"frames": module.frames, "steps": module.steps, "model": module.config["model"]}
    report = new_report("engines", settings)
    if device == "cuda":
        report["environment"]["gpu"] = torch.cuda.get_device_name()
    report["contestants"] = measured.contestants
    report["missing"] = measured.missing
    report["floor_ms"] = _floors(module, batch)
    return report


@dataclass(frozen=True)
class Measured:
    """``contestants``: title -> times, ratio to the peer and facts; ``missing``: title -> what is not installed."""

    module: UnrolledRefiner
    contestants: dict[str, dict[str, Any]]
    missing: dict[str, str]


def measure_engines(
    checkpoint: Path,
    batch: int,
    threads: int,
    rounds: int,
    pairs: Sequence[tuple[str, str]],
    steps: int | None = None,
    frames: int | None = None,
    device: str = "cpu",
) -> Measured:
    """Every (engine, precision) of ``pairs`` and the peer, built from one checkpoint and timed in one run."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; leave --device cuda out")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        module = module_of(load_checkpoint(checkpoint, "refiner"), steps, str(checkpoint))
        assert isinstance(module, UnrolledRefiner)
        if frames is not None:
            module.frames = frames
        inputs = parity_windows(batch, module.frames)
        session, nodes = _plain_export(module, batch, threads, device)
        feeds = dict(zip(input_names("refiner"), inputs, strict=True))
        runs: dict[str, Run] = {PEER: lambda: session.run(None, feeds)[0]}
        notes: dict[str, dict[str, Any]] = {PEER: nodes}
        missing: dict[str, str] = {}
        for engine, precision in pairs:
            title = f"{engine} {precision}"
            place = Path(name) / title.replace(" ", "-")
            place.mkdir()
            # PyTorch compiles the checkpoint itself when it is loaded.
            built = engine.removesuffix("-compile")
            options = ExportOptions(
                built,
                place,
                checkpoint,
                precision=precision,
                batch=_batch(built, batch),
                steps=steps,
                frames=frames,
                device=device,
            )
            try:
                engine_module(built).require(options)
            except (MissingComponentError, UsageError) as error:
                missing[title] = str(error)
                continue
            began = time.perf_counter()
            made = assemble(options, place, Clock())
            notes[title] = {"build_s": time.perf_counter() - began, "bytes": _bytes_of(place)}
            runtime = engine if built == "torch" else None
            where = device if options.has_device else None
            opened = open_engine(made.target, "refiner", EngineOptions(runtime, threads=threads, device=where))
            runs[title] = lambda opened=opened: opened(*inputs)  # type: ignore[misc]
            if "nodes" in made.manifest:
                counts = made.manifest["nodes"]
                notes[title] |= {"nodes": sum(counts.values()), "transposes": counts.get("Transpose", 0)}
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in inputs)).numpy()
        differences = {title: float(1000 * np.abs(run() - expected).max()) for title, run in runs.items()}
        rates = interleaved({title: (1, run) for title, run in runs.items()}, rounds, WARM_UP)
    times = {title: 1000.0 / np.array(values) for title, values in rates.items()}
    contestants = {
        title: {
            "median_ms": float(np.median(values)),
            "p99_ms": float(np.percentile(values, 99)),
            "faster_than_peer": ratio_interval(times[PEER] / values),
            "largest_difference_mm": differences[title],
            **notes[title],
        }
        for title, values in times.items()
    }
    return Measured(module, contestants, missing)


def _bytes_of(folder: Path) -> int:
    """Of the files of an artefact, without its manifest."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")


def _batch(engine: str, batch: int) -> Batch:
    return Batch() if engine == "torch" else Batch(batch, batch, batch)


def _plain_export(module: UnrolledRefiner, batch: int, threads: int, device: str) -> tuple[Any, dict[str, Any]]:
    """The naive module through ``torch.onnx.export`` and ONNX Runtime with their defaults."""
    import onnx
    import onnxruntime

    with quiet_exporter():
        program = torch.onnx.export(
            naive_form(module), example_inputs("refiner", module.frames, batch), dynamo=True, verbose=False
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    operators = [node.op_type for node in graph.graph.node]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise MissingComponentError(f"ONNX Runtime did not load {provider}: pip install 'refiner[gpu]'")
    names = [entry.name for entry in session.get_inputs()]
    if names != input_names("refiner"):
        raise UsageError(f"the plain export renamed its inputs to {names}")
    return session, {"nodes": len(operators), "transposes": operators.count("Transpose")}


def _floors(module: UnrolledRefiner, batch: int) -> dict[str, float]:
    """What the linear layers alone would take at the rate of a large product, float32 and bfloat16, in ms."""
    dim = int(module.config["model"]["dim"])
    blocks, ratio = int(module.config["model"]["blocks"]), int(module.config["model"]["mlp_ratio"])
    tokens = batch * module.frames * 17
    # Two attention modules (qkv, proj) and the MLPs of a block.
    flops = 2.0 * tokens * dim * dim * blocks * module.steps * (2 * 4 + 2 * ratio)
    floors = {"gflop": flops / 1e9}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        floors[f"{name}_ms"] = 1000.0 * flops / best_rate(*large_product(dtype))
    return floors


def format_engines(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    rows = [
        [
            title,
            f"{entry['median_ms']:.1f}",
            f"{entry['p99_ms']:.1f}",
            "{ratio:.2f} ({low:.2f} to {high:.2f})".format(**entry["faster_than_peer"]),
            f"{report['floor_ms']['float32_ms'] / entry['median_ms']:.0%}",
            f"{entry['largest_difference_mm']:.4f}",
            str(entry.get("nodes", "")),
            str(entry.get("transposes", "")),
        ]
        for title, entry in report["contestants"].items()
    ]
    speed = "times as fast as the plain export"
    head = ["engine", "median ms", "p99 ms", speed, "of the float32 floor", "largest mm", "nodes", "transposes"]
    floors = report["floor_ms"]
    return (
        f"One call of {settings['batch']} window(s), T = {settings['frames']}, K = {settings['steps']}, model "
        f"{settings['model']}, {settings['threads']} thread(s), {settings['rounds']} rounds, "
        f"{report['environment'].get('gpu') or report['environment']['processor']}\n\n"
        + markdown_table(head, rows)
        + f"\n\nThe floor, the linear layers alone ({floors['gflop']:.2f} GFLOP) at the rate of a large product: "
        f"{floors['float32_ms']:.1f} ms in float32, {floors['bfloat16_ms']:.1f} ms in bfloat16."
    )
