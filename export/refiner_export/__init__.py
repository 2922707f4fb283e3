"""refiner-export: trace a checkpoint into one graph, check it, describe it."""

from refiner_export.onnx_export import ExportResult, export_onnx

__all__ = ["ExportResult", "export_onnx"]
