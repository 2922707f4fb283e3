"""From a path (or nothing) to an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner import bundled
from refiner.errors import ArtefactError, CheckpointError, UsageError

if TYPE_CHECKING:
    from refiner.runtime.causal import CausalEngine, StreamEngine

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

    ``path`` None is the bundled checkpoint, a bare name another one that is bundled; ``device`` None is where the
    artefact runs, the CPU where there is a choice; ``goal`` ("latency" or "throughput") is for engines that can be
    tuned for either (OpenVINO). Raises UsageError where file and options do not go together, and the errors of the
    engines.
    """
    if goal not in GOALS:
        raise UsageError(f"there is no goal {goal!r}; choose one of {', '.join(GOALS)}")
    file, suffix = _file_of(path, role, engine, threads, device)
    if suffix == ".safetensors":
        from refiner.runtime.torch_engine import TorchEngine

        return TorchEngine(file, role, steps, threads, device or "cpu", engine == "torch-compile")
    if steps is not None:
        raise UsageError(f"the steps of {file} are fixed in its graph: export it again with --steps {steps}")
    return _of_engine(_open_artefact(file, suffix, role, threads, device, goal), file, engine)


def open_causal_engine(
    path: str | os.PathLike[str] | None = None,
    streams: int | None = None,
    pipelined: bool | None = None,
    engine: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> CausalEngine:
    """The engine of a causal refiner for streams, which come frame by frame.

    ``path``: a causal checkpoint, which PyTorch runs, or an artefact of one; None is the bundled checkpoint.
    ``streams``: how many at once; ``pipelined``: the K steps of K neighbouring frames in one pass, K - 1 frames later.
    Both are fixed in an artefact, where None takes them as they are; of a checkpoint None is one stream, not pipelined.
    The rest is as for `open_engine`. Raises UsageError where file and options do not go together, ConfigError for a
    checkpoint that is not causal, and the errors of the engines.
    """
    file, suffix = _file_of(path, "causal refiner", engine, threads, device)
    if suffix == ".safetensors":
        if engine == "torch-compile":
            raise UsageError(
                "a causal refiner runs in PyTorch eagerly; for compiled code: refiner-export --engine aoti"
            )
        from refiner.runtime.causal_torch import TorchCausalEngine

        return TorchCausalEngine(
            file, 1 if streams is None else streams, bool(pipelined), steps, threads, device or "cpu"
        )
    opened: StreamEngine = _of_engine(_open_causal_artefact(file, suffix, threads, device), file, engine)
    fixed = {"streams": opened.streams, "pipelined": opened.layout.pipelined, "steps": opened.layout.steps}
    for name, wanted in (("streams", streams), ("pipelined", pipelined), ("steps", steps)):
        if wanted not in (None, fixed[name]):
            raise UsageError(
                f"{file} was exported with {name} = {fixed[name]}, not {wanted}: export it again with --streams, "
                "--pipelined and --steps as you need them"
            )
    return opened


def _file_of(
    path: str | os.PathLike[str] | None, role: str, engine: str | None, threads: int | None, device: str | None
) -> tuple[Path, str]:
    """The file and what it is by its name. Raises the errors of options that cannot be."""
    if engine not in (None, *ENGINES):
        raise UsageError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if device not in (None, *DEVICES):
        raise UsageError(f"there is no device {device!r}; choose one of {', '.join(DEVICES)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    file = bundled.default_checkpoint(role) if path is None else bundled.by_name(Path(path))
    if path is None and not file.exists():
        raise CheckpointError(f"this installation holds no bundled {role} ({file}); name a checkpoint or an artefact")
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; expected a checkpoint or an artefact: {', '.join(ENGINES_OF)}")
    # A file of another name is taken for a checkpoint: what it is then turns out when it is read.
    suffix = file.suffix if file.suffix in ENGINES_OF else ".safetensors"
    if engine is not None and engine not in ENGINES_OF[suffix]:
        raise UsageError(_wrong_engine(file, suffix, engine))
    if suffix != ".safetensors" and not file.is_file():
        raise ArtefactError(f"there is no artefact at {file}; write one with refiner-export")
    return file, suffix


def _of_engine(opened: Any, file: Path, engine: str | None) -> Any:
    if engine not in (None, opened.metadata["engine"]):
        raise UsageError(f"{file} is an artefact for {opened.metadata['engine']}, not for {engine}")
    return opened


def _open_causal_artefact(file: Path, suffix: str, threads: int | None, device: str | None) -> StreamEngine:
    if suffix == ".onnx":
        from refiner.runtime.causal_onnx import OnnxCausalEngine

        return OnnxCausalEngine(file, device, threads)
    if suffix == ".pt2":
        from refiner.runtime.causal_torch import AotiCausalEngine

        package: StreamEngine = _on_device(AotiCausalEngine(file, threads), file, device)
        return package
    if suffix == ".xml":
        _refuse_cuda(device)
        from refiner.runtime.causal_openvino import OpenVinoCausalEngine

        return OpenVinoCausalEngine(file, threads)
    raise UsageError(
        f"{file} has its state as inputs and outputs, which no TensorRT engine of ours binds yet: run it by TensorRT's "
        "own interface, or export the checkpoint with --engine onnx or aoti"
    )


def _open_artefact(file: Path, suffix: str, role: str, threads: int | None, device: str | None, goal: str) -> Any:
    if suffix == ".onnx":
        from refiner.runtime.onnx_engine import OnnxEngine

        return OnnxEngine(file, role, device, threads)
    if suffix == ".pt2":
        from refiner.runtime.aoti_engine import AotiEngine

        return _on_device(AotiEngine(file, role, threads), file, device)
    if suffix == ".xml":
        _refuse_cuda(device)
        from refiner.runtime.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(file, role, threads, goal)
    if device == "cpu":
        raise UsageError(f"{file} runs on an NVIDIA GPU alone; for the CPU export with --engine onnx or openvino")
    from refiner.runtime.tensorrt_engine import TensorRtEngine

    return TensorRtEngine(file, role)


def _on_device(opened: Any, file: Path, device: str | None) -> Any:
    if device not in (None, opened.metadata["device"]):
        raise UsageError(f"{file} was compiled for {opened.metadata['device']}; export it again for {device}")
    return opened


def _refuse_cuda(device: str | None) -> None:
    if device == "cuda":
        raise UsageError("OpenVINO runs on the CPU here; for CUDA export with --engine onnx, trt or aoti")


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
