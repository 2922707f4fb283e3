"""What is in the graph, and that it computes what PyTorch computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from refiner_bench.naive_model import naive_form
from refiner_export import Batch
from refiner_export.gate import parity_windows
from refiner_export.graph import count_nodes, trace

from refiner.errors import ArtefactError, ExportError, UsageError
from refiner.model_files.build import load_module
from refiner.models import MirroredPass, fused
from refiner.models.inference_form import inference_form
from refiner.runtime import Lifter, Refiner
from refiner.runtime.onnx_engine import OnnxEngine
from refiner.skeleton import flip_pose

KINDS = ("refiner", "lifter")


def difference_mm(module, engine, inputs):
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(part) for part in inputs)).numpy()
    return np.linalg.norm(engine(*inputs) - expected, axis=-1).max() * 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 3, 13, 64])
def test_a_hundred_fresh_windows(exported, kind, batch):
    checkpoint, result = exported[kind]
    module, engine = load_module(checkpoint), OnnxEngine(result.path, kind)
    windows = parity_windows(100, 27, seed=100 + batch)
    chosen = windows if kind == "refiner" else (windows[0], windows[2])
    size = min(batch, engine.largest_batch)
    worst = max(
        difference_mm(module, engine, [part[first : first + size] for part in chosen])
        for first in range(0, 100 if batch > 1 else 10, size)
    )
    assert worst < 0.01


def test_the_refiner_does_something(exported):
    """Parity of a model that returns its input would show nothing."""
    _, result = exported["refiner"]
    inputs = parity_windows(5, 27, seed=1)
    refined = OnnxEngine(result.path, "refiner")(*inputs)
    moved = np.linalg.norm(refined - inputs[1], axis=-1)
    assert moved[..., 1:].min() > 1e-4 and moved.max() < 1
    np.testing.assert_allclose(refined[..., 0, :], inputs[1][..., 0, :], atol=1e-6)
    # The 2D poses and the image size matter.
    for index in (0, 2):
        changed = list(inputs)
        changed[index] = changed[index] * np.float32(1.3)
        assert np.abs(OnnxEngine(result.path, "refiner")(*changed) - refined).max() > 1e-3


def test_whole_sequences_agree_with_pytorch(exported):
    windows = parity_windows(4, 27, seed=2)
    pose_2d, pose_3d = (part.reshape(-1, 17, part.shape[-1])[:95] for part in windows[:2])
    size = (1000, 1002)
    checkpoint, result = exported["refiner"]
    both = [Refiner.load(path, hop=5).refine(pose_2d, pose_3d, size) for path in (checkpoint, result.path)]
    assert np.abs(both[0] - both[1]).max() < 1e-5
    checkpoint, result = exported["lifter"]
    both = [Lifter.load(path, flip_test=True).lift(pose_2d, size) for path in (checkpoint, result.path)]
    assert np.abs(both[0] - both[1]).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_holds_everything_and_nothing_else(exported, kind):
    checkpoint, result = exported[kind]
    model = onnx.load(result.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    nodes = count_nodes(model)
    # One block of two attention modules in each of two steps; one block of one module. Each attends over space and
    # time. The lifter's head is an MLP too.
    assert nodes["Softmax"] == {"refiner": 8, "lifter": 2}[kind] and nodes["Gelu"] == 2
    # The time path is folded, and shapes are known but for the batch.
    assert not {"Sin", "Cos", "Exp", "Gather", "If", "Loop", "Einsum", "Cast", "Identity", "Constant"} & set(nodes)
    assert nodes.get("Shape", 0) <= 1
    # Every attention module has two changes of layout for each half, two for the convolution, and the transposed keys
    # of both halves, which engines fold into the product; no weight is transposed at run time.
    modules = {"refiner": 4, "lifter": 1}[kind]
    assert nodes["Transpose"] == 8 * modules and nodes["Conv"] == modules
    ranks = {
        len(entry.type.tensor_type.shape.dim) for entry in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    assert max(ranks) == 4
    assert {entry.domain for entry in model.opset_import} == {""} and not model.functions
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    shapes = {
        entry.name: [axis.dim_param or axis.dim_value for axis in entry.type.tensor_type.shape.dim]
        for entry in [*model.graph.input, *model.graph.output]
    }
    batches = {shape[0] for shape in shapes.values()}
    assert len(batches) == 1 and isinstance(batches.pop(), str)
    assert all(isinstance(axis, int) for shape in shapes.values() for axis in shape[1:])
    # Weights are stored once, whatever the number of steps; nothing of this machine is in the file.
    weights = sum(np.prod(tensor.dims, initial=1) for tensor in model.graph.initializer)
    assert weights < 1.1 * sum(value.numel() for value in load_module(checkpoint).state_dict().values())
    assert b"/refiner/models" not in result.path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_inference_form_is_the_model_in_fewer_nodes(exported, kind):
    checkpoint, result = exported[kind]
    module = load_module(checkpoint)
    written, prepared = naive_form(module), inference_form(module)
    windows = parity_windows(6, 27, seed=9)
    chosen = [torch.from_numpy(part) for part in (windows if kind == "refiner" else (windows[0], windows[2]))]
    with torch.inference_mode():
        expected = written(*chosen)
        for form in (module, prepared):
            assert (form(*chosen) - expected).norm(dim=-1).max() < 5e-6
    assert not list(prepared.parameters()) or not any(value.requires_grad for value in prepared.parameters())
    plain = count_nodes(trace(module, kind))
    ours = result.manifest["nodes"]
    assert sum(ours.values()) < 0.7 * sum(plain.values()) and ours["Transpose"] < 0.55 * plain["Transpose"]


def test_the_mirrored_pass_is_the_mean_of_both_images(exported):
    checkpoint, _ = exported["refiner"]
    module = load_module(checkpoint)
    pose_2d, pose_3d, size = (torch.from_numpy(part) for part in parity_windows(3, 27, seed=10))
    turned_2d, turned_3d = flip_pose(pose_2d), flip_pose(pose_3d)
    turned_2d[..., 0] += size[:, None, None, 0]
    with torch.inference_mode():
        expected = (module(pose_2d, pose_3d, size) + flip_pose(module(turned_2d, turned_3d, size))) / 2
        found = MirroredPass(module)(pose_2d, pose_3d, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert (found - module(pose_2d, pose_3d, size)).abs().max() > 1e-3


def test_lifter_and_refiner_in_one_graph(exported, tmp_path, export_to):
    lifter, refiner = exported["lifter"][0], exported["refiner"][0]
    result = export_to(tmp_path, refiner, lifter=lifter, flip_test=True, batch=Batch(2, 2, 2), windows=10)
    assert result.path.name == "lifter-refiner-f27-j17-k2-flip-b2-fp32.onnx"
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01 and result.manifest["mirrored_pass"]
    pose_2d, _, size = parity_windows(2, 27, seed=11)
    lifted = Lifter.load(lifter)._engine(pose_2d, size)
    with torch.inference_mode():
        refined = load_module(refiner)(*(torch.from_numpy(part) for part in (pose_2d, lifted, size)))
    both = Lifter.load(result.path)
    assert both._engine(pose_2d, size).shape == refined.shape and not both.flip_test
    straight = export_to(tmp_path, refiner, lifter=lifter, windows=10)
    assert np.abs(Lifter.load(straight.path)._engine(pose_2d, size) - refined.numpy()).max() < 1e-5
    with pytest.raises(ArtefactError, match="a lifter-refiner, expected a refiner"):
        Refiner.load(result.path)


def test_tracing_leaves_the_attention_backend(write_checkpoint, monkeypatch):
    def refuse(*args, **kwargs):
        assert fused.attention_backend() == "plain"
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    before = fused.attention_backend()
    with pytest.raises(ExportError, match="lifter could not be traced: no such operator"):
        trace(load_module(write_checkpoint("lifter")), "lifter")
    assert fused.attention_backend() == before


def test_operator_sets(write_checkpoint):
    for opset in (17, 23):
        with pytest.raises(UsageError, match="18 to 22"):
            trace(load_module(write_checkpoint("lifter")), "lifter", opset)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"opset": 18}, {"opset": 22}, {"steps": 1}, {"steps": 5}])
def test_other_operator_sets_and_steps(write_checkpoint, tmp_path, changes, export_to):
    result = export_to(tmp_path, write_checkpoint("refiner"), windows=30, **changes)
    assert result.manifest["parity"]["total"]["largest_mm"] < 0.01
    assert Refiner.load(result.path).steps == changes.get("steps", 2)


@pytest.mark.slow
def test_other_windows(write_checkpoint, tmp_path, export_to):
    result = export_to(tmp_path, write_checkpoint("refiner", frames=9), windows=30)
    assert Refiner.load(result.path).frames == 9 and result.path.name == "refiner-f9-j17-k2-fp32.onnx"
