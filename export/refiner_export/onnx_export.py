"""A checkpoint as one ONNX graph: the K DDIM steps unrolled, the time path folded, pixels and metres in, metres out."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from refiner import __version__
from refiner.errors import ExportError
from refiner.files import atomic_path, atomic_write_text
from refiner.models import UnrolledRefiner, stc
from refiner.runtime.onnx_engine import INPUTS, OUTPUTS
from refiner.skeleton import JOINT_NAMES, PARENTS
from refiner.training.checkpoints import load_module
from refiner_export.parity import check_parity

SCHEMA = 1
OPSET = 20
GATE_MM = 0.01
# The exporter takes an example batch of 0 or 1 for a constant.
EXAMPLE_BATCH = 2


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
    windows: int = 100,
    report: Callable[[str], None] = lambda line: None,
) -> ExportResult:
    """Export a refiner's or lifter's checkpoint into the folder ``output``.

    The graph is traced, checked against PyTorch on ``windows`` fresh windows and only then given its name.
    Raises ParityError when they differ by 0.01 mm or more, ExportError when the model cannot be traced.
    """
    source = Path(checkpoint)
    module = load_module(source, steps)
    kind = module.config["kind"]
    frames = module.frames
    k = f"-k{module.steps}" if isinstance(module, UnrolledRefiner) else ""
    target = Path(output) / f"{kind}-f{frames}-j17{k}-fp32.onnx"
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "refiner": __version__,
        "kind": kind,
        "checkpoint": {"name": source.name, "sha256": _sha256(source)},
        "model": module.config["model"],
        "frames": frames,
        "fps": 50,
        "precision": "fp32",
        "joints": {"names": list(JOINT_NAMES), "parents": list(PARENTS)},
        "units": {"pose_2d": "pixels", "pose_3d": "metres, camera axes", "image_size": "width, height in pixels"},
        "inputs": {
            "pose_2d": ["batch", frames, 17, 2],
            **({"pose_3d": ["batch", frames, 17, 3]} if kind == "refiner" else {}),
            "image_size": ["batch", 2],
        },
        "outputs": {OUTPUTS[kind]: ["batch", frames, 17, 3]},
        "opset": OPSET,
        "versions": {"torch": torch.__version__, "onnx": onnx.__version__},
    }
    if isinstance(module, UnrolledRefiner):
        manifest |= {"steps": module.steps, "diffusion": module.config["diffusion"]}
    report(f"tracing {kind} of {frames} frames")
    with atomic_path(target) as temporary:
        graph = _trace(module, kind, frames)
        manifest["nodes"] = dict(Counter(node.op_type for node in graph.graph.node).most_common())
        onnx.helper.set_model_props(graph, {"refiner": json.dumps(manifest)})
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, temporary)
        report(f"{sum(manifest['nodes'].values())} nodes; comparing with PyTorch on {windows} windows")
        manifest["parity"] = check_parity(module, temporary, kind, windows, GATE_MM)
        manifest["graph_sha256"] = _sha256(temporary)
    manifest_path = target.with_suffix(".json")
    atomic_write_text(manifest_path, json.dumps(manifest, indent=2) + "\n")
    report(f"largest difference {manifest['parity']['largest_mm']:.6f} mm: wrote {target}")
    return ExportResult(target, manifest_path, manifest)


def _trace(module: torch.nn.Module, kind: str, frames: int) -> onnx.ModelProto:
    generator = torch.Generator().manual_seed(0)
    examples = {
        "pose_2d": 200 + 600 * torch.rand(EXAMPLE_BATCH, frames, 17, 2, generator=generator),
        "pose_3d": torch.randn(EXAMPLE_BATCH, frames, 17, 3, generator=generator),
        "image_size": torch.tensor([[1000.0, 1002.0]] * EXAMPLE_BATCH),
    }
    names = INPUTS[kind]
    batch = torch.export.Dim("batch", min=1, max=65536)
    previous = stc.attention_backend()
    stc.set_attention_backend("plain")
    try:
        with warnings.catch_warnings():
            # Notes of the exporter about itself; what matters is checked on the result.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(examples[name] for name in names),
                input_names=names,
                output_names=[OUTPUTS[kind]],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                dynamic_shapes=tuple({0: batch} for _ in names),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds without a common base
        raise ExportError(f"the {kind} could not be traced: {error}") from error
    finally:
        stc.set_attention_backend(previous)
    assert program is not None
    return program.model_proto


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
