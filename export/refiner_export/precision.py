"""Convert a float32 graph to a graph of lower precision, which every engine shares.

This module decides once which values are computed in which precision, and writes the decision into the graph as types,
so that engines have nothing left to choose. The flow of data decides. A branch begins at a LayerNormalization and ends
where its result is added to the residual. The hidden layers lie inside the branches, and only they leave float32. The
coordinates, the residual sums, the first and the last layer and the DDIM steps lie outside.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from refiner.errors import ExportError, MissingComponentError, UsageError
from refiner.files import naming_full_disk

Precision = Literal["fp32", "fp16", "bf16"]
FLOAT = onnx.TensorProto.FLOAT
# For each low precision: its type in ONNX and in NumPy, and the first opset in which all operators used here take it.
LOW_TYPES: dict[str, tuple[int, Any, int]] = {
    "fp16": (onnx.TensorProto.FLOAT16, np.float16, 18),
    "bf16": (onnx.TensorProto.BFLOAT16, ml_dtypes.bfloat16, 22),  # Conv is the last to take it
}
# The last layer has this many outputs for a joint: x, y and z.
COORDINATES = 3
LAYOUT = frozenset(("Concat", "Reshape", "Slice", "Split", "Transpose"))
# Below opset 20, the exporter writes Gelu as Div, Erf and Mul.
ELEMENTWISE = frozenset(("Div", "Erf", "Gelu", "Mul"))

# The classes of nodes, in words.
HIDDEN, PRODUCT, BRANCH_ADD, MOVED = "hidden layer", "attention product", "Add in a branch", "layout in a branch"
FIRST, LAST, RESIDUAL, EMBEDDING = "first layer", "last layer", "residual Add", "embedding Add"
ARITHMETIC = "normalisation, root and DDIM arithmetic"
LOW_CLASSES = frozenset((HIDDEN, PRODUCT, BRANCH_ADD, "Conv", *ELEMENTWISE))
TOO_SENSITIVE = "hidden layer too sensitive for int8"
SENSITIVE_BRANCH = "in a branch too sensitive"
# bfloat16 rounds a value by at most 0.4 %. Weights that change by more have lost values to underflow.
LARGEST_ROUNDING = 0.01
# int8 may move the joints of the calibration windows by this much on average, in mm.
INT8_CHANGE_MM = 0.25
# Layers are first quantised one by one. Their errors are measured on this many batches of the calibration.
BATCHES_ALONE = 2


@dataclass(frozen=True)
class TypedGraph:
    """A graph with the types of a precision.

    Attributes:
        model: the graph.
        precision: "fp32", "fp16", "bf16" or "int8".
        kept_float32: how many nodes of each class compute in float32.
    """

    model: onnx.ModelProto
    precision: str
    kept_float32: dict[str, int]


@dataclass(frozen=True)
class _Roles:
    """The role of each node in a graph. A node is named by its first output.

    Attributes:
        floats: the float32 tensors that are no initialisers.
        kinds: the class of each node.
        branch_of: the branch of each node inside one, counted from 0 in the order of computation.
    """

    floats: frozenset[str]
    kinds: dict[str, str]
    branch_of: dict[str, int]


def type_graph(model: onnx.ModelProto, precision: Precision, float32_branches: Collection[int] = ()) -> TypedGraph:
    """Convert the branches of a float32 graph to a precision. Inputs and outputs stay float32.

    "fp32" copies the graph as it is. Other precisions fold nodes that depend only on initialisers, and "bf16" converts
    the graph to opset 22.

    Args:
        model: the float32 graph.
        precision: of the branches.
        float32_branches: the branches that stay in float32, counted from 0 in the order of the graph.

    Raises:
        UsageError: the precision is unknown.
        ExportError: a weight lies outside of the range of the precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"there is no precision {precision!r}; expected {', '.join(get_args(Precision))}")
    if precision == "fp32":
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        return TypedGraph(copied, precision, dict(Counter(_roles_of(_folded(model)).kinds.values())))
    element_type, dtype, opset = LOW_TYPES[precision]
    typed = _folded(_at_opset(model, opset))
    roles = _roles_of(typed)
    low = _low_tensors(typed, roles, frozenset(float32_branches))
    _store_initialisers(typed.graph, low, precision, dtype)
    _insert_casts(typed.graph, roles.floats, low, precision, element_type)
    counts: Counter[str] = Counter()
    for output, kind in roles.kinds.items():
        if output not in low:
            sensitive = kind in LOW_CLASSES and roles.branch_of.get(output) in float32_branches
            counts[f"{kind} {SENSITIVE_BRANCH}" if sensitive else kind] += 1
    return TypedGraph(_with_value_types(typed), precision, dict(counts))


