"""Write a model repository of the Triton Inference Server for an artefact."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from refiner.causal_state import CAUSAL
from refiner.engines import ENGINES
from refiner.errors import UsageError
from refiner.runtime.manifest import Manifest, check_files, manifest_path, read_manifest

# For each engine: Triton's backend, and the name of the file that the backend loads.
BACKENDS = {
    "onnx": ("onnxruntime", "model.onnx"),
    "openvino": ("openvino", "model.xml"),
    "trt": ("tensorrt", "model.plan"),
}
# How long a request may wait for others to share its batch: a fraction of the time of a batch.
QUEUE_DELAY_US = 500


def write_repository(artefact: Path, folder: Path) -> Path:
    """Write ``folder/NAME/config.pbtxt``, and ``folder/NAME/1/`` with a copy of the artefact.

    An earlier model of the same name is replaced as a whole.

    Returns:
        ``folder/NAME``.

    Raises:
        UsageError: Triton has no backend for the engine, or the artefact is a causal refiner.
        ArtefactError: the artefact does not fit its manifest.
    """
    manifest = read_manifest(artefact)
    check_files(manifest, artefact)
    check_backend(manifest.engine)
    if manifest.kind == CAUSAL:
        raise UsageError(f"{artefact} has a state, which no Triton model of ours keeps; leave --triton out")
    name = f"{artefact.stem}-{manifest.engine}"
    target = folder / name
    if target.exists() and not (target / "config.pbtxt").is_file():
        raise UsageError(f"{target} exists and is no Triton model; choose another folder for --triton")
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{artefact.stem}-", dir=folder))
    try:
        version = building / "1"
        version.mkdir()
        file_name = Path(BACKENDS[manifest.engine][1])
        for part in manifest.files:
            shutil.copyfile(artefact.parent / part, version / (file_name.stem + _suffix(part, file_name, artefact)))
        (building / "config.pbtxt").write_text(model_config(name, manifest), encoding="utf-8")
        shutil.copyfile(manifest_path(artefact), building / "manifest.json")
        building.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def check_backend(engine: str) -> None:
    """Raises UsageError for an engine that Triton has no backend for."""
    if engine not in BACKENDS:
        raise UsageError(f"Triton has no backend for {engine}; --triton goes with --engine {', '.join(BACKENDS)}")


def model_config(name: str, manifest: Manifest) -> str:
    """The text of ``config.pbtxt``: dynamic batching up to the artefact's largest batch, or its one fixed batch."""
    backend, _ = BACKENDS[manifest.engine]
    least, best, most = manifest.batch.least, manifest.batch.best, manifest.batch.most
    # Triton's own batches begin at 1. An artefact that takes no single window is served in its fixed batches.
    batched = least == 1 and most > 1
    built_for_cuda = manifest.build is not None and str(manifest.build.device).startswith("cuda")
    on_gpu = ENGINES[manifest.engine].on_gpu_alone or built_for_cuda
    lines = [
        f"name: {json.dumps(name)}",
        f"backend: {json.dumps(backend)}",
        f"max_batch_size: {most if batched else 0}",
        *_tensors("input", manifest.inputs, batched, most),
        *_tensors("output", manifest.outputs, batched, most),
    ]
    if batched:
        preferred = sorted({size for size in (best, most) if size > 1})
        lines += [
            "dynamic_batching {",
            f"  preferred_batch_size: {preferred}",
            f"  max_queue_delay_microseconds: {QUEUE_DELAY_US}",
            "}",
        ]
    lines += ["instance_group [", f"  {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }}", "]"]
    return "\n".join(lines) + "\n"


def _tensors(field: str, tensors: Mapping[str, tuple[int | str, ...]], batched: bool, batch: int) -> list[str]:
    entries = []
    for name, shape in tensors.items():
        dims = [*([] if batched else [batch]), *shape[1:]]
        entries.append(f"  {{ name: {json.dumps(name)} data_type: TYPE_FP32 dims: {dims} }}")
    return [f"{field} [", ",\n".join(entries), "]"]


def _suffix(name: str, file_name: Path, artefact: Path) -> str:
    return file_name.suffix if name == artefact.name else Path(name).suffix
