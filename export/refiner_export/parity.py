"""The gate on an artefact: its error against float32 PyTorch, and where that error comes from."""

from __future__ import annotations

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
from refiner_export.gpu import device_at_hand
from refiner_export.options import ExportOptions
from refiner_export.runner import graph_runner

# Engines whose artefacts need a GPU to run.
ON_GPU = ("trt", "trt-rtx")


def compare_artefact(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """Run the artefact, in batches of 1, 2 and the largest, on fresh windows; the manifest's ``parity``.

    ``total``: against float32 PyTorch, which is judged. ``typing``: the part that comes from the graph's types.
    ``engine``: what the engine adds to that.
    """
    source = graph.source
    windows = gate_windows(options, source.frames)
    if options.precision == "fp32":
        windows = with_wild_windows(windows)
    inputs, sizes = windows.of_kind(source.kind, len(source.actions)), batch_sizes(options)
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
    on_gpu_elsewhere = options.engine in ON_GPU and not _runs_here(options)
    # ONNX Runtime has no bf16 products on a CPU: such a graph is one that is kept for another machine.
    for_elsewhere = on_gpu_elsewhere or (options.engine, options.device, options.precision) == ("onnx", "cpu", "bf16")
    typed = None
    if graph.typed is not None and (for_elsewhere or options.precision != "fp32"):
        typed = run_batches(graph_runner(graph.typed), inputs, sizes)
    if typed is not None and options.precision != "fp32":
        parity["typing"] = compare(typed, expected, windows)
    found = (
        typed if for_elsewhere and typed is not None else run_batches(_engine(graph, target, options), inputs, sizes)
    )
    parity["total"] = compare(found, expected, windows)
    if on_gpu_elsewhere:
        parity["engine"] = None
        parity["note"] = "the engine was parsed and built, not run: no such GPU is here. Its graph was compared"
    elif "typing" in parity and typed is not None:
        parity["engine"] = compare(found, typed, windows)
    return parity


def _engine(graph: Graph, target: Path, options: ExportOptions) -> Run:
    role = "refiner" if graph.source.kind == "refiner" else "lifter"
    device = options.device if options.engine in ("onnx", "aoti", "torch") else None
    opened: Run = open_engine(target, role, device=device)
    return opened


def _runs_here(options: ExportOptions) -> bool:
    device = device_at_hand()
    return device is not None and options.compute_capability in (None, device.compute_capability)
