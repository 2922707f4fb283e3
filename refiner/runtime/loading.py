"""From a path (or nothing) to an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from refiner.errors import ArtefactError, CheckpointError, UsageError
from refiner.runtime.engine import BUNDLED as BUNDLED

# What an artefact's name ends with, and the engines that run it; the first is the default.
ENGINES_OF = {
    ".safetensors": ("torch", "torch-compile"),
    ".onnx": ("onnx",),
    ".xml": ("openvino",),
    ".engine": ("trt", "trt-rtx"),
    ".pt2": ("aoti",),
}
ENGINES = tuple(name for names in ENGINES_OF.values() for name in names)
DEVICES = ("cpu", "cuda")
GOALS = ("latency", "throughput")


def open_engine(
    path: str | os.PathLike[str] | None,
    role: str,
    engine: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    goal: str = "latency",
) -> Any:
    """The engine for ``path``: a checkpoint runs in PyTorch, an artefact in the engine that it was made for.

    ``path`` None is the bundled checkpoint; ``device`` None is where the artefact runs, the CPU where there is a
    choice; ``goal`` ("latency" or "throughput") is for engines that can be tuned for either (OpenVINO). Raises
    UsageError where file and options do not go together, and the errors of the engines.
    """
    if engine not in (None, *ENGINES):
        raise UsageError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if device not in (None, *DEVICES):
        raise UsageError(f"there is no device {device!r}; choose one of {', '.join(DEVICES)}")
    if goal not in GOALS:
        raise UsageError(f"there is no goal {goal!r}; choose one of {', '.join(GOALS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    file = BUNDLED / f"{role}.safetensors" if path is None else Path(path)
    if path is None and not file.exists():
        raise CheckpointError(f"this installation holds no bundled {role} ({file}); name a checkpoint or an artefact")
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; expected a checkpoint or an artefact: {', '.join(ENGINES_OF)}")
    # A file of another name is taken for a checkpoint: what it is then turns out when it is read.
    suffix = file.suffix if file.suffix in ENGINES_OF else ".safetensors"
    if engine is not None and engine not in ENGINES_OF[suffix]:
        raise UsageError(_wrong_engine(file, suffix, engine))
    if suffix == ".safetensors":
        from refiner.runtime.torch_engine import TorchEngine

        return TorchEngine(file, role, steps, threads, device or "cpu", engine == "torch-compile")
    if not file.is_file():
        raise ArtefactError(f"there is no artefact at {file}; write one with refiner-export")
    if steps is not None:
        raise UsageError(f"the steps of {file} are fixed in its graph: export it again with --steps {steps}")
    opened = _open_artefact(file, suffix, role, threads, device, goal)
    if engine not in (None, opened.metadata["engine"]):
        raise UsageError(f"{file} is an artefact for {opened.metadata['engine']}, not for {engine}")
    return opened


def _open_artefact(file: Path, suffix: str, role: str, threads: int | None, device: str | None, goal: str) -> Any:
    if suffix == ".onnx":
        from refiner.runtime.onnx_engine import OnnxEngine

        return OnnxEngine(file, role, device, threads)
    if suffix == ".pt2":
        from refiner.runtime.aoti_engine import AotiEngine

        opened = AotiEngine(file, role, threads)
        if device not in (None, opened.metadata["device"]):
            raise UsageError(f"{file} was compiled for {opened.metadata['device']}; export it again for {device}")
        return opened
    if suffix == ".xml":
        if device == "cuda":
            raise UsageError("OpenVINO runs on the CPU here; for CUDA export with --engine onnx, trt or aoti")
        from refiner.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(file, role, threads, goal)
    if device == "cpu":
        raise UsageError(f"{file} runs on an NVIDIA GPU alone; for the CPU export with --engine onnx or openvino")
    from refiner.runtime.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(file, role)


def _wrong_engine(file: Path, suffix: str, engine: str) -> str:
    made_for = " or ".join(ENGINES_OF[suffix])
    if suffix == ".safetensors":
        return (
            f"{file} is a checkpoint; {engine} runs artefacts. Make one with refiner-export --engine {engine} "
            f"--checkpoint {file}, and load what it writes"
        )
    if engine.startswith("torch"):
        return f"{file} is an artefact for {made_for}; PyTorch runs the checkpoint that it was exported from"
    return f"{file} is an artefact for {made_for}, not for {engine}; export one: refiner-export --engine {engine}"
