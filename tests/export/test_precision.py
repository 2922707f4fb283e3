"""Which nodes compute in which precision, and how far that moves the joints."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from refiner_export.gate import parity_windows
from refiner_export.graph import count_nodes, trace
from refiner_export.precision import ARITHMETIC, TOO_SENSITIVE, quantise_graph, type_graph
from scipy.ndimage import gaussian_filter1d

from refiner.data.synthetic import synthetic_folder
from refiner.errors import ExportError, UsageError
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.models import LiftingModule, LiftingRefiner, PoseDenoiser, STCFormer, UnrolledRefiner
from refiner.models.inference_form import inference_form
from refiner.runtime.engine import input_names
from refiner.training.config import DataConfig
from refiner.training.windows import WindowSampler

CHECKPOINTS = Path(__file__).parents[2] / "refiner" / "checkpoints"
FRAMES, DIM, LIFTER_DIM = 9, 32, 16
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Weights of the first layers, the last layers and eq. 5.
OUTSIDE = {(5, DIM), (DIM, 3), (2, LIFTER_DIM), (LIFTER_DIM, 3), (85, 51)}
LAYOUT = {"Concat", "Gather", "Reshape", "Slice", "Split", "Transpose"}
# The counts of these networks: LayerNormalizations, Softmaxes, residual sums, and weight products that stay in float32.
# A refiner of one block has three branches, two of them attentions, and two steps; its lifter's block one attention.
# The last number: first and last layer of each step, and the product of eq. 5.
SIZES = {"refiner": (6, 8, 6, 5), "lifter": (2, 2, 2, 2), "lifter-refiner": (8, 10, 8, 7)}
KINDS = ["refiner", "lifter", pytest.param("lifter-refiner", marks=pytest.mark.slow)]


def random_weights(module: Any) -> Any:
    """Not the fresh values: biases of 0 and norms of 1 would hide what is mixed up."""
    with torch.no_grad():
        for value in module.parameters():
            value += (0.2 if value.ndim == 1 else 0.05) * torch.randn_like(value)
    return module.eval()


def random_module(kind: str) -> Any:
    torch.manual_seed(5)
    lifter = random_weights(STCFormer(dim=LIFTER_DIM, layers=1, heads=2, joint_embedding=True))
    denoiser = random_weights(PoseDenoiser(dim=DIM, blocks=1, heads=4, joint_embedding=True))
    config = {"diffusion": {"steps": 2, "timesteps": 50, "offset": 0.008, "terminal": "zero"}}
    expected_error = (0.02 * torch.randn(51, 85), 0.01 * torch.randn(51))
    scale = 0.02 + 0.05 * torch.rand(51)
    lifting = LiftingModule(lifter, FRAMES, config)
    refiner = UnrolledRefiner(denoiser, scale, FRAMES, config, expected_error=expected_error)
    modules = {"refiner": refiner, "lifter": lifting, "lifter-refiner": LiftingRefiner(lifting, refiner)}
    return modules[kind]


@pytest.fixture(scope="module")
def graph_of() -> Callable[[str], onnx.ModelProto]:
    """``graph_of(kind)``: a new copy of a small float32 graph, with metadata."""
    graphs: dict[str, onnx.ModelProto] = {}

    def copy_of(kind: str) -> onnx.ModelProto:
        if kind not in graphs:
            graphs[kind] = trace(inference_form(random_module(kind)), kind)
            onnx.helper.set_model_props(graphs[kind], {"refiner": "{}"})
        copied = onnx.ModelProto()
        copied.CopyFrom(graphs[kind])
        return copied

    return copy_of


def feeds_of(model: onnx.ModelProto, windows: int, seed: int, frames: int = FRAMES) -> dict[str, Any]:
    every = dict(zip(input_names("refiner"), parity_windows(windows, frames, seed), strict=True))
    return {entry.name: every[entry.name] for entry in model.graph.input}


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def run(model: onnx.ModelProto, precision: str, feeds: dict[str, Any]) -> Any:
    """ONNX Runtime's CPU has no products in bfloat16."""
    return ReferenceEvaluator(model).run(None, feeds)[0] if precision == "bf16" else run_onnxruntime(model, feeds)


def distances_mm(found: Any, expected: Any) -> Any:
    assert found.dtype == expected.dtype == np.float32 and np.isfinite(found).all()
    return 1000 * np.linalg.norm(found - expected, axis=-1)


