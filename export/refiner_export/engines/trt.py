"""Compile for TensorRT and TensorRT for RTX. The file holds nothing but the plan; the manifest lies beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from refiner.causal_state import CAUSAL
from refiner.files import atomic_path
from refiner.runtime.cuda import load_cuda
from refiner.runtime.tensorrt_engine import MODULES
from refiner_export.engines import Graph, Report
from refiner_export.engines.tensorrt import TensorRtOptions, build_plan, load_tensorrt, require_device
from refiner_export.options import ExportOptions


def require(options: ExportOptions) -> None:
    """Raises MissingComponentError where the module, or a GPU that it needs, is missing."""
    require_device(load_tensorrt(MODULES[options.engine]), engine_options(options))
    if options.engine == "trt":
        load_cuda()  # the gate needs it after the build, which takes minutes


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Build the plan into ``target``."""
    plan_options = engine_options(options)
    if graph.source.kind == CAUSAL:
        plan_options = dataclasses.replace(plan_options, batch=None)
    built = build_plan(graph.model, plan_options, report)
    with atomic_path(target) as temporary:
        temporary.write_bytes(built.plan)
    return built.facts


def engine_options(options: ExportOptions) -> TensorRtOptions:
    """The options for TensorRT."""
    batch = options.batch
    return TensorRtOptions(
        module=MODULES[options.engine],  # type: ignore[arg-type]
        batch=(batch.least, batch.best, batch.most),
        compute_capability=options.compute_capability,
        workspace_bytes=None if options.workspace_mb is None else options.workspace_mb * 2**20,
        optimisation_level=None,
        timing_cache=options.timing_cache,
    )
