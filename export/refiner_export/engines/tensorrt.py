"""Build an engine plan from an ONNX graph with TensorRT or TensorRT for RTX. The same code serves both modules.

Networks are strongly typed: they have the types of the graph, and no flag of the builder changes them.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx

from refiner.errors import ExportError, MissingComponentError, UsageError
from refiner.files import atomic_path
from refiner.runtime.tensorrt_engine import PRODUCTS, collecting_logger, load_tensorrt
from refiner_export.gpu import Device, device_at_hand

__all__ = ["BuiltPlan", "TensorRtOptions", "build_plan", "load_tensorrt", "require_device", "supported_capabilities"]

LEVELS = range(6)
TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
# Seconds between two lines of progress, and between two checks for an interrupt.
REPORT_EVERY = 5.0
POLL = 0.1


@dataclass(frozen=True)
class TensorRtOptions:
    """The options of a build.

    Attributes:
        module: the Python module.
        batch: the smallest batch, the batch that kernels are chosen for, and the largest batch; None for a graph whose
            shapes are all fixed.
        compute_capability: only for "tensorrt_rtx": that of the GPU to build for, like "8.6"; None is the GPU of this
            machine.
        workspace_bytes: the memory that the build may use; None leaves TensorRT's default.
        optimisation_level: 0 to 5; None leaves TensorRT's default.
        timing_cache: only for "tensorrt": its timing cache, a file that is read and written.
    """

    module: Literal["tensorrt", "tensorrt_rtx"]
    batch: tuple[int, int, int] | None
    compute_capability: str | None = None
    workspace_bytes: int | None = None
    optimisation_level: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltPlan:
    """A built engine.

    Attributes:
        plan: the bytes of the plan.
        facts: the entry ``build`` of the manifest.
    """

    plan: bytes
    facts: dict[str, Any]


def build_plan(
    graph: onnx.ModelProto, options: TensorRtOptions, progress: Callable[[str], None] = lambda line: None
) -> BuiltPlan:
    """Build an engine from a graph. An interrupt (KeyboardInterrupt) stops the build at its next step.

    Args:
        graph: the typed graph.
        options: of the build.
        progress: called with a line for each stage, and with a line every few seconds in between.

    Raises:
        ExportError: TensorRT cannot read or build the graph; the message is TensorRT's.
        UsageError: the options do not go together, or do not fit the graph.
        MissingComponentError: the module, or a GPU that it needs, is missing.
    """
    _check_options(options)
    trt = load_tensorrt(options.module)
    logger = collecting_logger(trt)
    logger.forget()
    builder = _open_builder(trt, logger)
    target = _target(trt, options)
    device = device_at_hand()
    network = _parse(trt, builder, logger, graph)
    parser_warnings = len(logger.warnings)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if target is not None:
        _aim(trt, config, target)
    profile = {} if options.batch is None else _add_profile(builder, config, network, options.batch)
    cached = _attach_timing_cache(config, options, progress)
    logger.forget()
    progress(f"building with {_product(trt)} for {_described(target, device)}")
    began = time.perf_counter()
    plan = _build(trt, builder, network, config, logger, progress)
    seconds = time.perf_counter() - began
    if cached is not None:
        _save_timing_cache(config, cached)
    facts = {
        "module": options.module,
        "version": trt.__version__,
        # The runtime compares this version with its own, see refiner.runtime.tensorrt_engine.
        "tensorrt": trt.__version__,
        "compute_capability": target or (device.compute_capability if device else None),
        "device": device.name if device else None,
        "driver": device.driver if device else None,
        "workspace_bytes": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "optimisation_level": config.builder_optimization_level,
        "profile": profile,
        "strongly_typed": True,
        "tf32": False,
        "timing_cache": cached is not None,
        "layers": network.num_layers,
        "inputs": _tensors(network.get_input, network.num_inputs),
        "outputs": _tensors(network.get_output, network.num_outputs),
        "seconds": round(seconds, 3),
        "parser_warnings": parser_warnings,
    }
    return BuiltPlan(plan, facts)


def require_device(trt: Any, options: TensorRtOptions) -> None:
    """Check the options and this machine before there is a graph. Raises the errors of `build_plan`."""
    _check_options(options)
    logger = collecting_logger(trt)
    logger.forget()
    _open_builder(trt, logger)
    _target(trt, options)


def supported_capabilities(trt: Any) -> dict[str, Any]:
    """The compute capabilities that TensorRT for RTX can build for, in rising order, and their names in the module."""
    capabilities = {}
    for name, member in trt.ComputeCapability.__members__.items():
        digits = re.fullmatch(r"SM(\d+)(\d)", name)
        if digits:
            capabilities[f"{digits[1]}.{digits[2]}"] = member
    return dict(sorted(capabilities.items(), key=lambda entry: float(entry[0])))


def _check_options(options: TensorRtOptions) -> None:
    least, best, most = options.batch or (1, 1, 1)
    if options.module not in PRODUCTS:
        raise UsageError(f"there is no module {options.module!r}; choose one of {', '.join(PRODUCTS)}")
    if not 1 <= least <= best <= most:
        raise UsageError(f"a batch of {least}:{best}:{most} is not MIN:OPT:MAX in rising order from 1")
    if options.compute_capability is not None and options.module != "tensorrt_rtx":
        raise UsageError("TensorRT builds for the GPU at hand; --compute-capability is for --engine trt-rtx")
    if options.timing_cache is not None and options.module == "tensorrt_rtx":
        raise UsageError("TensorRT for RTX would ask for a GPU with a timing cache; --timing-cache is for --engine trt")
    if options.timing_cache is not None and options.timing_cache.is_dir():
        raise UsageError(f"--timing-cache {options.timing_cache} is a folder; expected a file")
    if options.workspace_bytes is not None and options.workspace_bytes < 1:
        raise UsageError(f"a workspace of {options.workspace_bytes} bytes: expected at least 1")
    if options.optimisation_level is not None and options.optimisation_level not in LEVELS:
        raise UsageError(f"an optimisation level of {options.optimisation_level}: expected 0 to {LEVELS.stop - 1}")


def _open_builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # a null pointer in C++ becomes this in Python
        raise MissingComponentError(
            "TensorRT builds engines on the GPU that runs them; no CUDA driver was found here that it can use "
            f"({logger.reasons()}). Build there, or build with --engine trt-rtx, which needs no GPU"
        ) from error


def _target(trt: Any, options: TensorRtOptions) -> str | None:
    """The compute capability to build for; None for TensorRT, which builds for the GPU of this machine."""
    if options.module != "tensorrt_rtx":
        return None
    supported = supported_capabilities(trt)
    wanted = options.compute_capability
    if wanted is not None and wanted not in supported:
        raise UsageError(
            f"{_product(trt)} cannot build for compute capability {wanted}; it can for {', '.join(supported)}"
        )
    if wanted is not None:
        return wanted
    device = device_at_hand()
    if device is None:
        raise MissingComponentError(
            "no CUDA driver with a GPU was found here whose compute capability could be built for; name one with "
            f"--compute-capability: {', '.join(supported)}"
        )
    if device.compute_capability not in supported:
        raise MissingComponentError(
            f"{_product(trt)} cannot build for the GPU here ({device.name}, compute capability "
            f"{device.compute_capability}); it can for {', '.join(supported)}. For this one build with --engine trt"
        )
    return device.compute_capability


def _parse(trt: Any, builder: Any, logger: Any, graph: onnx.ModelProto) -> Any:
    """Read the graph as a strongly typed network."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # In versions without this flag every network is strongly typed.
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ExportError(f"{_product(trt)} cannot read the graph: {'; '.join(errors) or logger.reasons()}")
    return network


