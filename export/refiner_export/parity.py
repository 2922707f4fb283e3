"""The gate on an artefact: its error against float32 PyTorch, and where that error comes from."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from refiner.runtime.loading import open_engine
from refiner_export.engines import Graph
from refiner_export.gate import (
    Run,
    batch_sizes,
    compare,
    gate_windows,
    reference,
    run_batches,
    with_wild_windows,
)
from refiner_export.options import ExportOptions
from refiner_export.runner import graph_runner

# Engines whose artefacts need a GPU to run.
ON_GPU = ("trt", "trt-rtx")
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
CAPABILITY_ATTRIBUTES = (75, 76)


def compare_artefact(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """Run the artefact, in batches of 1, 2 and the largest, on fresh windows; the manifest's ``parity``.

    ``total``: against float32 PyTorch, which is judged. ``typing``: the part that comes from the graph's types.
    ``engine``: what the engine adds to that.
    """
    source = graph.source
    windows = gate_windows(options, source.frames)
    if options.precision == "fp32":
        windows = with_wild_windows(windows)
    inputs, sizes = windows.of_kind(source.kind), batch_sizes(options)
    expected = run_batches(reference(source.reference), inputs, sizes)
    parity: dict[str, Any] = {
        "reference": "PyTorch float32, the module as it was trained",
        "windows": len(windows.truth),
        "wild_windows": windows.wild,
        "motion": windows.motion,
        "batches": sizes,
        "tolerance_mm": options.mean_tolerance_mm(),
        # Whether mpjpe_mm is an accuracy, or only there to be compared.
        "mpjpe_is_accuracy": options.data is not None and (windows.real or source.kind != "refiner"),
    }
    typed = None
    if graph.typed.precision != "fp32":
        typed = run_batches(graph_runner(graph.typed), inputs, sizes)
        parity["typing"] = compare(typed, expected, windows)
    if options.engine in ON_GPU and not _runs_here(options):
        parity["engine"] = None
        parity["note"] = "the engine was parsed and built, not run: no such GPU is here. Its graph was compared"
        if typed is None:
            typed = run_batches(graph_runner(graph.typed), inputs, sizes)
        parity["total"] = compare(typed, expected, windows)
        return parity
    found = run_batches(_engine(graph, target, options), inputs, sizes)
    parity["total"] = compare(found, expected, windows)
    if typed is not None:
        parity["engine"] = compare(found, typed, windows)
    return parity


def _engine(graph: Graph, target: Path, options: ExportOptions) -> Run:
    if options.engine == "onnx" and options.device == "cpu" and options.precision == "bf16":
        # A graph that is kept for another machine: ONNX Runtime has no such products on a CPU.
        return graph_runner(graph.typed)
    role = "refiner" if graph.source.kind == "refiner" else "lifter"
    device = options.device if options.engine in ("onnx", "aoti", "torch") else None
    opened: Run = open_engine(target, role, device=device)
    return opened


def gpu_capability() -> str | None:
    """The compute capability ("8.6") of the first GPU, None without a CUDA driver or GPU. Asks the driver itself:
    PyTorch may be built for the CPU alone."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    found = [ctypes.c_int(0), ctypes.c_int(0)]
    for value, attribute in zip(found, CAPABILITY_ATTRIBUTES, strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
            return None
    return ".".join(str(value.value) for value in found)


def _runs_here(options: ExportOptions) -> bool:
    capability = gpu_capability()
    return capability is not None and options.compute_capability in (None, capability)
