"""Run a typed graph exactly as its types say, to separate the error of the types from the error of an engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from refiner_export.gate import Run
from refiner_export.precision import TypedGraph


def graph_runner(typed: TypedGraph) -> Run:
    """Wrap a graph as a function of its inputs, in order.

    ONNX Runtime's CPU provider runs graphs of float32, float16 and int8. It has no products of bfloat16, so ONNX's
    reference implementation runs those graphs, slowly.
    """
    if typed.precision == "bf16":
        return _reference(typed.model)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(typed.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
        return output

    return run


def _reference(model: onnx.ModelProto) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(model)
    names = [entry.name for entry in model.graph.input]

    def run(*inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(evaluator.run(None, dict(zip(names, inputs, strict=True)))[0], dtype=np.float32)

    return run