def quantise_graph(
    model: onnx.ModelProto, calibration: Sequence[Mapping[str, NDArray[np.float32]]], limit_mm: float = INT8_CHANGE_MM
) -> TypedGraph:
    """Convert hidden layers of a float32 graph to int8, with pairs of QuantizeLinear and DequantizeLinear.

    Weights are quantised by output channel and activations by tensor, both symmetrically, because TensorRT takes no
    zero point. Weights use 7 of their 8 bits: an x86 CPU without VNNI adds two products in 16 bits, and full weights
    would overflow there.

    Args:
        model: the float32 graph.
        calibration: a few batches of inputs, by name, like those that the graph will see. They give the ranges of the
            activations. They also decide which layers stay in float32: those with the largest error for their work, as
            many as the limit requires.
        limit_mm: int8 may move the joints of the calibration by this much on average. ``float("inf")`` quantises every
            hidden layer.

    Raises:
        UsageError: there is no calibration, or it has other inputs than the graph.
        ExportError: no layer can be quantised within the limit.
        MissingComponentError: ONNX Runtime is not installed.
    """
    _check_calibration(model, calibration)
    floats = _folded(model)
    _name_nodes(floats.graph)
    kinds = _roles_of(floats).kinds
    hidden = [node for node in floats.graph.node if kinds.get(node.output[0]) == HIDDEN]
    quantised = _quantised(floats, [node.name for node in hidden], calibration)
    chosen = _tolerable(floats, quantised, hidden, calibration, limit_mm)
    counts = Counter(kinds.values())
    counts[TOO_SENSITIVE] = counts.pop(HIDDEN, 0) - len(chosen)
    return TypedGraph(_with_value_types(_with_layers_of(floats, quantised, chosen)), "int8", dict(+counts))


