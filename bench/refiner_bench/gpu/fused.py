"""The network of the native engine on a CUDA device against PyTorch: the same results, and the time of one step."""

from __future__ import annotations

import argparse
import faulthandler
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner import native
from refiner.cli.common import run
from refiner.engines import EngineOptions
from refiner.errors import MissingComponentError, RefinerError
from refiner.model_files.arrays import load_arrays
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import UnrolledRefiner
from refiner.models.inference_form import in_precision, inference_form
from refiner.runtime.loading import open_engine
from refiner.runtime.native import network
from refiner_bench.counts import DenoiserSize, window_flops
from refiner_bench.gpu.packages import checkpoint_of
from refiner_bench.gpu.random_network import HALF, PRECISIONS, errors_of, random_denoiser
from refiner_bench.gpu.rates import device_rates

Array = NDArray[np.float32]
FUSED, EAGER, GRAPH, HALF_GRAPH = "fused", "torch fp32, eager", "torch fp32, graph", "torch fp16, graph"
SEED, HANGS_S = 77, 15.0
# The allowed mean and largest error, in units of half precision (2^-11) and of the root mean square of the output.
MEAN_ERROR, LARGEST_ERROR = 6.0, 60.0
# The allowed difference of the mean joint error of bundled models, and the mean distance, in mm.
MPJPE_MM, DISTANCE_MM = 0.05, 0.5
# Rows of a tile; 0 is the choice of the kernel.
TILES = (0, 16, 32, 64)
TURNS = 7
# Seconds of a turn of one contestant, and the time after which no further row is begun.
TURN_S, LAST_ROW_S = 0.02, 38.0

