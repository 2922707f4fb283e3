"""Latency of a refinement on a device: eager, as a replayed CUDA graph, and compiled ahead of time."""

from __future__ import annotations

import argparse
import copy
import faulthandler
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.cli.common import run
from refiner.engines import EngineOptions
from refiner.errors import MissingComponentError
from refiner.model_files.arrays import MODEL_PREFIX
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.model_spec import ModelSpec
from refiner.models import UnrolledRefiner
from refiner.models.causal import CarriedStep, CausalStep
from refiner.models.inference_form import inference_form
from refiner.reports import GPU_LATENCY, Report, new_report, read_json
from refiner.runtime.aoti_engine import open_package
from refiner.runtime.causal import StreamEngine, StreamFacts
from refiner.runtime.causal_torch import AotiCausalEngine, TensorStreamEngine, TorchCausalEngine
from refiner.runtime.loading import open_engine
from refiner_bench.counts import DenoiserSize, window_flops
from refiner_bench.gpu.latency_kernels import kernel_rows
from refiner_bench.gpu.latency_text import format_latency
from refiner_bench.gpu.packages import KINDS, MODELS, PACKAGES, checkpoint_of, package_of
from refiner_bench.gpu.rates import device_rates
from refiner_bench.report import publish
from refiner_bench.streaming.latency import FrameRun, in_turns, summary
from refiner_bench.timing import Ratio

Array = NDArray[np.float32]
# The contestants. On a CUDA device a package is measured twice: launched directly, and replayed as a CUDA graph.
EAGER, GRAPH, LAUNCHED, COMPILED = "torch, eager", "torch, graph replay", "aoti, launched", "aoti"
SEED = 41
# The largest allowed difference of a coordinate to the eager result, as in tests/gpu.
TOLERANCE_MM = 0.05
# A job writes the stacks of all its threads into its log each time this many seconds have passed.
HANGS_S = 20.0
# The number of frames of a stream that are compared with the eager result before it is timed.
COMPARED_FRAMES = 3


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurement.

    Attributes:
        batches: The batch sizes.
        poses: The numbers of poses for the kernels.
        seconds: The time of a contestant's calls at one batch size.
        turns: The number of turns in which these calls happen.
        least: The least number of calls of a turn.
        most: The largest number of calls of a turn.
        kernel_seconds: No further kernel is timed after this time.
    """

    batches: tuple[int, ...] = (1, 8, 64, 256, 1024)
    poses: tuple[int, ...] = (1000, 100_000)
    seconds: float = 0.25
    turns: int = 5
    least: int = 2
    most: int = 100
    kernel_seconds: float = 25.0


TOY = Sizes(batches=(1, 2), poses=(100,), seconds=0.02, turns=2, least=2, most=4)


@dataclass(frozen=True)
class CallTimes:
    """The times of one contestant. The field names are the keys of the JSON report.

    Attributes:
        median_ms: The median of all calls.
        p99_ms: Their 99th percentile.
        calls: The number of calls.
        faster_than_first: How many times as fast as the first contestant it was.
    """

    median_ms: float
    p99_ms: float
    calls: int
    faster_than_first: Ratio


@dataclass(frozen=True)
class ModelRow:
    """A model at one batch size. The field names are the keys of the JSON report.

    Attributes:
        model: "bundled" or "paper".
        kind: "window" or "step".
        batch: The batch size.
        contestants: By contestant, the entries of `CallTimes` and its ``largest_difference_mm`` to the eager result.
        product_ms: The time of the model's operations at the rate of a large float32 product.
        copy_ms: The time to read the model's weights once, at the rate of a large copy.
        floor_ms: The larger of both.
    """

    model: str
    kind: str
    batch: int
    contestants: dict[str, dict[str, object]]
    product_ms: float
    copy_ms: float
    floor_ms: float


def build_parser() -> argparse.ArgumentParser:
    """The parser of the job's arguments."""
    parser = argparse.ArgumentParser(prog="latency", allow_abbrev=False)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--package", choices=list(PACKAGES), help="add this package and the eager model to the report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write latency.json and latency.md again after every group, so that a time limit does not lose results."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; take --device cpu")
    # If a job hangs, its log shows the position.
    faulthandler.dump_traceback_later(HANGS_S, repeat=True)
    try:
        return _measure(arguments, TOY if arguments.toy else Sizes())
    finally:
        faulthandler.cancel_dump_traceback_later()


