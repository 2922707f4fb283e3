"""From a path (or nothing) to an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from refiner.errors import CheckpointError, UsageError
from refiner.runtime.onnx_engine import OnnxEngine
from refiner.runtime.torch_engine import TorchEngine

BUNDLED = Path(__file__).parent.parent / "checkpoints"
ENGINES = ("torch", "onnx")


def open_engine(
    path: str | os.PathLike[str] | None,
    kind: str,
    engine: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
) -> Any:
    """The engine for ``path``: an ``.onnx`` file runs in ONNX Runtime, a checkpoint in PyTorch.

    ``path`` None is the bundled checkpoint. Raises UsageError where file and ``engine`` do not go together, and
    the errors of the engines.
    """
    if engine not in (None, *ENGINES):
        raise UsageError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    file = BUNDLED / f"{kind}.safetensors" if path is None else Path(path)
    if file.suffix == ".onnx":
        if engine == "torch":
            raise UsageError(f"{file} is an ONNX graph; PyTorch runs the checkpoint that it was exported from")
        if steps is not None:
            raise UsageError(f"the steps of {file} are fixed in its graph: export it again with --steps {steps}")
        return OnnxEngine(file, kind, threads=threads)
    if path is None and not file.exists():
        raise CheckpointError(f"this installation holds no bundled {kind} ({file}); name a checkpoint or an .onnx file")
    if engine == "onnx":
        raise UsageError(
            f"{file} is a checkpoint; ONNX Runtime runs graphs. Make one with refiner-export --engine onnx "
            f"--checkpoint {file}, and load the .onnx file that it writes"
        )
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder; expected a .safetensors or .onnx file")
    return TorchEngine(file, kind, steps, threads)