def inferred_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types from initialisers and inputs alone: what the graph says of its values is not believed."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    graph = shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True).graph
    types = {entry.name: entry.type.tensor_type.elem_type for entry in [*graph.input, *graph.output, *graph.value_info]}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def initialisers(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def weight_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, tuple[int, ...]]]:
    """The products with weights and what shape these have."""
    stored = initialisers(model)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            yield node, stored[node.input[1]].shape


def test_float32_is_a_copy(graph_of):
    model = graph_of("refiner")
    typed = type_graph(model, "fp32")
    assert typed.model == model and typed.model is not model and typed.precision == "fp32"
    assert typed.kept_float32["hidden layer"] == 12 and typed.kept_float32["Conv"] == 4


def test_what_is_refused(graph_of):
    model = graph_of("refiner")
    with pytest.raises(UsageError, match="no precision 'int4'; expected fp32, fp16, bf16"):
        type_graph(model, "int4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="calibration windows, and there are none"):
        quantise_graph(model, [])
    with pytest.raises(UsageError, match=r"holds \['pose_2d'\], expected the inputs \['image_size', 'pose_2d'"):
        quantise_graph(model, [{"pose_2d": np.zeros((1, FRAMES, 17, 2), np.float32)}])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LOW)
def test_nodes_and_casts(graph_of, kind, precision):
    model = graph_of(kind)
    typed = type_graph(model, precision)
    norms, softmaxes, residuals, outside = SIZES[kind]
    before, after = count_nodes(model), count_nodes(typed.model)
    # Into a branch, out of it, and both for a softmax.
    assert after.pop("Cast") == norms + residuals + 2 * softmaxes
    # Transposed weights are folded: those of MLPs, once for both steps, and of eq. 5.
    before["Transpose"] -= sum(node.input[0] in initialisers(model) for node in model.graph.node)
    assert after == before
    kept = typed.kept_float32
    assert (kept["LayerNormalization"], kept["Softmax"], kept["residual Add"]) == (norms, softmaxes, residuals)
    assert kept["first layer"] + kept["last layer"] == outside + ("lifter" in kind) - ("refiner" in kind)
    assert kept["embedding Add"] == {"refiner": 4, "lifter": 1, "lifter-refiner": 5}[kind]
    assert set(kept) == {
        *("LayerNormalization", "Softmax", "residual Add", "first layer", "last layer", "embedding Add", ARITHMETIC)
    }
    casts = [node for node in typed.model.graph.node if node.op_type == "Cast"]
    assert len({node.input[0] for node in casts}) == len(casts)
    cast = {node.output[0] for node in casts}
    assert cast.isdisjoint(node.input[0] for node in casts)
    # No layout operation between two casts.
    moved = {o for n in typed.model.graph.node if n.op_type in LAYOUT and cast & set(n.input) for o in n.output}
    assert moved.isdisjoint(node.input[0] for node in casts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LOW)
def test_types(graph_of, kind, precision):
    model = graph_of(kind)
    typed = type_graph(model, precision).model
    types, low = inferred_types(typed), LOW[precision]
    outside = SIZES[kind][3]

    def of(*operators: str) -> set[int]:
        return {
            types[name]
            for node in typed.graph.node
            if node.op_type in operators
            for name in [*node.input, *node.output]
        }

    assert of("LayerNormalization", "Softmax", "Sub", "Div", "Mul") == {TensorProto.FLOAT}
    assert of("Conv") == {low}
    weights = {node.name: shape for node, shape in weight_nodes(typed)}
    products = [node for node in typed.graph.node if node.op_type == "MatMul"]
    for node in products:
        expected = TensorProto.FLOAT if weights.get(node.name) in OUTSIDE else low
        assert {types[name] for name in [*node.input, *node.output]} == {expected}
    assert sum(types[node.output[0]] == TensorProto.FLOAT for node in products) == outside
    # A lifter applies Gelu to its first layer, outside of any branch.
    gelus = [types[node.output[0]] for node in typed.graph.node if node.op_type == "Gelu"]
    assert gelus.count(TensorProto.FLOAT) == ("lifter" in kind) and set(gelus) <= {low, TensorProto.FLOAT}
    # The sums in a branch: biases of qkv and proj, and the convolution, for each attention.
    adds = Counter(types[node.output[0]] for node in typed.graph.node if node.op_type == "Add")
    assert adds[low] == 3 * count_nodes(typed)["Conv"]
    # What the graph itself says agrees, and is complete.
    said = {entry.name: entry.type.tensor_type.elem_type for entry in typed.graph.value_info}
    assert all(types[name] == element_type for name, element_type in said.items())
    produced = {name for node in typed.graph.node for name in node.output}
    assert produced <= said.keys() | {entry.name for entry in typed.graph.output}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LOW)