def _measure(arguments: argparse.Namespace, sizes: Sizes) -> int:
    device, name = arguments.device, arguments.package
    if arguments.toy:
        torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    report = _begun(arguments, sizes)
    rates, failed = report["rates"], len(report["failed"])

    def write() -> None:
        publish(report, format_latency(report), arguments.output / "latency.json", arguments.output / "latency.md")

    checkpoints = arguments.output.parent / "checkpoints"

    def subject(model: str, kind: str) -> Measured:
        print(f"reading {model}, {kind}")
        checkpoint = checkpoint_of(model, kind, checkpoints, arguments.toy)
        return Measured(model, kind, checkpoint, device, arguments.packages, sizes, name)

    if name:
        model, kind, streams = PACKAGES[name]
        subjects, batches = [subject(model, kind)], sizes.batches if streams is None else (streams,)
    else:
        subjects, batches = [subject(model, kind) for model in MODELS for kind in KINDS], sizes.batches
    # Single windows and frames come first, then the kernels, and the largest batches last. They are missing if the time
    # limit ends the job early.
    for number, batch in enumerate(batches):
        for each in subjects:
            report["models"].append(each.row(batch, rates, report["missing"], report["failed"]))
            write()
        if number == 0 and not name:
            _add_kernels(report, device, sizes, rates)
            write()
    return 4 if len(report["failed"]) > failed else 0


def _begun(arguments: argparse.Namespace, sizes: Sizes) -> Report:
    """The report to add rows to: for a package the report of the job before this one, otherwise a new report."""
    file: Path = arguments.output / "latency.json"
    if arguments.package and file.is_file():
        earlier: Report = read_json(file)
        return earlier
    device = arguments.device
    settings = {"device": device, "toy": arguments.toy, "batches": list(sizes.batches), "seconds": sizes.seconds}
    report = new_report(GPU_LATENCY, settings)
    if device == "cuda":
        report["environment"]["gpu"] = torch.cuda.get_device_name()
    print("rates of the device")
    began = time.perf_counter()
    rates = device_rates(device)
    print(f"rates of the device: {time.perf_counter() - began:.1f} s")
    return report | {"rates": rates, "models": [], "kernels": [], "missing": {}, "failed": {}}


def _add_kernels(report: Report, device: str, sizes: Sizes, rates: Mapping[str, float]) -> None:
    print("kernels")
    began = time.perf_counter()
    rows = kernel_rows(device, sizes.poses, sizes.turns, rates)
    try:
        for row in rows:
            report["kernels"].append(row)
            if time.perf_counter() - began > sizes.kernel_seconds:
                report["missing"]["further kernels"] = f"no time was left after {sizes.kernel_seconds:g} s"
                break
    except MissingComponentError as error:
        report["missing"]["kernels"] = str(error)
    print(f"kernels: {len(report['kernels'])} rows, {time.perf_counter() - began:.1f} s")