def _configure(trt: Any, config: Any, options: TensorRtOptions) -> None:
    # TF32 would round the factors of float32 products to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.module == "tensorrt_rtx" and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # An engine that allocates while it runs could not be captured as a CUDA graph.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimisation_level is not None:
        config.builder_optimization_level = options.optimisation_level


def _aim(trt: Any, config: Any, target: str) -> None:
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(supported_capabilities(trt)[target], 0):
        raise ExportError(f"{_product(trt)} refused compute capability {target}")


def _add_profile(builder: Any, config: Any, network: Any, batch: tuple[int, int, int]) -> dict[str, list[list[int]]]:
    """Set the range of the batch for the inputs whose batch is free.

    Returns:
        The smallest, best and largest shape of these inputs.

    Raises:
        UsageError: the graph has a fixed batch that differs from ``batch``.
    """
    shapes: dict[str, list[list[int]]] = {}
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        first, *rest = (int(size) for size in tensor.shape)
        if -1 in rest:
            raise ExportError(
                f"the graph's input {tensor.name} has the shape {(first, *rest)}; only the batch may be free"
            )
        if first == -1:
            shapes[tensor.name] = [[size, *rest] for size in batch]
        elif set(batch) != {first}:
            raise UsageError(
                f"the graph's input {tensor.name} has a fixed batch of {first}, and the engine is to take "
                f"{':'.join(map(str, batch))}; trace it with a free one"
            )
    if not shapes:
        return shapes
    profile = builder.create_optimization_profile()
    for name, (least, best, most) in shapes.items():
        profile.set_shape(name, tuple(least), tuple(best), tuple(most))
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refused the batches {':'.join(map(str, batch))}")
    return shapes