def test_the_outside_of_the_graph_stays(graph_of, kind, precision):
    model = graph_of(kind)
    before = model.SerializeToString(deterministic=True)
    typed = type_graph(model, precision).model
    assert model.SerializeToString(deterministic=True) == before
    assert list(typed.graph.input) == list(model.graph.input) and list(typed.graph.output) == list(model.graph.output)
    assert typed.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert list(typed.metadata_props) == list(model.metadata_props)
    assert {entry.domain for entry in typed.opset_import} == {""}
    # Conv takes bfloat16 from opset 22 on.
    assert typed.opset_import[0].version == {"fp16": 20, "bf16": 22}[precision]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LOW)
def test_initialisers_are_stored_once_and_in_half(graph_of, kind, precision):
    model = graph_of(kind)
    typed = type_graph(model, precision).model
    types = inferred_types(typed)
    before, after = initialisers(model), initialisers(typed)
    assert len(after) == len(before)
    wide = sum(value.nbytes for name, value in after.items() if types[name] == TensorProto.FLOAT)
    narrow = sum(value.nbytes for name, value in after.items() if types[name] == LOW[precision])
    assert wide + 2 * narrow == sum(value.nbytes for value in before.values() if value.dtype == np.float32)
    hidden = {node.input[1]: np.prod(shape) for node, shape in weight_nodes(typed) if shape not in OUTSIDE}
    assert narrow > 2 * sum(hidden.values()) > wide


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", LOW)
def test_outputs_are_close(graph_of, kind, precision):
    model = graph_of(kind)
    feeds = feeds_of(model, 7, seed=3)
    expected = run_onnxruntime(model, feeds)
    distance = distances_mm(run(type_graph(model, precision).model, precision, feeds), expected)
    # A lifter gives its pose in the units of its random last layer, metres by name alone.
    size = 1000 * np.abs(expected - feeds.get("pose_3d", 0)).mean()
    # Every node in the low precision rounds once, and roundings add up by their squares.
    typed = type_graph(model, precision).model
    types = inferred_types(typed)
    roundings = sum(types[node.output[0]] == LOW[precision] for node in typed.graph.node)
    unit = {"fp16": 2.0**-11, "bf16": 2.0**-8}[precision]
    assert 0.01 * unit * size < distance.mean() < unit * size * roundings**0.5


def test_an_initialiser_of_both_precisions_is_stored_twice(graph_of):
    model = graph_of("refiner")
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    shapes = {name: value.shape for name, value in initialisers(model).items()}
    biases = [node for node in model.graph.node if node.op_type == "Add" and shapes.get(node.input[1]) == (17, DIM)]
    # The first is the joint embedding of a step, the second a projection's bias of the same shape.
    biases[1].input[1] = norm.input[2]
    typed = type_graph(model, "fp16").model
    both = [value for name, value in initialisers(typed).items() if name.startswith(norm.input[2])]
    assert sorted(value.dtype.name for value in both) == ["float16", "float32"]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-3)
    feeds = feeds_of(model, 3, seed=4)
    assert distances_mm(run_onnxruntime(typed, feeds), run_onnxruntime(model, feeds)).mean() < 0.5


