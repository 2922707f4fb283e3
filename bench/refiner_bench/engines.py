"""Latency of one call in every engine that this machine has, compared with a plain port of the model and its export."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from refiner_export.build import Clock, assemble
from refiner_export.engines import engine_module
from refiner_export.gate import parity_windows
from refiner_export.graph import example_inputs, quiet_exporter
from refiner_export.options import Batch, ExportOptions

from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, NATIVE, EngineOptions
from refiner.errors import MissingComponentError, UsageError
from refiner.evaluation.tables import markdown_table
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.models import UnrolledRefiner
from refiner.reports import Report, new_report
from refiner.runtime.engine import input_names
from refiner.runtime.loading import open_engine
from refiner_bench.naive_model import naive_form
from refiner_bench.report import JsonObject
from refiner_bench.timing import Contestant, Ratio, interleaved, large_product, ratio_interval
from refiner_bench.untrained import random_checkpoint

PEER = "plain export in ONNX Runtime"
# Pairs of engine and precision by device, in the order of the report.
CONTESTANTS = {
    "cpu": (
        (NATIVE, "fp32"),
        (NATIVE, "bf16"),
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
# A turn lasts at least this long, so that a short call is not timed while the processor wakes up from the pause.
TURN_S = 0.03
# The contestants that give the floor: a large matrix product, by the precision of the engines that it is a floor for.
FLOORS = {"fp32": torch.float32, "bf16": torch.bfloat16}
FLOOR = "large product, "

# Runs one call of an engine on fixed windows; returns the refined poses (batch, T, 17, 3) in metres.
EngineCall = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class GraphSize:
    """The number of nodes of an ONNX graph, and how many of them are transposes."""

    nodes: int
    transposes: int


@dataclass(frozen=True)
class EngineResult:
    """The measurement of one engine. The field names are the keys of the JSON reports.

    Attributes:
        median_ms: The median of all rounds. A round is a call, or the median of as many as take 30 ms.
        p99_ms: Their 99th percentile.
        faster_than_peer: How many times as fast as the plain export the engine was.
        largest_difference_mm: The largest difference of a coordinate to the result of PyTorch.
        build_s: The duration of the export in seconds; None for the plain export.
        bytes: The size of the exported files without the manifest; None for the plain export.
        nodes: The nodes of the graph; None for an engine without an ONNX graph.
        transposes: The transposes among them.
        of_floor: The time of the linear layers alone, at the rate of a large product in the engine's own precision,
            relative to the time of a call; None for a precision or a device without a floor.
        slower_than_native: How many times as long as the native engine in float32 it took; None where that is missing.
    """

    median_ms: float
    p99_ms: float
    faster_than_peer: Ratio
    largest_difference_mm: float
    build_s: float | None = None
    bytes: int | None = None
    nodes: int | None = None
    transposes: int | None = None
    of_floor: Ratio | None = None
    slower_than_native: Ratio | None = None

    def to_json(self) -> dict[str, object]:
        """The entry of a JSON report; fields without a value are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class MeasuredEngines:
    """The results of `measure_engines`.

    Attributes:
        module: The model in PyTorch.
        contestants: The result of each contestant by its title, for example "onnx fp32".
        missing: For each contestant that can't run here, the reason.
        floor_ms: The operations of the linear layers of a call in GFLOP ("gflop"), and their time at the rate of a
            large product that took turns with the engines ("float32_ms", "bfloat16_ms"), a lower bound of a call's.
    """

    module: UnrolledRefiner
    contestants: dict[str, EngineResult]
    missing: dict[str, str]
    floor_ms: dict[str, float]


@dataclass(frozen=True)
class _Built:
    """One exported engine, ready to run, with facts about its export."""

    call: EngineCall
    build_s: float | None = None
    bytes: int | None = None
    graph: GraphSize | None = None


