"""Compile with PyTorch's AOTInductor, for this kind of processor or GPU."""

from __future__ import annotations

import copy
import platform
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from refiner.causal_state import CAUSAL
from refiner.errors import ExportError, MissingComponentError
from refiner.models.causal import CarriedStep, CausalStep
from refiner.models.inference_form import in_precision
from refiner.runtime.aoti_engine import architecture
from refiner_export.engines import Graph, Report
from refiner_export.options import ExportOptions

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def require(options: ExportOptions) -> None:
    """Raises MissingComponentError where a C++ compiler or the device is missing."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MissingComponentError(
            "--engine aoti --device cuda compiles for the GPU at hand, and PyTorch sees none here; run the same "
            "command on the target machine, with PyTorch's CUDA build"
        )
    if options.device == "cpu" and not any(shutil.which(name) for name in ("g++", "c++", "clang++")):
        raise MissingComponentError("--engine aoti compiles C++; no g++ or clang++ is on the PATH; install one")


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Export the module and compile it into ``target``. Raises ExportError."""
    from refiner_export.graph import batch_shapes, example_inputs, example_step

    device = options.device
    source = graph.source
    module: torch.nn.Module = source.module.to(device)
    if options.precision != "fp32":
        # The module is copied, because other precisions still need the original one.
        module = in_precision(copy.deepcopy(module), TYPES[options.precision], graph.float32_branches)
    shapes: Any = None
    if isinstance(source.module, CausalStep | CarriedStep):
        examples = example_step(source.module.layout, isinstance(source.module, CarriedStep))
    else:
        examples = example_inputs(source.kind, source.frames, _example_batch(options), source.rays)
    examples = tuple(value.to(device) for value in examples)
    if not options.batch.fixed and source.kind != CAUSAL:
        batch = torch.export.Dim("batch", min=options.batch.least, max=options.batch.most)
        shapes = batch_shapes(module, len(examples), batch)
    report(f"compiling with PyTorch {torch.__version__} for {device} (a minute or two)")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, examples, dynamic_shapes=shapes)
            torch._inductor.aoti_compile_and_package(program, package_path=str(target))
    except Exception as error:  # the compiler's exceptions have no common base class
        raise ExportError(f"PyTorch could not compile the graph: {error}") from error
    finally:
        source.module.to("cpu")
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return {"device": device, "device_name": name, "architecture": architecture(device)}


def _example_batch(options: ExportOptions) -> int:
    # PyTorch's exporter treats sizes of 0 and 1 as constants.
    return options.batch.most if options.batch.fixed else max(2, options.batch.best)
