"""The native engine in bfloat16 on motion: the mean joint error of models that were trained."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: the windows of the gate need it")

from refiner_export.gate import compare, gate_windows
from refiner_export.options import ExportOptions

from refiner import _native, bundled
from refiner.engines import EngineOptions
from refiner.model_files.checkpoint import load_checkpoint
from refiner.runtime.loading import open_engine

ESTIMATORS = Path(__file__).parents[2] / "bench" / "estimators"
MODELS = [*sorted(bundled.FOLDER.glob("*.safetensors")), ESTIMATORS / "mixste-nano-rays.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif("bf16" not in _native.precisions(), reason="this processor has no instructions for bfloat16")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_bfloat16_keeps_the_mean_joint_error(path, tmp_path):
    spec = load_checkpoint(path).spec
    options = ExportOptions("onnx", tmp_path, path, windows=512)
    windows = gate_windows(options, spec.frames, rays=spec.rays, stride=spec.stride)
    inputs = windows.of_kind(spec.kind, 0, spec.rays)
    exact, rounded = (
        open_engine(path, spec.kind, EngineOptions("native", precision=precision))(*inputs)
        for precision in ("fp32", "bf16")
    )
    found = compare(rounded, exact, windows)
    assert found["largest_mm"] > 0.0 and found["reference_mpjpe_mm"] > 10.0
    assert abs(found["mpjpe_change_mm"]) < 0.05, found