class Measured:
    """One checkpoint that is measured as windows or as a causal step, at several batch sizes.

    With a package of AOTInductor, the contestants are the eager model and the package; otherwise they are the eager
    model and, on CUDA, its replayed graph.
    """

    def __init__(
        self,
        model: str,
        kind: str,
        checkpoint: Path,
        device: str,
        packages: Path,
        sizes: Sizes,
        package: str | None = None,
    ) -> None:
        self._name, self._kind, self._path, self._device = model, kind, checkpoint, device
        self._packages, self._sizes, self._package_name = packages, sizes, package
        # Engines of windows, by title. They support every batch size, so that they are opened once for all rows.
        self._open: dict[str, Callable[..., Array]] = {}
        read = load_checkpoint(checkpoint, "refiner")
        module = module_of(read)
        assert isinstance(module, UnrolledRefiner)
        self._module = module
        self._compared = COMPARED_FRAMES if kind == "step" else 1
        config = read.config["model"]
        size = DenoiserSize(2 * config["blocks"], config["dim"], config["heads"], config["mlp_ratio"], module.frames)
        # The operations of a causal step are estimated as those of a window divided by its frames.
        share = module.frames if kind == "step" else 1
        self._flops = module.steps * window_flops(size) / share
        self._bytes = 4 * sum(value.numel() for name, value in read.tensors.items() if name.startswith(MODEL_PREFIX))

    def row(
        self, batch: int, rates: Mapping[str, float], missing: dict[str, str], failed: dict[str, str]
    ) -> dict[str, object]:
        """Measure all contestants at one batch size.

        Args:
            batch: The batch size.
            rates: The result of `device_rates`.
            missing: Receives the reason for each contestant that lacks a component.
            failed: Receives the reason for each contestant that fails or gives another result than the eager model.

        Returns:
            The row of the JSON report, see `ModelRow`.
        """
        where, began, opened = f"{self._name}, {self._kind}, batch {batch}", time.perf_counter(), {}
        runs: dict[str, FrameRun] = {}
        differences: dict[str, float] = {}
        expected: Array | None = None
        for title, make in self._contestants(batch).items():
            opened[title] = time.perf_counter()
            try:
                # After a crash, the last line of the log shows the action that crashed.
                print(f"{where}, {title}: opening")
                function = make()
                print(f"{where}, {title}: first call")
                result = np.stack([function(frame) for frame in range(self._compared)])
            except MissingComponentError as error:
                missing[f"{where}, {title}"] = str(error)
                continue
            except Exception as error:  # errors of many types, also too little memory; the other contestants go on
                failed[f"{where}, {title}"] = (str(error).strip() or repr(error)).splitlines()[0]
                continue
            finally:
                opened[title] = time.perf_counter() - opened[title]
            expected = result if expected is None else expected
            difference = 1000.0 * float(np.abs(result - expected).max())
            if not difference <= TOLERANCE_MM:
                failed[f"{where}, {title}"] = f"{difference:.3g} mm from {next(iter(runs), title)}"
            if np.isfinite(difference):
                differences[title] = difference
                runs[title] = function
        print(f"{where}: timing {', '.join(runs)}")
        timed = timed_in_turns(runs, self._sizes)
        if self._device == "cuda":
            # Free the memory of this batch size for the next one.
            runs.clear()
            torch.cuda.empty_cache()
        contestants = {
            title: asdict(timed[title]) | {"largest_difference_mm": difference}
            for title, difference in differences.items()
        }
        product = 1000.0 * self._flops * batch / rates["float32_flops_per_s"]
        copy = 1000.0 * self._bytes / rates["copy_bytes_per_s"]
        first_results = "; ".join(f"{title} {seconds:.1f}" for title, seconds in opened.items())
        print(f"{where}: {time.perf_counter() - began:.1f} s, to the first result: {first_results}")
        return asdict(ModelRow(self._name, self._kind, batch, contestants, product, copy, max(product, copy)))

    def _contestants(self, batch: int) -> dict[str, Callable[[], Callable[[int], Array]]]:
        """By contestant, a function that opens it.

        An opened contestant is a function of the number of a frame. It returns the result on the host.
        """
        compiled = self._package_name
        graphs = self._device == "cuda" and not compiled
        if self._kind == "window":
            windows: dict[str, Callable[[], Callable[..., Array]]] = {EAGER: self._eager_window}
            if graphs:
                windows[GRAPH] = lambda: open_engine(self._path, "refiner", EngineOptions("torch", device="cuda"))
            if compiled:
                windows[LAUNCHED] = lambda: _launched(self._package(compiled))
                windows[COMPILED] = lambda: open_engine(self._package(compiled), "refiner")
            inputs = _windows(batch, self._module.frames)
            return {title: partial(self._of_windows, title, make, inputs) for title, make in windows.items()}
        steps: dict[str, Callable[[], StreamEngine]] = {EAGER: lambda: self._eager_step(batch)}
        if graphs:
            steps[GRAPH] = lambda: TorchCausalEngine(self._path, batch, device="cuda")
        if compiled:
            steps[COMPILED] = lambda: AotiCausalEngine(self._package(compiled))
        frames = _windows(batch, COMPARED_FRAMES)
        return {title: partial(_of_steps, make, frames) for title, make in steps.items()}

    def _of_windows(
        self, title: str, make: Callable[[], Callable[..., Array]], inputs: tuple[Array, ...]
    ) -> Callable[[int], Array]:
        if title not in self._open:
            self._open[title] = make()
        engine = self._open[title]
        return lambda frame: engine(*inputs)

    def _package(self, name: str) -> Path:
        package = package_of(name, self._packages)
        if package is None:
            raise MissingComponentError(f"there is no package {name}; see the result of its job")
        return package

    def _eager_window(self) -> Callable[..., Array]:
        if self._device == "cpu":
            run: Callable[..., Array] = open_engine(self._path, "refiner", EngineOptions("torch"))
            return run
        module = inference_form(self._module).to("cuda")

        return _of_tensors(module, torch.device("cuda"))

    def _eager_step(self, batch: int) -> StreamEngine:
        if self._device == "cpu":
            return TorchCausalEngine(self._path, batch)
        step = CausalStep(copy.deepcopy(self._module), batch).to("cuda")
        config = self._module.config
        facts = StreamFacts("torch", "cuda", ModelSpec.of_config(config).fps, None, config)
        return TensorStreamEngine(CarriedStep(step), step.layout, facts, torch.device("cuda"), _not_recorded)