def _at_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """Convert the graph to opset ``least`` where its own opset is older."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset >= least:
        return model
    converted = version_converter.convert_version(model, least)
    # The converter drops the metadata of inputs and outputs.
    for entries, source in ((converted.graph.input, model.graph.input), (converted.graph.output, model.graph.output)):
        del entries[:]
        entries.extend(source)
    return converted


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which nodes that depend only on initialisers are initialisers, above all transposed weights."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    opsets = {entry.domain: entry.version for entry in copied.opset_import}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    outputs = {entry.name for entry in graph.output}
    nodes: list[onnx.NodeProto] = []
    folded: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if constants.keys() >= set(node.input) and outputs.isdisjoint(node.output):
            values = ReferenceEvaluator(node, opsets=opsets).run(None, {name: constants[name] for name in node.input})
            folded |= dict(zip(node.output, values, strict=True))
            constants |= folded
        else:
            nodes.append(node)
    _replace_nodes(graph, nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items())
    _drop_unused_initialisers(graph)
    produced = {name for node in nodes for name in node.output}
    entries = [entry for entry in graph.value_info if entry.name in produced]
    del graph.value_info[:]
    graph.value_info.extend(entries)
    return copied


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    # extend copies the nodes, so it must come first: a deleted node cannot be read any more.
    before = len(graph.node)
    graph.node.extend(nodes)
    del graph.node[:before]


def _drop_unused_initialisers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _with_value_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the type of every value to the graph, and check the graph."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _stream_norms(graph: onnx.GraphProto, constants: Collection[str]) -> set[str]:
    """The outputs of norms that lie in the residual stream and begin no branch, like the shared norms of MixSTE.

    Such an output reaches another norm through nothing but changes of layout and added constants.
    """
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)

    def reaches_norm(name: str) -> bool:
        return any(
            reader.op_type == "LayerNormalization"
            or (
                (reader.op_type in LAYOUT or (reader.op_type == "Add" and any(n in constants for n in reader.input)))
                and reaches_norm(reader.output[0])
            )
            for reader in readers[name]
        )

    norms = (node.output[0] for node in graph.node if node.op_type == "LayerNormalization")
    return {name for name in norms if reaches_norm(name)}


def _roles_of(model: onnx.ModelProto) -> _Roles:
    """Follow the flow of data, and find the branches and the class of each node."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    floats = _float_names(model) - shapes.keys()
    # The channels of the networks in the graph: the sizes that LayerNormalization normalises over.
    widths = {shapes[node.input[1]][-1] for node in graph.node if node.op_type == "LayerNormalization"}
    outputs = {entry.name for entry in graph.output}
    in_stream = _stream_norms(graph, shapes.keys())
    branches: dict[str, int] = {}  # tensor -> the branch that it belongs to
    kinds: dict[str, str] = {}
    branch_of: dict[str, int] = {}
    begun = 0
    for node in graph.node:
        data = floats.intersection(node.input)
        inside = bool(data) and data <= branches.keys() and outputs.isdisjoint(node.output)
        constants = [shapes[name] for name in node.input if name in shapes]
        if inside and node.op_type == "MatMul" and constants and constants[0][-1] == COORDINATES:
            # The layer after the last norm of MixSTE is no branch but the end of the network.
            kinds[node.output[0]] = LAST
            continue
        if node.op_type == "LayerNormalization":
            if node.output[0] not in in_stream:
                branches |= dict.fromkeys(node.output, begun)
                begun += 1
        elif inside:
            branch = branches[min(data)]
            branches |= dict.fromkeys(node.output, branch)
            branch_of[node.output[0]] = branch
        if not floats.isdisjoint(node.output):
            ends_branch = not branches.keys().isdisjoint(data)
            kind = _kind_inside(node, constants) if inside else _kind_outside(node, constants, ends_branch, widths)
            kinds[node.output[0]] = kind
    return _Roles(floats, kinds, branch_of)


def _float_names(model: onnx.ModelProto) -> frozenset[str]:
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    entries = [*graph.input, *graph.output, *graph.value_info]
    return frozenset(entry.name for entry in entries if entry.type.tensor_type.elem_type == FLOAT)


def _kind_inside(node: onnx.NodeProto, constants: list[tuple[int, ...]]) -> str:
    if node.op_type == "MatMul":
        return HIDDEN if constants else PRODUCT
    if node.op_type == "Add":
        return BRANCH_ADD
    return MOVED if node.op_type in LAYOUT else node.op_type


def _kind_outside(node: onnx.NodeProto, constants: list[tuple[int, ...]], ends_branch: bool, widths: set[int]) -> str:
    if node.op_type == "LayerNormalization":
        return node.op_type
    if node.op_type == "MatMul" and constants:
        wide_input, wide_output = (size in widths for size in constants[0][-2:])
        if wide_input != wide_output:
            return FIRST if wide_output else LAST
    if node.op_type == "Add" and ends_branch:
        return RESIDUAL
    if node.op_type == "Add" and any(shape[-1:] and shape[-1] in widths for shape in constants):
        return EMBEDDING
    return FIRST if node.op_type == "Gelu" else ARITHMETIC


def _low_tensors(model: onnx.ModelProto, roles: _Roles, float32_branches: frozenset[int]) -> set[str]:
    """The tensors of the low precision. A change of layout keeps the type of its input."""
    low: set[str] = set()
    for node in model.graph.node:
        kind = roles.kinds.get(node.output[0])
        if roles.branch_of.get(node.output[0]) in float32_branches:
            continue
        if kind in LOW_CLASSES or (kind == MOVED and not low.isdisjoint(node.input)):
            low |= roles.floats.intersection(node.output)
    return low