def engines_report(
    checkpoint: Path | None,
    batch: int,
    threads: int,
    rounds: int,
    without: list[str],
    device: str = "cpu",
    frames: int | None = None,
) -> Report:
    """Measure every engine that is installed, all in one run.

    A round calls every contestant once. The order rotates by one position from round to round. On ``device`` "cuda" a
    call includes the copy of the windows to the device and of the result back.

    Args:
        checkpoint: A refiner; None for random weights in the paper's size.
        batch: The number of windows of a call.
        threads: The number of threads of every engine.
        rounds: The number of timed rounds.
        without: The names of engines to leave out.
        device: "cpu" or "cuda".
        frames: The frames T of a window; None for those of the checkpoint.

    Returns:
        The report: for each engine the median and the 99th percentile in milliseconds, its speed relative to the plain
        export and to the native engine, and its share of the floor, with 95 % intervals over rounds.

    Raises:
        UsageError: A count is below 1.
        MissingComponentError: The device isn't there.
    """
    if min(batch, threads, rounds, 1 if frames is None else frames) < 1:
        raise UsageError(f"batch, threads, rounds and frames must be at least 1, got {batch}, {threads} and {rounds}")
    with tempfile.TemporaryDirectory() as name:
        file = checkpoint or random_checkpoint(Path(name) / "random.safetensors")
        if frames is not None:
            # The weights fit any length. So the engines that run the checkpoint itself take part, too.
            loaded, file = load_checkpoint(file, "refiner"), Path(name) / "length.safetensors"
            save_checkpoint(file, {**loaded.config, "frames": frames}, loaded.tensors)
        pairs = [pair for pair in CONTESTANTS[device] if pair[0] not in without]
        measured = measure_engines(file, batch, threads, rounds, pairs, device=device)
    module = measured.module
    settings = {
        "batch": batch,
        "threads": threads,
        "rounds": rounds,
        "device": device,
        "frames": module.frames,
        "steps": module.steps,
        "model": module.config["model"],
    }
    report = new_report("engines", settings)
    if device == "cuda":
        report["environment"]["gpu"] = torch.cuda.get_device_name()
    report["contestants"] = {title: result.to_json() for title, result in measured.contestants.items()}
    report["missing"] = measured.missing
    report["floor_ms"] = measured.floor_ms
    return report


def measure_engines(
    checkpoint: Path,
    batch: int,
    threads: int,
    rounds: int,
    pairs: Sequence[tuple[str, str]],
    steps: int | None = None,
    frames: int | None = None,
    device: str = "cpu",
) -> MeasuredEngines:
    """Build engines and the plain export from one checkpoint, and time all of them in one run.

    Args:
        checkpoint: A refiner.
        batch: The number of windows of a call.
        threads: The number of threads of every engine.
        rounds: The number of timed rounds.
        pairs: The engines to measure, each with its precision.
        steps: The denoising steps K; None for those of the checkpoint.
        frames: The frames T of a window; None for those of the checkpoint.
        device: "cpu" or "cuda".

    Raises:
        MissingComponentError: PyTorch sees no CUDA device, or ONNX Runtime lacks its CUDA provider.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; leave --device cuda out")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        module = module_of(load_checkpoint(checkpoint, "refiner"), steps, str(checkpoint))
        assert isinstance(module, UnrolledRefiner)
        if frames is not None:
            module.frames = frames
        inputs = parity_windows(batch, module.frames)
        engines = {PEER: _plain_export(module, inputs, threads, device)}
        missing: dict[str, str] = {}
        for engine, precision in pairs:
            title = f"{engine} {precision}"
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            # "torch-compile" and "native" run the checkpoint itself, as "torch" does.
            runs_checkpoint = ENGINES[engine].suffix == CHECKPOINT_SUFFIX
            exported = "torch" if runs_checkpoint else engine
            options = ExportOptions(
                exported,
                folder,
                checkpoint,
                precision="fp32" if runs_checkpoint else precision,
                batch=_batch(exported, batch),
                steps=steps,
                frames=frames,
                device=device,
            )
            try:
                engine_module(exported).require(options)
                opened_with = _open_options(engine, precision, threads, device if options.has_device else None)
                engines[title] = _build(options, inputs, opened_with)
            except (MissingComponentError, UsageError) as error:
                missing[title] = str(error)
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(array) for array in inputs)).numpy()
        differences = {title: float(1000 * np.abs(built.call() - expected).max()) for title, built in engines.items()}
        calls = {title: Contestant(1, built.call) for title, built in engines.items()}
        products = {} if device == "cuda" else {FLOOR + name: large_product(kind) for name, kind in FLOORS.items()}
        rates = interleaved(calls | products, rounds, WARM_UP, TURN_S)
    flops = _linear_flops(module, batch)
    times = {title: 1000.0 / np.array(rates[title]) for title in engines}
    floors = {name: 1000.0 * flops / np.array(rates[FLOOR + name]) for name in FLOORS if FLOOR + name in rates}
    floor_ms = {"gflop": flops / 1e9} | {
        f"{str(FLOORS[name]).removeprefix('torch.')}_ms": float(np.median(values)) for name, values in floors.items()
    }
    native = times.get(f"{NATIVE} fp32")
    results = {}
    for title, milliseconds in times.items():
        built, floor = engines[title], floors.get(title.split()[-1] if title != PEER else "fp32")
        results[title] = EngineResult(
            median_ms=float(np.median(milliseconds)),
            p99_ms=float(np.percentile(milliseconds, 99)),
            faster_than_peer=ratio_interval(times[PEER] / milliseconds),
            largest_difference_mm=differences[title],
            build_s=built.build_s,
            bytes=built.bytes,
            nodes=None if built.graph is None else built.graph.nodes,
            transposes=None if built.graph is None else built.graph.transposes,
            of_floor=None if floor is None else ratio_interval(floor / milliseconds),
            slower_than_native=None if native is None else ratio_interval(milliseconds / native),
        )
    return MeasuredEngines(module, results, missing, floor_ms)


def _open_options(engine: str, precision: str, threads: int, device: str | None) -> EngineOptions:
    """The options that open a contestant. A checkpoint runs in the precision asked for, an artefact in its own."""
    chosen = precision if ENGINES[engine].suffix == CHECKPOINT_SUFFIX and precision != "fp32" else None
    return EngineOptions(engine, threads=threads, device=device, precision=chosen)


def _build(options: ExportOptions, inputs: Sequence[NDArray[np.float32]], opened_with: EngineOptions) -> _Built:
    """Export into the folder of ``options``, and open the result."""
    folder = options.output
    began = time.perf_counter()
    assembled = assemble(options, folder, Clock())
    build_s = time.perf_counter() - began
    size = _bytes_of(folder)
    opened = open_engine(assembled.target, "refiner", opened_with)
    graph = None
    if "nodes" in assembled.manifest:
        counts = assembled.manifest["nodes"]
        graph = GraphSize(sum(counts.values()), counts.get("Transpose", 0))
    return _Built(lambda: opened(*inputs), build_s, size, graph)


def _bytes_of(folder: Path) -> int:
    """The size of all files of an export without its manifest."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".json")