def timed_in_turns(runs: dict[str, FrameRun], sizes: Sizes) -> dict[str, CallTimes]:
    """Time contestants in alternating turns. A call ends when its result is on the host."""
    if not runs:
        return {}
    contestants: dict[str, tuple[int, FrameRun]] = {}
    for title, function in runs.items():
        began = time.perf_counter()
        function(0)
        elapsed = time.perf_counter() - began
        calls = int(np.clip(sizes.seconds / sizes.turns / max(elapsed, 1e-9), sizes.least, sizes.most))
        contestants[title] = (calls, function)
    first = next(iter(contestants.values()))[0]
    times = summary(in_turns(contestants, sizes.turns * first), next(iter(contestants)))
    return {
        title: CallTimes(entry.percentiles["p50_ms"], entry.percentiles["p99_ms"], entry.calls, entry.faster_than_rival)
        for title, entry in times.items()
    }


def _of_tensors(function: Callable[..., torch.Tensor], device: torch.device) -> Callable[..., Array]:
    """Turn a function of tensors on ``device`` into a function of arrays."""

    def run(*arrays: Array) -> Array:
        with torch.inference_mode():
            result: Array = function(*(torch.from_numpy(array).to(device) for array in arrays)).cpu().numpy()
        return result

    return run


def _launched(file: Path) -> Callable[..., Array]:
    package, _, device = open_package(file, "refiner")
    return _of_tensors(package, device)


def _of_steps(make: Callable[[], StreamEngine], frames: tuple[Array, ...]) -> Callable[[int], Array]:
    engine, (pose_2d, pose_3d, size) = make(), frames

    def step(frame: int) -> Array:
        index = frame % COMPARED_FRAMES
        return engine.step(pose_2d[:, index], pose_3d[:, index], size)

    return step


def _windows(batch: int, frames: int) -> tuple[Array, Array, Array]:
    """Random 2D poses, 3D poses and image sizes (1000 x 1002) of ``batch`` windows."""
    rng = np.random.default_rng(SEED)
    pose_2d = rng.uniform(200, 800, (batch, frames, 17, 2)).astype(np.float32)
    pose_3d = rng.normal(0, 0.4, (batch, frames, 17, 3)).astype(np.float32)
    return pose_2d, pose_3d, np.tile(np.array([1000, 1002], np.float32), (batch, 1))


def _not_recorded(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Stands in for a recorder of CUDA graphs: every replay runs the operations again."""
    output = run().clone()

    def replay() -> None:
        output.copy_(run())

    return replay, output
