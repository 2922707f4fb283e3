"""Which file goes with which engine, and what the bundled models need."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import bundled
from refiner.errors import ArtefactError, CheckpointError, UsageError
from refiner.runtime import Lifter, Refiner

torch = pytest.importorskip("torch", reason="PyTorch is not installed: checkpoints cannot be run")

SIZE = (1000, 1002)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A random lifter and refiner of width 16."""
    from refiner.model_files.build import build_model
    from refiner.model_files.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(4)
    for kind in ("lifter", "refiner"):
        config = {
            "kind": kind,
            "frames": 9,
            "model": {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 2, "joint_embedding": True},
            "diffusion": {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"},
            "data_description": {"fps": 25.0},
            "flip_test": True,
        }
        model = build_model(config)
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        save_checkpoint(folder / f"{kind}.safetensors", config, tensors | {"error_scale": torch.full((51,), 0.03)})
    return folder


def test_checkpoints_run_in_pytorch(checkpoints, clip):
    pose_2d, pose_3d = clip(30)
    refiner = Refiner.load(checkpoints / "refiner.safetensors", steps=3)
    assert (refiner.frames, refiner.steps, refiner.fps, refiner.metadata["engine"]) == (9, 3, 25.0, "torch")
    assert Refiner.load(checkpoints / "refiner.safetensors").steps == 2
    refined = refiner.refine(pose_2d, pose_3d, SIZE)
    assert refined.shape == pose_3d.shape and 1e-6 < np.abs(refined - pose_3d).max() < 1
    lifter = Lifter.load(checkpoints / "lifter.safetensors", engine="torch")
    lifted = lifter.lift(pose_2d, SIZE)
    assert lifted.shape == (30, 17, 3) and (lifted[:, 0] == 0).all() and np.abs(lifted).max() > 0.01
    # The configuration asks for the flip test; the caller has the last word.
    assert lifter.flip_test and not Lifter.load(checkpoints / "lifter.safetensors", flip_test=False).flip_test


def test_batch_invariance_of_the_real_model(checkpoints, clip):
    pose = clip(60)
    engine = Refiner.load(checkpoints / "refiner.safetensors")._engine
    results = [Refiner(engine, hop=4, batch=batch).refine(*pose, SIZE) for batch in (1, 3, 64)]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=2e-6)


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("refiner.safetensors", {"engine": "onnx"}, UsageError, "refiner-export --engine onnx"),
        ("refiner.safetensors", {"engine": "tensorrt"}, UsageError, "torch, native, torch-compile, onnx"),
        ("refiner.safetensors", {"threads": 0}, UsageError, "threads is 0; expected a whole number from 1"),
        ("refiner.safetensors", {"hop": 10}, UsageError, "hop, in a window of 9 frames, is 10"),
        ("refiner.safetensors", {"device": "tpu"}, UsageError, "cpu, cuda"),
        ("refiner.onnx", {"engine": "torch"}, UsageError, "PyTorch runs the checkpoint"),
        ("refiner.onnx", {"engine": "openvino"}, UsageError, "refiner-export --engine openvino"),
        ("refiner.onnx", {}, ArtefactError, "there is no artefact"),
        ("refiner.engine", {}, ArtefactError, "there is no artefact"),
        ("none.safetensors", {}, CheckpointError, "there is no checkpoint"),
        ("lifter.safetensors", {}, CheckpointError, "expected a refiner"),
        (".", {}, CheckpointError, "is a folder"),
    ],
)
def test_what_does_not_go_together(checkpoints, path, options, error, message):
    with pytest.raises(error, match=message):
        Refiner.load(checkpoints / path, **options)


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5])
def test_a_truncated_checkpoint(checkpoints, tmp_path, kept):
    whole = (checkpoints / "refiner.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(CheckpointError, match="cut"):
        Refiner.load(path)


def test_the_bundled_models(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", checkpoints)
    monkeypatch.setattr(bundled, "DEFAULTS", {"lifter": "lifter", "refiner": "refiner"})
    assert Refiner.load().metadata["kind"] == "refiner" and Lifter.load().metadata["kind"] == "lifter"
    with pytest.raises(UsageError, match="refiner-export --engine onnx"):
        Refiner.load(engine="onnx")
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="no bundled refiner"):
        Refiner.load()


def test_bundled_models_are_loaded_by_their_names(tmp_path, monkeypatch):
    lifter = Lifter.load("lifter-nano-rays")
    assert lifter.sees_rays and lifter.stride == 3
    # A file of that name in the working folder goes first, and a path is never taken for a name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lifter-nano-rays").write_bytes(b"something else")
    with pytest.raises(CheckpointError):
        Lifter.load("lifter-nano-rays")
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        Lifter.load(tmp_path / "folder" / "lifter-nano-rays")
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint at nobody; .* bundled model: .*causal.*lifter-small-rays"
    ):
        Lifter.load("nobody")
    with pytest.raises(CheckpointError, match="holds a lifter, expected a refiner"):
        Refiner.load("lifter")