def _store_initialisers(graph: onnx.GraphProto, low: set[str], precision: str, dtype: Any) -> None:
    """Store each initialiser in the type of the nodes that read it, and twice where nodes of both types read it."""
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    narrow: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    wide: set[str] = set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in tensors and node.output[0] in low:
                narrow[name].append((node, index))
            elif name in tensors:
                wide.add(name)
    taken = _names(graph)
    for name, readers in narrow.items():
        factor = any(_multiplies(node, index) for node, index in readers)
        values = _narrowed(tensors[name], dtype, precision, factor)
        if name not in wide:
            tensors[name].CopyFrom(numpy_helper.from_array(values, name))
            continue
        copied = _free_name(f"{name}_{precision}", taken)
        graph.initializer.append(numpy_helper.from_array(values, copied))
        for node, index in readers:
            node.input[index] = copied


def _multiplies(node: onnx.NodeProto, index: int) -> bool:
    """Whether the input of this index is a factor. An addend that underflows would be lost in the sum anyway."""
    return node.op_type in ("MatMul", "Mul", "Div") or (node.op_type == "Conv" and index == 1)


def _narrowed(tensor: onnx.TensorProto, dtype: Any, precision: str, factor: bool) -> NDArray[Any]:
    """Convert an initialiser. Raises ExportError where it overflows, or as a ``factor`` underflows."""
    values = numpy_helper.to_array(tensor)
    finite = np.isfinite(values)
    with np.errstate(over="ignore", under="ignore"):
        narrowed: NDArray[Any] = values.astype(dtype)
    exact, rounded = values[finite].astype(np.float64), narrowed[finite].astype(np.float64)
    if not np.isfinite(rounded).all():
        raise ExportError(
            f"{tensor.name} holds values up to {np.abs(exact).max():.3g}, beyond the range of {precision}; "
            "export another precision"
        )
    if factor and np.linalg.norm(rounded - exact) > LARGEST_ROUNDING * np.linalg.norm(exact):
        raise ExportError(
            f"{tensor.name} holds values of at most {np.abs(exact).max():.3g}, many below the range of {precision}; "
            "export another precision"
        )
    return narrowed


def _insert_casts(
    graph: onnx.GraphProto, floats: frozenset[str], low: set[str], precision: str, element_type: int
) -> None:
    """Insert a Cast for each tensor that a node of the other type reads, and set the types of the values.

    A Cast stands before the first node that reads its output; further nodes share it.
    """
    taken = _names(graph)
    casts: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        narrow = node.output[0] in low
        for index, name in enumerate(node.input):
            if name not in floats or (name in low) == narrow:
                continue
            if name not in casts:
                target, suffix = (element_type, precision) if narrow else (FLOAT, "fp32")
                casts[name] = _free_name(f"{name}_{suffix}", taken)
                nodes.append(onnx.helper.make_node("Cast", [name], [casts[name]], f"cast_{casts[name]}", to=target))
            node.input[index] = casts[name]
        nodes.append(node)
    _replace_nodes(graph, nodes)
    for entry in graph.value_info:
        if entry.name in low:
            entry.type.tensor_type.elem_type = element_type


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {entry.name for entry in [*graph.input, *graph.initializer]}
    return names.union(*(node.output for node in graph.node))


def _free_name(wanted: str, taken: set[str]) -> str:
    name = wanted
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _check_calibration(model: onnx.ModelProto, calibration: Sequence[Mapping[str, NDArray[np.float32]]]) -> None:
    expected = {entry.name for entry in model.graph.input}
    if not calibration:
        raise UsageError("int8 needs calibration windows, and there are none; give a few batches of the graph's inputs")
    for batch in calibration:
        if batch.keys() != expected:
            raise UsageError(f"a calibration batch holds {sorted(batch)}, expected the inputs {sorted(expected)}")


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: layers are chosen by the names of their nodes."""
    taken: set[str] = set()
    for node in graph.node:
        node.name = _free_name(node.name or node.op_type, taken)


class _Batches:
    """The calibration in the interface of ONNX Runtime's quantiser."""

    def __init__(self, calibration: Sequence[Mapping[str, NDArray[np.float32]]]) -> None:
        self._rest: Iterator[Mapping[str, NDArray[np.float32]]] = iter(calibration)

    def get_next(self) -> Mapping[str, NDArray[np.float32]] | None:
        return next(self._rest, None)