Step = Callable[[], object]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the job's arguments."""
    parser = argparse.ArgumentParser(prog="fused", allow_abbrev=False)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--small", action="store_true", help="only one small network, against the CPU, for a checker")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file again after every row, so that a time limit does not lose results.

    Returns:
        The exit code: 0, 3 without CUDA kernels or a device, or 4 if a result is wrong.
    """
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> int:
    if arguments.device == "cuda" and not native.features().get("cuda_devices"):
        raise MissingComponentError(f"no CUDA kernels or no CUDA device here: {native.features()}")
    faulthandler.dump_traceback_later(HANGS_S, repeat=True)
    try:
        failed = check_small(arguments.device)
        return 4 if failed else 0 if arguments.small else _measure(arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()


def check_small(device: str, dims: Sequence[int] = (64, 256)) -> list[str]:
    """Compare small networks with random weights with the kernels of the CPU, without PyTorch.

    Returns:
        What is wrong.
    """
    wrong = []
    for dim in dims:
        there, here = (random_denoiser(dim, 8, seed=dim, device=where) for where in (device, "cpu"))
        for batch, frames in ((1, 9), (3, 27)):
            features = np.random.default_rng(batch).normal(0, 0.5, (batch, frames, 17, 5)).astype(np.float32)
            expected = windows_of(here, 1, features)
            for rows in TILES if device == "cuda" else (0,):
                name = f"C = {dim}, batch {batch}, tiles of {rows or 'any'} rows"
                try:
                    found = windows_of(there, 1, features, rows)
                except (RuntimeError, ValueError) as error:
                    print(f"{name}: {error}")
                    wrong += [] if "no tiles of that size" in str(error) else [name]
                    continue
                mean, largest = errors_of(found, expected)
                print(f"{name}: errors of {mean:.2f} and at most {largest:.1f} x 2^-11")
                if not (mean <= MEAN_ERROR and largest <= LARGEST_ERROR):
                    wrong.append(name)
    print(f"wrong: {wrong}" if wrong else "small networks agree with the CPU")
    return wrong


def windows_of(compiled: Any, step: int, features: Array, rows: int = 0) -> Array:
    """One step of a compiled network over ``(B, T, J, features)`` in host memory."""
    output = np.full((*features.shape[:3], 3), np.nan, np.float32)
    compiled.windows(step, features, output, 0, *([rows] if rows else []))
    return output


def _measure(arguments: argparse.Namespace) -> int:
    began, device, toy = time.perf_counter(), arguments.device, arguments.toy
    if toy:
        torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    report: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "rates": device_rates(device)}
    report |= {"rows": [], "engines": [], "wrong": []}
    print(f"{gpu}, {json.dumps(report['rates'])}")

    def write() -> None:
        arguments.output.write_text(json.dumps(report, indent=1))

    subjects = [Subject(model, device, arguments.output.parent, toy) for model in ("bundled", "paper")]
    for batch in (1, 2) if toy else (1, 8, 64, 256):
        for subject in subjects:
            if time.perf_counter() - began > LAST_ROW_S:
                report["wrong"].append(f"{subject.name}, batch {batch}: no time was left")
                continue
            row = subject.row(batch, report["rates"], toy)
            report["rows"].append(row)
            report["wrong"] += row["wrong"]
            write()
        if batch == 1:
            report["engines"] = [engines_row(device, size) for size in ((1,) if toy else (1, 64))]
            report["wrong"] += [each["wrong"] for each in report["engines"] if each["wrong"]]
            write()
    write()
    print(f"{time.perf_counter() - began:.1f} s; wrong: {report['wrong'] or 'nothing'}")
    return 4 if report["wrong"] else 0


class Subject:
    """One refiner whose denoiser runs in all contestants, on tensors of the device."""

    def __init__(self, name: str, device: str, folder: Path, toy: bool) -> None:
        path = checkpoint_of(name, "window", folder, toy)
        module = module_of(load_checkpoint(path, "refiner"))
        assert isinstance(module, UnrolledRefiner)
        arrays = load_arrays(path)
        config = arrays.config["model"]
        self.name, self._device, self._frames, self._time = name, device, module.frames, module.times[0]
        self._fused = network.denoiser(arrays.weights(), config, module.times, 0, PRECISIONS[device])
        exact = inference_form(module)
        self._exact = exact.to(device)
        self._half = in_precision(inference_form(module), torch.float16).to(device) if device == "cuda" else None
        self._seen = 6 if module.rays else 2
        size = DenoiserSize(2 * config["blocks"], config["dim"], config["heads"], config["mlp_ratio"], module.frames)
        self._flops, self._dim, self._modules = window_flops(size), config["dim"], 2 * config["blocks"]
        self._weights = 2 * sum(value.numel() for value in exact.parameters())

    def row(self, batch: int, rates: Mapping[str, float], toy: bool) -> dict[str, Any]:
        """Check and time all contestants at one batch size."""
        where = f"{self.name}, batch {batch}"
        generator = torch.Generator().manual_seed(SEED + batch)
        shape = (batch, self._frames, 17)
        seen = torch.randn(*shape, self._seen, generator=generator).to(self._device) * 0.5
        pose = torch.randn(*shape, 3, generator=generator).to(self._device) * 0.4
        features, output = torch.cat([seen, pose], dim=-1).contiguous(), torch.full((*shape, 3), torch.nan)
        output = output.to(self._device)
        steps: dict[str, Step] = {EAGER: partial(self._eager, self._exact, seen, pose)}
        results = {EAGER: self._eager(self._exact, seen, pose).cpu().numpy()}
        if self._half is not None:
            steps[GRAPH], results[GRAPH] = recorded(partial(self._eager, self._exact, seen, pose))
            steps[HALF_GRAPH], results[HALF_GRAPH] = recorded(partial(self._eager, self._half, seen, pose))
        for rows in TILES if self._device == "cuda" else (0,):
            title = f"{FUSED}, {rows} rows" if rows else FUSED
            step = partial(self._run_fused, features, output, rows)
            output.fill_(torch.nan)
            try:
                step()
            except (RuntimeError, ValueError) as error:
                print(f"{where}, {title}: {error}")
                continue
            synchronise(self._device)
            results[title], steps[title] = output.cpu().numpy().copy(), step
        errors = {title: errors_of(result, results[EAGER]) for title, result in results.items()}
        wrong = [
            f"{where}, {title}: errors of {mean:.1f} and {largest:.0f} x 2^-11"
            for title, (mean, largest) in errors.items()
            if title != HALF_GRAPH and not (mean <= MEAN_ERROR and largest <= LARGEST_ERROR)
        ]
        times = timed_in_turns(steps, self._device, 2 if toy else TURNS, TURN_S / 10 if toy else TURN_S)
        tokens = batch * self._frames * 17
        rate = rates["float32_flops_per_s" if self._device == "cpu" else "bfloat16_flops_per_s"]
        product = 1000.0 * self._flops * batch / rate
        # Weights once; for each attention x, qkv and mixed are written and read once.
        moved = self._weights + self._modules * tokens * self._dim * 2 * (4 + 3 * 2 + 2)
        copy = 1000.0 * moved / rates["copy_bytes_per_s"]
        print(f"{where}: floor {max(product, copy):.4f} ms (products {product:.4f}, memory {copy:.4f})")
        for title, milliseconds in times.items():
            mean, largest = errors[title]
            print(f"  {title:22s} {milliseconds:9.4f} ms   errors {mean:6.2f}, {largest:7.1f} x 2^-11")
        return {
            "model": self.name,
            "batch": batch,
            "product_ms": product,
            "memory_ms": copy,
            "times_ms": times,
            "errors": {title: list(error) for title, error in errors.items()},
            "wrong": wrong,
        }

    def _eager(self, module: UnrolledRefiner, seen: Tensor, pose: Tensor) -> Tensor:
        blocks = range(len(module.denoiser.blocks))
        times = [getattr(module, f"time_{self._time}_{index}") for index in blocks]
        with torch.inference_mode():
            return module.denoiser.denoise(pose, seen, times)

    def _run_fused(self, features: Tensor, output: Tensor, rows: int) -> None:
        batch, frames = features.shape[:2]
        if self._device == "cpu":
            self._fused.windows(0, features.numpy(), output.numpy(), 1)
            return
        stream = torch.cuda.current_stream().cuda_stream
        self._fused.windows_on_device(0, batch, frames, features.data_ptr(), output.data_ptr(), stream, rows)


def recorded(step: Callable[[], Tensor]) -> tuple[Step, Array]:
    """A step as a CUDA graph, and its result when it is replayed."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, result.float().cpu().numpy()


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed_in_turns(steps: Mapping[str, Step], device: str, turns: int, seconds: float) -> dict[str, float]:
    """The median of the milliseconds of a call, by contestant; a turn is many calls, timed by events of the device."""
    calls: dict[str, int] = {}
    for title, step in steps.items():
        for _ in range(2):
            step()
        synchronise(device)
        began = time.perf_counter()
        step()
        synchronise(device)
        calls[title] = int(np.clip(seconds / max(time.perf_counter() - began, 1e-6), 2, 200))
    found: dict[str, list[float]] = {title: [] for title in steps}
    for _ in range(turns):
        for title, step in steps.items():
            found[title].append(_turn(step, calls[title], device))
    return {title: statistics.median(values) for title, values in found.items()}