def _attach_timing_cache(config: Any, options: TensorRtOptions, progress: Callable[[str], None]) -> Path | None:
    """Use the timing cache. Timings of another version or GPU are ignored, and the file is written anew."""
    file = options.timing_cache
    if file is None:
        return None
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        progress(f"the timing cache {file} is of another version of TensorRT or another GPU: started afresh")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return file


def _save_timing_cache(config: Any, file: Path) -> None:
    with atomic_path(file) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))


def _build(trt: Any, builder: Any, network: Any, config: Any, logger: Any, progress: Callable[[str], None]) -> bytes:
    """Build the plan in another thread, so that this thread can receive an interrupt."""
    monitor = _monitor(trt, progress) if hasattr(trt, "IProgressMonitor") else None
    if monitor is not None:
        config.progress_monitor = monitor
    with ThreadPoolExecutor(1) as pool, _cancelling(monitor):
        building = pool.submit(builder.build_serialized_network, network, config)
        while not wait([building], timeout=POLL).done:
            pass
    memory = building.result()
    if memory is None:
        raise ExportError(f"{_product(trt)} could not build the engine: {logger.reasons()}")
    return bytes(memory)


@contextlib.contextmanager
def _cancelling(monitor: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if monitor is not None:
            monitor.cancelled = True
        raise


def _monitor(trt: Any, progress: Callable[[str], None]) -> Any:
    """A monitor that reports outer stages when they begin, and inner ones every few seconds.

    Its attribute ``cancelled`` ends the build.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._steps: dict[str, int] = {}
            self._depth: dict[str, int] = {}
            self._reported = time.monotonic()
            # TensorRT calls from several threads.
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                depth = self._depth.get(parent_phase, 0) + 1 if parent_phase is not None else 0
                self._depth[phase_name], self._steps[phase_name] = depth, num_steps
                if depth == 1:
                    self._report(phase_name.lower())

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if time.monotonic() - self._reported >= REPORT_EVERY:
                    self._report(f"{phase_name.lower()}: {step + 1} of {self._steps.get(phase_name, step + 1)}")
                return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)
                self._depth.pop(phase_name, None)

        def _report(self, line: str) -> None:
            self._reported = time.monotonic()
            progress(f"  {line}")

    return Monitor()


def _product(trt: Any) -> str:
    return f"{PRODUCTS[trt.__name__]} {trt.__version__}"


def _described(target: str | None, device: Device | None) -> str:
    if device is not None and target in (None, device.compute_capability):
        return f"{device.name} (compute capability {device.compute_capability})"
    return f"compute capability {target}" if target else "the GPU at hand"


def _tensors(get: Callable[[int], Any], count: int) -> dict[str, dict[str, Any]]:
    tensors = (get(index) for index in range(count))
    return {
        tensor.name: {
            "type": TYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
            "shape": [int(size) for size in tensor.shape],
        }
        for tensor in tensors
    }
