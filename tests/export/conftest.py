"""One small random refiner and lifter, exported once for all tests of the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for needed in ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: nothing can be exported")


@pytest.fixture(scope="session")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``write_checkpoint(kind, **changes of the configuration)``: random weights everywhere, biases and norms too."""
    import torch

    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint

    def write(kind: str, **changes: Any) -> Path:
        config: dict[str, Any] = {
            "kind": kind,
            "frames": 27,
            "model": {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 4, "joint_embedding": True},
            "data_description": {"name": "random weights", "fps": 50.0},
        }
        tensors = {}
        torch.manual_seed(11)
        if kind == "refiner":
            config["diffusion"] = {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}
            tensors["error_scale"] = 0.02 + 0.05 * torch.rand(51)
        config |= changes
        if config.get("diffusion", {}).get("start") == "corrected":
            from refiner.diffusion import ConditionalGaussian

            generator = np.random.default_rng(2)
            pose_2d, pose, error = (generator.normal(scale=0.3, size=(400, 17, size)) for size in (2, 3, 3))
            pose[:, 0] = error[:, 0] = 0.0
            noise = ConditionalGaussian.fit(pose_2d, pose, error)
            tensors |= {f"noise.{name}": torch.from_numpy(value) for name, value in noise.to_tensors().items()}
        torch.manual_seed(0)
        model = build_model(config)
        for name, value in model.state_dict().items():
            # Not the fresh values: norms that are all 1 and biases that are all 0 would hide what is mixed up.
            noise = torch.randn_like(value)
            tensors[f"model.{name}"] = value + 0.2 * noise if value.ndim == 1 else value + 0.05 * noise
        path = tmp_path_factory.mktemp("checkpoint") / f"{kind}.safetensors"
        save_checkpoint(path, config, tensors)
        return path

    return write


def export_to(output: Path, checkpoint: Path, **changes: Any) -> Any:
    """Export for ONNX Runtime (or as ``changes`` say), built anew."""
    from refiner_export import ExportOptions, export_artefact

    report = changes.pop("report", lambda line: None)
    options = ExportOptions(**{"engine": "onnx", "output": output, "checkpoint": checkpoint, **changes})
    return export_artefact(options, report, use_cache=False)


@pytest.fixture(scope="session", name="export_to")
def _export_to() -> Callable[..., Any]:
    return export_to


@pytest.fixture(scope="session")
def exported(write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """kind -> (checkpoint, ExportResult)."""
    folder = tmp_path_factory.mktemp("artefacts")
    results = {}
    for kind in ("refiner", "lifter"):
        checkpoint = write_checkpoint(kind)
        results[kind] = (checkpoint, export_to(folder, checkpoint))
    return results


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another (or a user) built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("REFINER_DATA", raising=False)
