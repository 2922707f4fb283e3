"""From a path (or nothing) to an engine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from refiner.errors import CheckpointError, MissingComponentError, UsageError
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
    file = BUNDLED / f"{kind}.safetensors" if path is None else Path(path)
    if path is None and not file.exists():
        raise CheckpointError(f"this installation holds no bundled {kind} ({file}); name a checkpoint")
    if file.suffix == ".onnx":
        if engine == "torch":
            raise UsageError(f"{file} is an ONNX graph; PyTorch runs the checkpoint that it was exported from")
        if steps is not None:
            raise UsageError("the steps of an exported graph are fixed: export it again with --steps")
        return OnnxEngine(file, kind, threads=threads)
    if engine == "onnx":
        raise UsageError(
            f"{file} is a checkpoint; ONNX Runtime runs graphs: refiner-export --engine onnx --checkpoint {file}"
        )
    if find_spec("torch") is None and path is None:
        raise MissingComponentError(
            f"the bundled {kind} is a PyTorch checkpoint and PyTorch is not installed: pip install 'refiner[train]'; "
            "or load an exported graph, which needs only 'refiner[cpu]'"
        )
    return TorchEngine(file, kind, steps, threads)
