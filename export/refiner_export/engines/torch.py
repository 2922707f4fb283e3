"""PyTorch runs the checkpoint itself. ``Refiner.load(path, engine="torch-compile")`` compiles it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from refiner.errors import MissingComponentError, UsageError
from refiner_export.engines import Graph, Report
from refiner_export.options import Batch, ExportOptions


def require(options: ExportOptions) -> None:
    """Raises UsageError for options that need a graph, and MissingComponentError where the device is missing."""
    import torch

    options_used = {
        "--with-lifter": options.lifter is not None,
        "--flip-test": options.flip_test,
        "--frames": options.frames is not None,
        "--steps": options.steps is not None,
        "--batch": options.batch != Batch(),
        "--streams": options.streams is not None,
        "--pipelined": options.pipelined,
    }
    unfit = [name for name, used in options_used.items() if used]
    if unfit:
        raise UsageError(
            f"--engine torch runs the checkpoint itself; {', '.join(unfit)} need a graph of another engine"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError("PyTorch sees no CUDA device here; leave --device cuda out")


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Copy the checkpoint."""
    shutil.copyfile(options.checkpoint, target)
    return {"device": options.device}
