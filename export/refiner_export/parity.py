"""Run an artefact and its PyTorch model on the same windows, and measure where their difference comes from."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from refiner.engines import EngineOptions
from refiner.files import naming_full_disk
from refiner.runtime.causal import CausalEngine
from refiner.runtime.causal_onnx import OnnxCausalEngine
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.manifest import read_manifest
from refiner.runtime.onnx_engine import METADATA_KEY
from refiner_export.engines import Graph
from refiner_export.gate import (
    Array,
    Run,
    batch_sizes,
    compare,
    gate_windows,
    reference,
    run_batches,
    with_wild_windows,
)
from refiner_export.gpu import device_at_hand
from refiner_export.options import Batch, ExportOptions
from refiner_export.runner import graph_runner

# For the comparison of a causal refiner: the frames in a sequence, and how many frames each stream starts after the
# previous one, up to MOST_LATER. The first stream is reset in the middle and begins anew.
STREAM_FRAMES, LATER_BY, MOST_LATER = 300, 3, 30


def compare_artefact(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """Compare an artefact with its model on fresh windows, in batches of 1, 2 and the largest size.

    Returns:
        The entry ``parity`` of the manifest. ``total`` is the difference from float32 PyTorch, which the gate judges.
        ``typing`` is the difference that the graph's types cause, and ``engine`` the difference between the artefact
        and the typed graph.
    """
    source = graph.source
    windows = gate_windows(options, source.frames, rays=source.rays, stride=source.spec.stride)
    if options.precision == "fp32":
        windows = with_wild_windows(windows)
    inputs, sizes = windows.of_kind(source.kind, len(source.actions), source.rays), batch_sizes(options)
    expected = run_batches(reference(source.reference), inputs, sizes)
    parity: dict[str, Any] = {
        "reference": "PyTorch float32, the module as it was trained",
        "windows": len(windows.truth),
        "wild_windows": windows.wild,
        "motion": windows.motion,
        "batches": sizes,
        "tolerance_mm": options.mean_tolerance_mm(),
        # Whether mpjpe_mm tells an accuracy, or is only good for the comparison, as with made-up gaps and lenses.
        "mpjpe_is_accuracy": options.data is not None
        and not source.rays
        and (windows.real or source.kind != "refiner"),
    }
    needs_other_gpu = options.spec.on_gpu_alone and not _runs_here(options)
    # Only the graph can be compared where this machine cannot run the artefact. ONNX Runtime has no bf16 products on a
    # CPU: such a graph is for another machine.
    only_graph = needs_other_gpu or (options.engine, options.device, options.precision) == ("onnx", "cpu", "bf16")
    typed = None
    if graph.typed is not None and (only_graph or options.precision != "fp32"):
        typed = run_batches(graph_runner(graph.typed), inputs, sizes)
    if typed is not None and options.precision != "fp32":
        parity["typing"] = compare(typed, expected, windows)
    actual = typed if only_graph else None
    if actual is None:
        actual = run_batches(_engine(graph, target, options), inputs, sizes)
    parity["total"] = compare(actual, expected, windows)
    if needs_other_gpu:
        parity["engine"] = None
        parity["note"] = "the engine was parsed and built, not run: no such GPU is here. Its graph was compared"
    elif "typing" in parity and typed is not None:
        parity["engine"] = compare(actual, typed, windows)
    return parity


def compare_stream(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """Like `compare_artefact`, but for a causal refiner: streams run frame by frame, PyTorch runs whole sequences."""
    source = graph.source
    streams = 1 if options.streams is None else options.streams
    sequences = gate_windows(replace(options, windows=streams, batch=Batch(1, 1, 1)), STREAM_FRAMES, rays=source.rays)
    sequences = with_wild_windows(sequences)
    inputs = sequences.of_kind(source.kind, rays=source.rays)
    expected = run_batches(reference(source.reference), inputs, [8])
    # After its reset, the first stream plays its sequence from the beginning again.
    reset_at = STREAM_FRAMES // 2
    expected[0, reset_at:] = expected[0, : STREAM_FRAMES - reset_at].copy()
    parity: dict[str, Any] = {
        "reference": "PyTorch float32, the pass over whole sequences",
        "windows": streams,
        "frames": STREAM_FRAMES,
        "wild_windows": sequences.wild,
        "motion": sequences.motion,
        "tolerance_mm": options.mean_tolerance_mm(),
        "mpjpe_is_accuracy": False,
    }
    if options.spec.on_gpu_alone:
        parity["note"] = "the engine was parsed and built, not run. Its graph was compared"
    with tempfile.TemporaryDirectory() as folder, naming_full_disk(folder):
        engine = _stream_engine(graph, options, target, Path(folder))
        actual = _play(engine, inputs, reset_at)
    parity["total"] = compare(actual, expected, sequences)
    return parity


@dataclass(frozen=True)
class _Step:
    """One step of a stream.

    Attributes:
        input: the index of the input frame; 0 begins the stream anew.
        output: the index of the frame whose result comes out; None before the first result.
    """

    input: int
    output: int | None


def _play(engine: CausalEngine, inputs: tuple[Array, ...], reset_at: int) -> Array:
    """Play every stream's sequence through the engine, and return the results ``(S, F, 17, 3)``.

    The first stream is reset after ``reset_at`` frames, and its sequence begins again.
    """
    pose_2d, pose_3d, image_size = inputs
    streams, frames = pose_2d.shape[:2]
    results = np.full_like(pose_3d, np.nan)
    begins = np.minimum(LATER_BY * np.arange(streams), MOST_LATER)
    plans = [_steps(((0, frames),), engine.delay) for _ in range(streams)]
    plans[0] = _steps(((0, reset_at), (reset_at, frames - reset_at)), engine.delay)
    for tick in range(max(len(plan) + begin for plan, begin in zip(plans, begins, strict=True))):
        positions = tick - begins
        active = np.array([0 <= position < len(plan) for position, plan in zip(positions, plans, strict=True)])
        frame_2d, frame_3d = np.empty_like(pose_2d[:, 0]), np.empty_like(pose_3d[:, 0])
        for stream in np.flatnonzero(active):
            index = plans[stream][positions[stream]].input
            if index == 0:
                engine.reset(int(stream))
            frame_2d[stream], frame_3d[stream] = pose_2d[stream, index], pose_3d[stream, index]
        refined = engine.step(frame_2d, frame_3d, image_size, active)
        for stream in np.flatnonzero(active):
            output = plans[stream][positions[stream]].output
            if output is not None:
                results[stream, output] = refined[stream]
    return results


def _steps(parts: tuple[tuple[int, int], ...], delay: int) -> list[_Step]:
    """The steps of one stream.

    Args:
        parts: (begin, length) of each part. A part plays the sequence from its frame 0 on, and its results are the
            frames from ``begin`` on. At its end the last input is repeated until the delayed results are out.
        delay: of the engine, in frames.
    """
    return [
        _Step(min(step, length - 1), begin + step - delay if step >= delay else None)
        for begin, length in parts
        for step in range(length + delay)
    ]


def _stream_engine(graph: Graph, options: ExportOptions, target: Path, folder: Path) -> CausalEngine:
    """Open the artefact, or its graph in the empty ``folder`` where only a GPU runs the artefact."""
    if not options.spec.on_gpu_alone:
        return open_causal_engine(target, EngineOptions(device=options.device if options.has_device else None))
    # ONNX Runtime on the CPU runs the graph of the artefact.
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps({**read_manifest(target).content, "engine": "onnx"})})
    onnx.save(model, folder / "graph.onnx")
    return OnnxCausalEngine(folder / "graph.onnx", device="cpu")


def _engine(graph: Graph, target: Path, options: ExportOptions) -> Run:
    role = "refiner" if graph.source.kind == "refiner" else "lifter"
    opened: Run = open_engine(target, role, EngineOptions(device=options.device if options.has_device else None))
    return opened


def _runs_here(options: ExportOptions) -> bool:
    """Whether this machine has the GPU that the artefact is built for."""
    device = device_at_hand()
    return device is not None and options.compute_capability in (None, device.compute_capability)