def _turn(step: Step, calls: int, device: str) -> float:
    if device == "cpu":
        began = time.perf_counter()
        for _ in range(calls):
            step()
        return 1000.0 * (time.perf_counter() - began) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(calls):
        step()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / calls


def engines_row(device: str, batch: int) -> dict[str, Any]:
    """The bundled refiner from arrays of the host to arrays of the host: the native engine against PyTorch."""
    rng = np.random.default_rng(SEED)
    reference = open_engine(None, "refiner", EngineOptions("torch"))
    ours = open_engine(None, "refiner", EngineOptions("native", device=device))
    frames = reference.frames
    pixels = rng.normal(0, 80, (batch, frames, 17, 2)) + 500
    pose = rng.normal(0, 0.4, (batch, frames, 17, 3)) + np.array([0, 0, 4])
    lens = np.tile([1000.0, 1000.0, 1100.0], (batch, 1))
    if reference.rays:
        pixels = np.concatenate([pixels, rng.uniform(0.3, 1, (*pixels.shape[:3], 1))], axis=-1)
    else:
        lens = lens[:, :2]
    inputs = [array.astype(np.float32) for array in (pixels, pose, lens)]
    expected, found = (engine(*inputs).astype(np.float64) for engine in (reference, ours))
    target = expected + rng.normal(0, 0.03, expected.shape)
    ours_mpjpe, its_mpjpe = (1000 * np.linalg.norm(each - target, axis=-1).mean() for each in (found, expected))
    distance = 1000 * np.linalg.norm(found - expected, axis=-1)
    engines: dict[str, Step] = {"native": partial(ours, *inputs)}
    try:
        engines["torch"] = partial(open_engine(None, "refiner", EngineOptions("torch", device=device)), *inputs)
    except RefinerError as error:
        print(f"torch: {error}")
    times = timed_in_turns(engines, "cpu", 5, TURN_S)
    row: dict[str, Any] = {
        "batch": batch,
        "mpjpe_difference_mm": float(abs(ours_mpjpe - its_mpjpe)),
        "mean_distance_mm": float(distance.mean()),
        "largest_distance_mm": float(distance.max()),
        "times_ms": times,
        "wrong": "",
    }
    if not (row["mpjpe_difference_mm"] <= MPJPE_MM and row["mean_distance_mm"] <= DISTANCE_MM):
        row["wrong"] = f"engine, batch {batch}: {row['mean_distance_mm']:.3f} mm apart"
    print(f"engines, batch {batch}: {json.dumps(row)}; 2^-11 is {HALF:.2g}")
    return row
