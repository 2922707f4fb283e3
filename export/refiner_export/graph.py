"""Trace a PyTorch module as one ONNX graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir
import onnxscript
import torch
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

from refiner.causal_state import CAUSAL, StateLayout, step_inputs, step_outputs
from refiner.errors import ExportError, UsageError
from refiner.models import LiftingModule, LiftingRefiner, MirroredPass, SmoothingModule, UnrolledRefiner, fused
from refiner.models.causal import CarriedStep, CausalStep
from refiner.runtime.engine import OUTPUTS, input_names
from refiner.skeleton import JOINT_NAMES
from refiner_export.options import DEFAULT_OPSET, OPSETS

# PyTorch's exporter treats an example batch of 0 or 1 as a constant.
EXAMPLE_BATCH = 2

Exportable = UnrolledRefiner | LiftingModule | LiftingRefiner | MirroredPass | SmoothingModule


def trace(module: Exportable, kind: str, opset: int = DEFAULT_OPSET, fixed_batch: int | None = None) -> onnx.ModelProto:
    """Trace a module as a checked ONNX model, with all weights inside and only standard operators.

    Args:
        module: the model in inference form.
        kind: its kind, see `refiner.runtime.engine.input_names`.
        opset: the ONNX operator set.
        fixed_batch: the graph takes batches of this size; None allows any size. The number of frames is fixed.

    Raises:
        UsageError: the opset lies outside of `OPSETS`.
        ExportError: the module cannot be traced.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not supported; expected {OPSETS.start} to {OPSETS.stop - 1}")
    names = input_names(kind, module.rays)
    examples = example_inputs(kind, module.frames, fixed_batch or EXAMPLE_BATCH, module.rays)
    batch = torch.export.Dim("batch", min=1, max=65536)
    shapes = None if fixed_batch else batch_shapes(module, len(names), batch)
    return _exported(module, kind, examples, names, [OUTPUTS[kind]], opset, shapes)


def batch_shapes(module: torch.nn.Module, inputs: int, batch: Any) -> Any:
    """``dynamic_shapes`` of PyTorch's exporters for a module whose ``inputs`` have ``batch`` as their first axis."""
    shapes = tuple({0: batch} for _ in range(inputs))
    # MirroredPass takes all inputs but the first one as one tuple.
    return (shapes[0], shapes[1:]) if isinstance(module, MirroredPass) else shapes


def trace_step(module: CausalStep | CarriedStep, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Like `trace`, but for one frame of a causal refiner. The tensors of the state are inputs and outputs by name.

    The number of streams is fixed.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not supported; expected {OPSETS.start} to {OPSETS.stop - 1}")
    carried = isinstance(module, CarriedStep)
    inputs, outputs = step_inputs(module.layout, carried), step_outputs(module.layout, carried)
    return _exported(module, CAUSAL, example_step(module.layout, carried), list(inputs), list(outputs), opset, None)


def example_step(layout: StateLayout, carried: bool) -> tuple[torch.Tensor, ...]:
    """Random inputs of a step of a causal refiner, in order."""
    generator = torch.Generator().manual_seed(0)
    shapes = step_inputs(layout, carried)
    inputs = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    seen, _, lens = input_names(CAUSAL, layout.rays)
    inputs[seen][..., :2] = 200 + 600 * inputs[seen][..., :2]
    inputs[lens] = 1000 + inputs[lens]
    return tuple(inputs.values())


def _exported(
    module: torch.nn.Module,
    kind: str,
    examples: tuple[torch.Tensor, ...],
    names: list[str],
    outputs: list[str],
    opset: int,
    shapes: Any,
) -> onnx.ModelProto:
    try:
        with fused.attention_by("plain"), quiet_exporter():
            program = torch.onnx.export(
                module,
                examples,
                input_names=names,
                output_names=outputs,
                opset_version=opset,
                dynamo=True,
                external_data=False,
                dynamic_shapes=shapes,
                custom_translation_table={
                    torch.ops.aten.scaled_dot_product_attention.default: _attention_of(opset),
                },
                verbose=False,
            )
    except Exception as error:  # the exporter's exceptions have no common base class
        raise ExportError(f"the {kind} could not be traced: {error}") from error
    assert program is not None
    model = onnx_ir.from_proto(program.model_proto)
    # The exporter writes the file and line of its source code to every node.
    ClearMetadataAndDocStringPass()(model)
    # The K steps share their weights: each is stored once.
    DeduplicateInitializersPass(size_limit=2**31)(model)
    RemoveUnusedNodesPass()(model)
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """The number of nodes of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def example_inputs(kind: str, frames: int, batch: int, rays: bool = False) -> tuple[torch.Tensor, ...]:
    """Random inputs of a window model, in the order of `refiner.runtime.engine.input_names`."""
    generator = torch.Generator().manual_seed(0)
    joints = len(JOINT_NAMES)
    pose_2d = 200 + 600 * torch.rand(batch, frames, joints, 2, generator=generator)
    arrays = {
        "pose_2d": pose_2d,
        "pose_3d": torch.randn(batch, frames, joints, 3, generator=generator),
        "image_size": torch.tensor([[1000.0, 1002.0]] * batch),
        "action": torch.zeros(batch, 1),
        "keypoints": torch.cat([pose_2d, torch.rand(batch, frames, joints, 1, generator=generator)], dim=-1),
        "camera": torch.tensor([[1000.0, 1002.0, 1145.0]] * batch),
    }
    return tuple(arrays[name] for name in input_names(kind, rays))


def _attention_of(opset: int) -> Any:
    """The translation of attention without a mask on 4-D tensors, to five nodes.

    The exporter's own translation computes the shape of the keys at run time in order to transpose them, which takes
    seven more nodes for every attention.
    """
    op = getattr(onnxscript, f"opset{opset}")

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa or scale is None:
            raise ExportError("the graph holds an attention with a mask, dropout or groups; expected a plain one")
        scaled = op.Mul(query, op.Constant(value_float=float(scale)))
        scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    return attention


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress the messages and warnings of PyTorch's exporter. The resulting graph is checked instead."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
