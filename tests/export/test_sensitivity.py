"""Which branches bf16 spares, and that the typed graph and the typed module spare the same ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from onnx import TensorProto
from refiner_export.gate import parity_windows, reference, run_batches
from refiner_export.graph import trace
from refiner_export.precision import SENSITIVE_BRANCH, type_graph
from refiner_export.runner import graph_runner
from refiner_export.sensitivity import order_of_branches, sensitive_branches

from refiner.errors import ParityError
from refiner.models import PoseDenoiser, UnrolledRefiner
from refiner.models.inference_form import branches, in_precision, inference_form

FRAMES = 9
NAMES = [f"denoiser.blocks.{block}.{part}" for block in range(2) for part in ("stc_first", "stc_second", "mlp")]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(3)
    denoiser = PoseDenoiser(dim=32, blocks=2, heads=4, joint_embedding=True)
    with torch.no_grad():
        for value in denoiser.parameters():
            value += (0.2 if value.ndim == 1 else 0.05) * torch.randn_like(value)
    config = {"diffusion": {"steps": 2, "timesteps": 50, "offset": 0.008, "terminal": "zero"}}
    return inference_form(UnrolledRefiner(denoiser.eval(), 0.02 + 0.05 * torch.rand(51), FRAMES, config))


@pytest.fixture(scope="module")
def windows():
    return parity_windows(12, FRAMES, seed=8)


def change_mm(module, windows, but=()):
    typed = in_precision(copy.deepcopy(module), torch.bfloat16, but=but)
    moved = run_batches(reference(typed), windows, [4]) - run_batches(reference(module), windows, [4])
    return 1000 * np.linalg.norm(moved, axis=-1).mean()


def test_as_few_branches_as_the_limit_asks_for(module, windows):
    assert list(branches(module)) == NAMES
    all_low = change_mm(module, windows)
    assert sensitive_branches(module, windows, torch.bfloat16, 1.01 * all_low) == []
    for share in (0.8, 0.5):
        spared = sensitive_branches(module, windows, torch.bfloat16, share * all_low)
        assert 0 < len(spared) < len(NAMES) and spared == [name for name in NAMES if name in spared]
        assert change_mm(module, windows, but=spared) <= share * all_low
    assert sensitive_branches(module, windows, torch.bfloat16, 0.0) == NAMES
    assert change_mm(module, windows, but=NAMES) == 0.0


def test_the_order_is_that_of_the_steps(module, windows):
    assert order_of_branches(module, windows) == 2 * NAMES  # K = 2
    assert not any(branch._forward_pre_hooks for branch in branches(module).values())


def test_graph_and_module_spare_the_same_branches(module, windows):
    """The graph's error falls as the module's does, and its other branches are typed as without."""
    spared = {NAMES[0], NAMES[5]}
    kept = [index for index, name in enumerate(order_of_branches(module, windows)) if name in spared]
    model = trace(module, "refiner")
    some, none = type_graph(model, "bf16", kept), type_graph(model, "bf16")
    sensitive = {kind: count for kind, count in some.kept_float32.items() if kind.endswith(SENSITIVE_BRANCH)}
    # In each of two steps: qkv and projection of an attention, both layers of an MLP; one convolution; one Gelu.
    assert sensitive.pop(f"hidden layer {SENSITIVE_BRANCH}") == 8
    assert sensitive.pop(f"Conv {SENSITIVE_BRANCH}") == 2 and sensitive.pop(f"Gelu {SENSITIVE_BRANCH}") == 2
    assert sensitive.pop(f"attention product {SENSITIVE_BRANCH}") == 8
    assert sensitive == {f"Add in a branch {SENSITIVE_BRANCH}": 6}
    low = [sum(t.data_type == TensorProto.BFLOAT16 for t in typed.model.graph.initializer) for typed in (some, none)]
    assert 0 < low[0] < low[1]
    expected = run_batches(reference(module), windows, [4])
    errors = [
        1000 * np.linalg.norm(run_batches(graph_runner(typed), windows, [4]) - expected, axis=-1).mean()
        for typed in (some, none)
    ]
    for error, but in zip(errors, (spared, ()), strict=True):
        assert error == pytest.approx(change_mm(module, windows, but=but), rel=0.2)
    # Every branch spared: nothing is left to type.
    every = type_graph(model, "bf16", range(len(NAMES) * 2))
    assert not any(t.data_type == TensorProto.BFLOAT16 for t in every.model.graph.initializer)
    np.testing.assert_allclose(run_batches(graph_runner(every), windows, [4]), expected, atol=1e-5)


def test_an_export_names_what_it_spares(write_checkpoint, tmp_path, export_to):
    """As close as the limit, and the manifest says which branches that took; without it the gate would refuse."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    options = {"engine": "trt-rtx", "compute_capability": "8.6", "precision": "bf16", "windows": 4}
    checkpoint = write_checkpoint("refiner")
    free = export_to(tmp_path / "free", checkpoint, **options, tolerance_mm=50.0).manifest
    assert "float32_branches" not in free
    tight = free["parity"]["total"]["mean_mm"] * 0.7
    manifest = export_to(tmp_path / "tight", checkpoint, **options, tolerance_mm=tight).manifest
    assert manifest["float32_branches"] and manifest["parity"]["total"]["mean_mm"] < tight
    assert any(kind.endswith(SENSITIVE_BRANCH) for kind in manifest["kept_float32"])
    with pytest.raises(ParityError):
        export_to(tmp_path / "openvino", checkpoint, engine="openvino", precision="bf16", tolerance_mm=1e-6, windows=4)
