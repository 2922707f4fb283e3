"""A checkpoint as one ONNX graph: the K DDIM steps unrolled, the time path folded, pixels and metres in, metres out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from refiner.errors import UsageError
from refiner.files import atomic_path, atomic_write_text
from refiner.models import UnrolledRefiner
from refiner.runtime.onnx_engine import METADATA_KEY
from refiner.training.checkpoints import load_checkpoint, module_of
from refiner_export.graph import DEFAULT_OPSET, count_nodes, trace
from refiner_export.manifest import describe, sha256_of
from refiner_export.parity import check_parity

GATE_MM = 0.01
GATE_WINDOWS = 100


@dataclass(frozen=True)
class ExportResult:
    """``path`` of the graph, ``manifest_path`` of its JSON description, and the ``manifest`` itself."""

    path: Path
    manifest_path: Path
    manifest: dict[str, Any]


def export_onnx(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    steps: int | None = None,
    windows: int = GATE_WINDOWS,
    report: Callable[[str], None] = lambda line: None,
    opset: int = DEFAULT_OPSET,
) -> ExportResult:
    """Export a refiner's or lifter's checkpoint into the folder ``output``.

    The graph is traced, compared with PyTorch on ``windows`` fresh windows and only then given its name.
    Raises ParityError when they differ by 0.01 mm or more, ExportError when the model cannot be traced,
    CheckpointError and UsageError.
    """
    source = Path(checkpoint)
    report(f"reading {source}")
    read = load_checkpoint(source)
    kind = read.config["kind"]
    if kind == "lifter" and steps is not None:
        raise UsageError(f"{source} holds a lifter, which has no denoising steps; leave --steps out")
    module = module_of(read, steps, str(source))
    k = f"-k{module.steps}" if isinstance(module, UnrolledRefiner) else ""
    target = Path(output) / f"{kind}-f{module.frames}-j17{k}-fp32.onnx"
    manifest_path = target.with_suffix(".json")
    report(f"tracing the {kind}: {module.frames} frames{f', {module.steps} steps' if k else ''}, opset {opset}")
    with atomic_path(target) as temporary:
        graph = trace(module, kind, opset)
        manifest = describe(module, source, opset, count_nodes(graph))
        _save(graph, manifest, temporary)
        nodes = manifest["nodes"]
        report(f"{sum(nodes.values())} nodes, {nodes.get('Transpose', 0)} transposes; comparing with PyTorch")
        manifest["parity"] = check_parity(module, temporary, kind, windows, GATE_MM)
        _save(graph, manifest, temporary)
        manifest["graph_sha256"] = sha256_of(temporary)
        # An interrupt from here on leaves no manifest of another graph.
        manifest_path.unlink(missing_ok=True)
    atomic_write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    report(f"largest difference {manifest['parity']['largest_mm']:.6f} mm on {windows} windows; wrote {target}")
    return ExportResult(target, manifest_path, manifest)


def _save(graph: onnx.ModelProto, manifest: dict[str, Any], path: Path) -> None:
    onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(manifest)})
    onnx.save(graph, path)
