"""refiner-export: a checkpoint as one graph, compiled for an engine, compared with its model, described."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refiner_export.build import ExportResult, export_artefact
    from refiner_export.options import Batch, ExportOptions

__all__ = ["Batch", "ExportOptions", "ExportResult", "export_artefact"]
_PLACES = {"Batch": "options", "ExportOptions": "options", "ExportResult": "build", "export_artefact": "build"}


def __getattr__(name: str) -> Any:
    # Only here, so that the command's --help does not wait for NumPy and PyTorch.
    if name in __all__:
        return getattr(import_module(f"refiner_export.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'refiner_export' has no attribute {name!r}")
