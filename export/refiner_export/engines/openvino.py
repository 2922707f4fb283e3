"""Convert a graph to OpenVINO's format. The types of the graph are kept."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx

from refiner.errors import ExportError, MissingComponentError
from refiner_export.engines import Graph, Report
from refiner_export.options import ExportOptions


def require(options: ExportOptions) -> None:
    """Raises MissingComponentError where OpenVINO is not installed."""
    try:
        import openvino  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingComponentError("--engine openvino needs OpenVINO: pip install 'pose-refiner[openvino]'") from error


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Convert the graph to ``.xml`` and ``.bin``. Raises ExportError."""
    import openvino

    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source = Path(folder) / "graph.onnx"
        onnx.save(graph.model, source)
        try:
            model = openvino.convert_model(source)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO could not convert the graph: {error}") from error
    openvino.save_model(model, target, compress_to_fp16=False)
    return {"device": "cpu", "openvino": openvino.__version__}