def _batch(engine: str, batch: int) -> Batch:
    return Batch() if engine == "torch" else Batch(batch, batch, batch)


def _plain_export(module: UnrolledRefiner, inputs: Sequence[NDArray[np.float32]], threads: int, device: str) -> _Built:
    """The naive module, exported by ``torch.onnx.export`` and opened in ONNX Runtime, both with their defaults."""
    import onnx
    import onnxruntime

    with quiet_exporter():
        program = torch.onnx.export(
            naive_form(module), example_inputs("refiner", module.frames, len(inputs[0])), dynamo=True, verbose=False
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
        raise MissingComponentError(f"ONNX Runtime did not load {provider}: pip install 'pose-refiner[gpu]'")
    names = [entry.name for entry in session.get_inputs()]
    if names != input_names("refiner"):
        raise UsageError(f"the plain export renamed its inputs to {names}")
    feeds = dict(zip(names, inputs, strict=True))
    return _Built(lambda: session.run(None, feeds)[0], graph=GraphSize(len(operators), operators.count("Transpose")))


def _linear_flops(module: UnrolledRefiner, batch: int) -> float:
    """The operations of a call's linear layers, whose time alone is a lower bound of the call's."""
    dim = int(module.config["model"]["dim"])
    blocks, ratio = int(module.config["model"]["blocks"]), int(module.config["model"]["mlp_ratio"])
    tokens = batch * module.frames * 17
    # The linear layers of a block: qkv and proj of its two attention modules, and the MLPs.
    return 2.0 * tokens * dim * dim * blocks * module.steps * (2 * 4 + 2 * ratio)


def format_engines(report: JsonObject) -> str:
    """The report as Markdown."""
    settings = report["settings"]
    rows = [
        [
            title,
            f"{entry['median_ms']:.1f}",
            f"{entry['p99_ms']:.1f}",
            _interval(entry["faster_than_peer"]),
            _interval(entry.get("slower_than_native")),
            _interval(entry.get("of_floor"), percent=True),
            f"{entry['largest_difference_mm']:.4f}",
            str(entry.get("nodes", "")),
            str(entry.get("transposes", "")),
        ]
        for title, entry in report["contestants"].items()
    ]
    speed = "times as fast as the plain export"
    slower = "times as long as native fp32"
    head = ["engine", "median ms", "p99 ms", speed, slower, "of its floor", "largest mm", "nodes", "transposes"]
    floors = report["floor_ms"]
    at = [f"{floors[f'{name}_ms']:.2f} ms in {name}" for name in ("float32", "bfloat16") if f"{name}_ms" in floors]
    return (
        f"One call of {settings['batch']} window(s), T = {settings['frames']}, K = {settings['steps']}, model "
        f"{settings['model']}, {settings['threads']} thread(s), {settings['rounds']} rounds, "
        f"{report['environment'].get('gpu') or report['environment']['processor']}\n\n"
        + markdown_table(head, rows)
        + f"\n\nThe floor, the linear layers alone ({floors['gflop']:.2f} GFLOP) at the rate of a large product in the "
        f"engine's precision, in the same rounds: {', '.join(at) or 'none'}.\n"
        + "".join(f"\n{title} was not measured: {reason}" for title, reason in report["missing"].items())
    )


def _interval(ratio: JsonObject | None, percent: bool = False) -> str:
    """A ratio with its interval; empty for None, 1 for a contestant compared with itself."""
    if ratio is None:
        return ""
    if ratio["low"] == ratio["high"] == 1.0:
        return "1"
    return ("{ratio:.0%} ({low:.0%} to {high:.0%})" if percent else "{ratio:.2f} ({low:.2f} to {high:.2f})").format(
        **ratio
    )
