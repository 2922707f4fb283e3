"""ONNX Runtime runs the graph as it is, with the manifest inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from refiner.errors import MissingComponentError
from refiner.runtime.onnx_engine import PROVIDERS
from refiner_export.engines import Graph, Report
from refiner_export.options import ExportOptions


def require(options: ExportOptions) -> None:
    """Raises MissingComponentError where ONNX Runtime lacks the device."""
    import onnxruntime

    provider = PROVIDERS[options.device]
    if provider not in onnxruntime.get_available_providers():
        raise MissingComponentError(
            f"ONNX Runtime here has no {provider}: pip uninstall onnxruntime, then pip install 'pose-refiner[gpu]' "
            "(the two wheels hold the same module); or export for the CPU, without --device cuda: the graph is the same"
        )


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Write the graph. `refiner_export.build` adds the manifest."""
    onnx.save(graph.model, target)
    return {"device": options.device}
