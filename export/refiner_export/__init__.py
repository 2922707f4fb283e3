"""refiner-export: export a checkpoint as one graph, compile it for an engine, and compare it with its model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refiner_export.build import ExportResult, export_artefact
    from refiner_export.options import Batch, ExportOptions

__all__ = ["Batch", "ExportOptions", "ExportResult", "export_artefact"]
_MODULES = {"Batch": "options", "ExportOptions": "options", "ExportResult": "build", "export_artefact": "build"}


def __getattr__(name: str) -> Any:
    # The import is here so that the command's --help does not wait for NumPy and PyTorch.
    if name in __all__:
        return getattr(import_module(f"refiner_export.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'refiner_export' has no attribute {name!r}")
