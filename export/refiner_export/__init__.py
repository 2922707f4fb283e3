"""refiner-export: trace a checkpoint into one graph, check it, describe it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refiner_export.onnx_export import ExportResult, export_onnx

__all__ = ["ExportResult", "export_onnx"]


def __getattr__(name: str) -> Any:
    # Only here, so that the command's --help does not wait for PyTorch.
    if name in __all__:
        return getattr(import_module("refiner_export.onnx_export"), name)
    raise AttributeError(f"module 'refiner_export' has no attribute {name!r}")
