"""The gate on an artefact: its error against float32 PyTorch, and where that error comes from."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from refiner.engines import EngineOptions
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

# Frames of a causal refiner's comparison; each stream begins some frames after the one before, and the first is
# forgotten and begins anew in the middle.
STREAM_FRAMES, LATER_BY, MOST_LATER = 300, 3, 30


def compare_artefact(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """Run the artefact, in batches of 1, 2 and the largest, on fresh windows; the manifest's ``parity``.

    ``total``: against float32 PyTorch, which is judged. ``typing``: the part that comes from the graph's types.
    ``engine``: what the engine adds to that.
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
        # Whether mpjpe_mm is an accuracy, or only there to be compared: with made-up gaps and lenses it is not.
        "mpjpe_is_accuracy": options.data is not None
        and not source.rays
        and (windows.real or source.kind != "refiner"),
    }
    on_gpu_elsewhere = options.spec.on_gpu_alone and not _runs_here(options)
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


def compare_stream(graph: Graph, options: ExportOptions, target: Path) -> dict[str, Any]:
    """As `compare_artefact` for a causal refiner: streams frame by frame against the pass over the whole sequences."""
    source = graph.source
    streams = 1 if options.streams is None else options.streams
    sequences = gate_windows(replace(options, windows=streams, batch=Batch(1, 1, 1)), STREAM_FRAMES, rays=source.rays)
    sequences = with_wild_windows(sequences)
    inputs = sequences.of_kind(source.kind, rays=source.rays)
    expected = run_batches(reference(source.reference), inputs, [8])
    # What the first stream gives after it was forgotten is the beginning of its sequence again.
    anew = STREAM_FRAMES // 2
    expected[0, anew:] = expected[0, : STREAM_FRAMES - anew].copy()
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
    with tempfile.TemporaryDirectory() as folder:
        engine = _stream_engine(graph, options, target, Path(folder))
        found = _play(engine, inputs, anew)
    parity["total"] = compare(found, expected, sequences)
    return parity


def _play(engine: CausalEngine, inputs: tuple[Array, ...], anew: int) -> Array:
    """Every stream's sequence through ``engine``, the first one's beginning again after ``anew`` frames:
    ``(S, F, 17, 3)``."""
    pose_2d, pose_3d, image_size = inputs
    streams, frames = pose_2d.shape[:2]
    found = np.full_like(pose_3d, np.nan)
    begins = np.minimum(LATER_BY * np.arange(streams), MOST_LATER)
    plans = [_plan(((0, frames),), engine.delay) for _ in range(streams)]
    plans[0] = _plan(((0, anew), (anew, frames - anew)), engine.delay)
    for tick in range(max(len(plan) + begin for plan, begin in zip(plans, begins, strict=True))):
        places = tick - begins
        active = np.array([0 <= place < len(plan) for place, plan in zip(places, plans, strict=True)])
        frame_2d, frame_3d = np.empty_like(pose_2d[:, 0]), np.empty_like(pose_3d[:, 0])
        for stream in np.flatnonzero(active):
            given, _ = plans[stream][places[stream]]
            if given == 0:
                engine.reset(int(stream))
            frame_2d[stream], frame_3d[stream] = pose_2d[stream, given], pose_3d[stream, given]
        refined = engine.step(frame_2d, frame_3d, image_size, active)
        for stream in np.flatnonzero(active):
            _, made = plans[stream][places[stream]]
            if made is not None:
                found[stream, made] = refined[stream]
    return found


def _plan(parts: tuple[tuple[int, int], ...], delay: int) -> list[tuple[int, int | None]]:
    """What a stream is given and what it makes of it, step by step: for each part, whose results begin at a place and
    are so many, the frames from 0 on, and the last one again until the delayed results are out."""
    return [
        (min(step, length - 1), begin + step - delay if step >= delay else None)
        for begin, length in parts
        for step in range(length + delay)
    ]


def _stream_engine(graph: Graph, options: ExportOptions, target: Path, folder: Path) -> CausalEngine:
    if not options.spec.on_gpu_alone:
        return open_causal_engine(target, EngineOptions(device=options.device if options.has_device else None))
    # Its graph, in ONNX Runtime.
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
    device = device_at_hand()
    return device is not None and options.compute_capability in (None, device.compute_capability)
