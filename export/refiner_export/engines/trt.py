"""TensorRT and TensorRT for RTX: one code, two modules. The plan stays pure; the manifest lies beside it."""

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
    """Raises MissingComponentError without the module, or without a GPU where it needs one."""
    require_device(load_tensorrt(MODULES[options.engine]), engine_options(options))
    if options.engine == "trt":
        load_cuda()  # or the gate could not run what took minutes to build


def compile_graph(graph: Graph, options: ExportOptions, target: Path, report: Report) -> dict[str, Any]:
    """Build the plan into ``target``."""
    wanted = engine_options(options)
    if graph.source.kind == CAUSAL:
        wanted = dataclasses.replace(wanted, batch=None)
    built = build_plan(graph.model, wanted, report)
    with atomic_path(target) as temporary:
        temporary.write_bytes(built.plan)
    return built.facts


def engine_options(options: ExportOptions) -> TensorRtOptions:
    """What concerns TensorRT."""
    batch = options.batch
    return TensorRtOptions(
        module=MODULES[options.engine],  # type: ignore[arg-type]
        batch=(batch.least, batch.best, batch.most),
        compute_capability=options.compute_capability,
        workspace_bytes=None if options.workspace_mb is None else options.workspace_mb * 2**20,
        optimisation_level=None,
        timing_cache=options.timing_cache,
    )