def _quantised(
    model: onnx.ModelProto, layers: list[str], calibration: Sequence[Mapping[str, NDArray[np.float32]]]
) -> onnx.ModelProto:
    """Quantise the ``layers`` of a graph, given by name."""
    try:
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise MissingComponentError("int8 needs ONNX Runtime's quantiser: pip install 'pose-refiner[cpu]'") from error
    with tempfile.TemporaryDirectory() as folder, naming_full_disk(folder):
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        # Without this mark the quantiser logs advice to infer shapes and fold constants, which is done.
        onnx.helper.set_model_props(copied, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.save(copied, source)
        quantization.quantize_static(
            source,
            target,
            _Batches(calibration),
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=layers,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"ActivationSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        return onnx.load(target)


def _tolerable(
    floats: onnx.ModelProto,
    quantised: onnx.ModelProto,
    hidden: Sequence[onnx.NodeProto],
    calibration: Sequence[Mapping[str, NDArray[np.float32]]],
    limit_mm: float,
) -> list[str]:
    """Choose the layers to quantise, by name.

    The errors of layers are assumed to be independent, so that their squares add up.
    """
    expected = _run(floats, calibration)

    def change_mm(layers: Collection[str], batches: int) -> float:
        actual = _run(_with_layers_of(floats, quantised, layers), calibration[:batches])
        moved = [np.linalg.norm(a - b, axis=-1).ravel() for a, b in zip(actual, expected[:batches], strict=True)]
        return float(1000 * np.concatenate(moved).mean())

    every = [node.name for node in hidden]
    if change_mm(every, len(calibration)) <= limit_mm:
        return every
    work = _products(floats.graph, hidden)
    squares = {name: change_mm([name], BATCHES_ALONE) ** 2 for name in every}
    chosen: list[str] = []
    for name in sorted(every, key=lambda name: squares[name] / work[name]):
        if sum(squares[other] for other in [*chosen, name]) <= limit_mm**2:
            chosen.append(name)
    while chosen and change_mm(chosen, len(calibration)) > limit_mm:
        chosen.pop()
    if not chosen:
        raise ExportError(
            f"every hidden layer moves the joints by more than {limit_mm:g} mm in int8, the best by "
            f"{min(squares.values(), default=0) ** 0.5:.3g} mm; export another precision"
        )
    return chosen


def _products(graph: onnx.GraphProto, layers: Sequence[onnx.NodeProto]) -> dict[str, int]:
    """The multiplications of each layer for one joint."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    return {node.name: max(sizes.get(name, 0) for name in node.input) for node in layers}


def _run(model: onnx.ModelProto, batches: Sequence[Mapping[str, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(batch))[0] for batch in batches]


def _with_layers_of(floats: onnx.ModelProto, quantised: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """Replace ``layers`` of the float32 graph, and the conversions before them, by those of the quantised graph."""
    copied = onnx.ModelProto()
    copied.CopyFrom(floats)
    graph = copied.graph
    replacements = {node.name: node for node in quantised.graph.node if node.name in layers}
    conversions = {
        node.output[0]: node for node in quantised.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }
    inserted: set[str] = set()
    nodes: list[onnx.NodeProto] = []

    def insert(name: str) -> None:
        if name in conversions and name not in inserted:
            inserted.add(name)
            insert(conversions[name].input[0])
            nodes.append(conversions[name])

    for node in graph.node:
        if node.name in replacements:
            for name in replacements[node.name].input:
                insert(name)
        nodes.append(replacements.get(node.name, node))
    _replace_nodes(graph, nodes)
    stored = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in quantised.graph.initializer if tensor.name not in stored)
    _drop_unused_initialisers(graph)
    return copied