def scaled(model: onnx.ModelProto, operator: str, place: int, factor: float) -> str:
    """Multiply the first initialiser that nodes of an operator read at a place; its name."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    outside = ("pose_emb", "joint_embedding")
    for node in model.graph.node:
        name = node.input[place] if node.op_type == operator else ""
        inside = name in stored and stored[name].dims[:-1] not in ([], [5], [85]) and not name.endswith(outside)
        if inside:
            values = numpy_helper.to_array(stored[name]) * np.float32(factor)
            stored[name].CopyFrom(numpy_helper.from_array(values, name))
            return name
    raise AssertionError(operator)


def test_weights_beyond_float16(graph_of):
    model = graph_of("refiner")
    name = scaled(model, "MatMul", 1, 1e6)
    with pytest.raises(ExportError, match=rf"{name} holds values up to \S+e\+0[56], beyond the range of fp16"):
        type_graph(model, "fp16")
    type_graph(model, "bf16")
    model = graph_of("refiner")
    name = scaled(model, "Conv", 1, 1e-9)
    with pytest.raises(ExportError, match=rf"{name} holds values of at most \S+e-\d+, many below the range of fp16"):
        type_graph(model, "fp16")
    type_graph(model, "bf16")
    # An addend that vanishes changes nothing.
    model = graph_of("refiner")
    name = scaled(model, "Add", 1, 1e-12)
    assert not initialisers(type_graph(model, "fp16").model)[name].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_tensorrt_parses_a_strongly_typed_network(graph_of, kind, precision):
    tensorrt = pytest.importorskip("tensorrt_rtx")
    model = graph_of(kind)
    typed = (
        quantise_graph(model, [feeds_of(model, 2, 1)], np.inf) if precision == "int8" else type_graph(model, precision)
    )
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    network = tensorrt.Builder(logger).create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse(typed.model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    types = Counter(network.get_layer(i).get_output(0).dtype for i in range(network.num_layers))
    low = {"fp16": tensorrt.float16, "bf16": tensorrt.bfloat16, "int8": tensorrt.int8}[precision]
    assert types[low] > 0 and network.get_output(0).dtype == tensorrt.float32


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize(("prepare", "arguments"), [(inference_form, {"fixed_batch": 3}), (lambda m: m, {"opset": 18})])
def test_other_graphs(precision, prepare, arguments):
    """A batch that is fixed; the published layout, with Gelu written out."""
    model = trace(prepare(random_module("refiner")), "refiner", **arguments)
    typed = type_graph(model, precision)
    assert not {"hidden layer", "attention product", "Conv", "Gelu", "Erf", "Add in a branch"} & set(typed.kept_float32)
    norms, softmaxes, residuals, _ = SIZES["refiner"]
    assert count_nodes(typed.model)["Cast"] == norms + residuals + 2 * softmaxes
    feeds = feeds_of(model, 3, seed=8)
    expected = run_onnxruntime(model, feeds)
    assert distances_mm(run(typed.model, precision, feeds), expected).mean() < 0.5


def quantised_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return [node for node in model.graph.node if "DequantizeLinear" in [makers.get(name, "") for name in node.input]]


@pytest.mark.parametrize("kind", ["refiner", "lifter"])
def test_int8_nodes(graph_of, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = graph_of(kind)
    before = model.SerializeToString(deterministic=True)
    calibration = [feeds_of(model, 4, seed) for seed in (1, 2)]
    typed = quantise_graph(model, calibration, limit_mm=np.inf)
    assert list(tmp_path.iterdir()) == [] and model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(typed.model, full_check=True)
    assert list(typed.model.graph.input) == list(model.graph.input) and typed.precision == "int8"
    assert list(typed.model.graph.output) == list(model.graph.output)
    assert list(typed.model.metadata_props) == list(model.metadata_props)
    assert list(typed.model.opset_import) == list(model.opset_import)
    # Products of hidden layers alone, and nothing else; their results are float32.
    nodes = count_nodes(typed.model)
    hidden = {"refiner": 12, "lifter": 4}[kind]
    weights = hidden // {"refiner": 2, "lifter": 1}[kind]
    assert nodes.pop("QuantizeLinear") == hidden and nodes.pop("DequantizeLinear") == hidden + weights
    assert nodes == {
        name: count for name, count in count_nodes(type_graph(model, "fp16").model).items() if name != "Cast"
    }
    products = quantised_products(typed.model)
    assert len(products) == hidden and {node.op_type for node in products} == {"MatMul"}
    types, stored = inferred_types(typed.model), initialisers(typed.model)
    assert {types[node.output[0]] for node in products} == {TensorProto.FLOAT}
    # Weights by output channel, in 7 bits; no zero points, which TensorRT does not take.
    int8 = [value for value in stored.values() if value.dtype == np.int8]
    matrices = [value for value in int8 if value.ndim == 2]
    assert len(matrices) == weights and all(60 < np.abs(value).max() <= 64 for value in matrices)
    assert not any(value.any() for value in int8 if value.ndim < 2)
    scales = {node.input[1] for node in typed.model.graph.node if node.op_type == "DequantizeLinear"}
    assert sorted(stored[name].shape for name in scales if stored[name].ndim) == sorted(
        (value.shape[1],) for value in matrices
    )
    assert TOO_SENSITIVE not in typed.kept_float32 and "hidden layer" not in typed.kept_float32
    assert typed.kept_float32["attention product"] == 2 * count_nodes(model)["Softmax"]
    feeds = feeds_of(model, 5, seed=3)
    expected = run_onnxruntime(model, feeds)
    moved = distances_mm(run_onnxruntime(typed.model, feeds), expected).mean()
    # Roundings of activations and weights add up by their squares; a range is several times the spread in it.
    size = 1000 * np.abs(expected - feeds.get("pose_3d", 0)).mean()
    assert 0.01 < moved < 4 * size / 127 * (2 * hidden) ** 0.5


def test_int8_keeps_sensitive_layers(graph_of):
    model = graph_of("refiner")
    calibration = [feeds_of(model, 4, seed) for seed in (1, 2)]
    expected = [run_onnxruntime(model, feeds) for feeds in calibration]

    def change_mm(quantised: onnx.ModelProto) -> float:
        found = [run_onnxruntime(quantised, feeds) for feeds in calibration]
        return float(np.mean([distances_mm(a, b).mean() for a, b in zip(found, expected, strict=True)]))

    every = change_mm(quantise_graph(model, calibration, limit_mm=np.inf).model)
    typed = quantise_graph(model, calibration, limit_mm=every / 2)
    assert 0 < change_mm(typed.model) <= every / 2
    quantised = len(quantised_products(typed.model))
    assert 0 < quantised < 12 and typed.kept_float32[TOO_SENSITIVE] == 12 - quantised
    with pytest.raises(ExportError, match="every hidden layer moves the joints by more than 1e-06 mm in int8"):
        quantise_graph(model, calibration, limit_mm=1e-6)


@pytest.fixture(scope="module")
def bundled() -> onnx.ModelProto:
    """The float32 graph of the bundled refiner."""
    return trace(inference_form(module_of(load_checkpoint(CHECKPOINTS / "refiner.safetensors"))), "refiner")


def motion_windows(windows: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Inputs of a refiner on built-in motion, with smooth errors of 30 mm; the true poses."""
    folder = synthetic_folder(seed, subjects=3, frames=120)
    config = DataConfig(stature=0.06, bones=0.05)
    drawn = WindowSampler(folder, config, 27, windows, seed, list(folder.positions)).batch(0)
    error = gaussian_filter1d(np.random.default_rng(seed).normal(size=drawn.pose_3d.shape), 3, axis=1)
    error *= 0.03 / np.linalg.norm(error, axis=-1).mean()
    error[:, :, 0] = 0
    size = np.full((windows, 2), 1000, np.float32)
    pixels = ((drawn.pose_2d + 1) * 500).astype(np.float32)
    feeds = {"pose_2d": pixels, "pose_3d": (drawn.pose_3d + error).astype(np.float32), "image_size": size}
    return feeds, drawn.pose_3d


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOW)
def test_the_bundled_refiner(bundled, precision):
    feeds = feeds_of(bundled, 16, seed=12, frames=27)
    # In bf16 the first branch of each of the two steps, of six, is too sensitive.
    typed = type_graph(bundled, precision, {"fp16": (), "bf16": (0, 6)}[precision]).model
    distance = distances_mm(run(typed, precision, feeds), run_onnxruntime(bundled, feeds))
    assert 0.001 < distance.mean() < 0.5
    before, after = (sum(value.nbytes for value in initialisers(model).values()) for model in (bundled, typed))
    assert 0.5 < after / before < {"fp16": 0.52, "bf16": 0.62}[precision]


@pytest.mark.slow
def test_the_bundled_refiner_in_int8(bundled):
    typed = quantise_graph(bundled, [motion_windows(16, seed)[0] for seed in (100, 101, 102, 103)])
    feeds, truth = motion_windows(64, seed=7)
    found, expected = run_onnxruntime(typed.model, feeds), run_onnxruntime(bundled, feeds)
    assert 0.01 < distances_mm(found, expected).mean() < 0.3
    assert len(quantised_products(typed.model)) == 24 - typed.kept_float32[TOO_SENSITIVE] > 0
    # Every layer in int8 moves the joints by more, though hardly towards or away from the truth.
    every = quantise_graph(bundled, [motion_windows(16, seed)[0] for seed in (100, 101)], limit_mm=np.inf)
    moved = run_onnxruntime(every.model, feeds)
    assert 0.3 < distances_mm(moved, expected).mean() < 5
    assert abs(distances_mm(moved, truth).mean() - distances_mm(expected, truth).mean()) < 0.3
