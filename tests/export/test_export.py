"""The manifest, the gate, and what is left when something goes wrong."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from refiner_export import export_onnx, onnx_export
from refiner_export.manifest import load_manifest, sha256_of
from refiner_export.parity import check_parity

from refiner.camera import normalise_screen
from refiner.errors import ArtefactError, CheckpointError, ConfigError, ParityError, UsageError
from refiner.runtime import Lifter, Refiner
from refiner.runtime.onnx_engine import OnnxEngine
from refiner.skeleton import JOINT_NAMES
from refiner.training.checkpoints import load_module, load_noise_model


def test_the_manifest_of_a_refiner(exported):
    checkpoint, result = exported["refiner"]
    manifest = load_manifest(result.path)
    assert manifest == result.manifest and manifest == json.loads(result.manifest_path.read_text())
    assert result.path.name == "refiner-f27-j17-k2-fp32.onnx"
    assert manifest["checkpoint"] == {"name": "refiner.safetensors", "sha256": sha256_of(checkpoint)}
    assert manifest["graph_sha256"] == sha256_of(result.path)
    assert manifest["joints"]["names"] == list(JOINT_NAMES) and manifest["joints"]["parents"][0] == -1
    assert manifest["inputs"]["pose_2d"] == {"type": "float32", "shape": ["batch", 27, 17, 2]}
    assert list(manifest["outputs"]) == ["refined_pose_3d"]
    assert (manifest["steps"], manifest["timesteps"], manifest["fps"], manifest["opset"]) == (2, [49, 24], 50.0, 20)
    assert manifest["diffusion"]["terminal"] == "zero" and manifest["model"]["dim"] == 16
    assert manifest["parity"]["windows"] == 100 and 0 < manifest["parity"]["largest_mm"] < 0.01
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"])
    graph = onnx.load(result.path)
    assert sum(manifest["nodes"].values()) == len(graph.graph.node)
    # The graph carries the same, less its own hash.
    stored = json.loads({entry.key: entry.value for entry in graph.metadata_props}["refiner"])
    assert stored == {key: value for key, value in manifest.items() if key != "graph_sha256"}
    assert Refiner.load(result.path).metadata == stored | {"engine": "onnx"}


def test_the_manifest_of_a_lifter(exported):
    _, result = exported["lifter"]
    manifest = load_manifest(result.path)
    assert result.path.name == "lifter-f27-j17-fp32.onnx"
    assert manifest["kind"] == "lifter" and "steps" not in manifest
    assert list(manifest["inputs"]) == ["pose_2d", "image_size"] and list(manifest["outputs"]) == ["pose_3d"]


def test_each_loads_as_what_it_is(exported):
    with pytest.raises(ArtefactError, match="a lifter, expected a refiner"):
        Refiner.load(exported["lifter"][1].path)
    with pytest.raises(ArtefactError, match="a refiner, expected a lifter"):
        Lifter.load(exported["refiner"][1].path)


def test_manifests_that_do_not_fit(exported, tmp_path):
    source = exported["refiner"][1]
    graph, file = tmp_path / "graph.onnx", tmp_path / "graph.json"
    graph.write_bytes(source.path.read_bytes())
    with pytest.raises(ArtefactError, match="no manifest at"):
        load_manifest(graph)
    for text, message in [
        ("{", "is no JSON"),
        ("[]", "schema"),
        ('{"schema": 99}', "schema"),
        ('{"schema": 1, "kind": "refiner"}', "lacks checkpoint, fps"),
        (json.dumps(source.manifest | {"graph_sha256": "00"}), "was changed or replaced"),
    ]:
        file.write_text(text)
        with pytest.raises(ArtefactError, match=message):
            load_manifest(graph)
    file.write_text(json.dumps(source.manifest))
    assert load_manifest(graph)["kind"] == "refiner"
    graph.write_bytes(source.path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="sha256"):
        load_manifest(graph)
    graph.unlink()
    with pytest.raises(ArtefactError, match=r"there is no .*graph\.onnx"):
        load_manifest(graph)


@pytest.fixture
def other_graph(exported, monkeypatch):
    """Export takes the graph of an earlier export, so that only what follows the tracing runs."""
    model = onnx.load(exported["refiner"][1].path)
    monkeypatch.setattr(onnx_export, "trace", lambda module, kind, opset: model)
    return model


def test_a_graph_that_differs_is_refused(other_graph, write_checkpoint, tmp_path):
    weights = max(other_graph.graph.initializer, key=lambda tensor: np.prod(tensor.dims, initial=1))
    values = onnx.numpy_helper.to_array(weights) * np.float32(1.01)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    with pytest.raises(ParityError, match=r"differs from PyTorch by \d.*fresh windows") as caught:
        export_onnx(write_checkpoint("refiner"), tmp_path, windows=20)
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_nan_is_refused(other_graph, write_checkpoint, tmp_path):
    weights = max(other_graph.graph.initializer, key=lambda tensor: np.prod(tensor.dims, initial=1))
    values = np.full(tuple(weights.dims), np.nan, np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    with pytest.raises(ParityError):
        export_onnx(write_checkpoint("refiner"), tmp_path, windows=3)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(other_graph, write_checkpoint, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "check_parity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(write_checkpoint("refiner"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_as_a_whole(other_graph, write_checkpoint, tmp_path):
    lines = []
    first = export_onnx(write_checkpoint("refiner"), tmp_path, windows=3)
    again = export_onnx(write_checkpoint("refiner"), tmp_path, windows=5, report=lines.append)
    assert first.path == again.path and load_manifest(again.path)["parity"]["windows"] == 5
    assert sorted(entry.suffix for entry in tmp_path.iterdir()) == [".json", ".onnx"]
    assert any("transposes" in line for line in lines) and "5 windows" in lines[-1]


def test_the_gate_is_strict(exported):
    checkpoint, result = exported["refiner"]
    largest = result.manifest["parity"]["largest_mm"]
    with pytest.raises(ParityError):
        check_parity(load_module(checkpoint), result.path, "refiner", 100, gate_mm=largest / 2)


def test_what_cannot_be_exported(write_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_onnx(tmp_path / "none.safetensors", tmp_path)
    with pytest.raises(UsageError, match="no denoising steps"):
        export_onnx(write_checkpoint("lifter"), tmp_path, steps=2)
    for steps in (0, 51):
        with pytest.raises(ConfigError, match="between 1 and"):
            export_onnx(write_checkpoint("refiner"), tmp_path, steps=steps)
    assert list(tmp_path.iterdir()) == []


def test_a_corrected_start_is_inside_the_graph(write_checkpoint, tmp_path):
    """The graph takes the conditional mean off before the first step: as NumPy and the rest of the graph do."""
    diffusion = {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}
    plain, corrected = (
        write_checkpoint("refiner", diffusion=diffusion | {"start": start}) for start in ("lifter", "corrected")
    )
    results = [export_onnx(path, tmp_path / path.parent.name) for path in (plain, corrected)]
    assert results[1].manifest["parity"]["largest_mm"] < 0.01
    generator = np.random.default_rng(6)
    pixels = generator.uniform(200, 800, (3, 27, 17, 2)).astype(np.float32)
    body = generator.normal(scale=0.3, size=(3, 27, 17, 3)).astype(np.float32)
    body[:, :, 0] = 0.0
    sizes = np.full((3, 2), 1000, np.float32)
    expected_error = load_noise_model(corrected).mean(normalise_screen(pixels, (1000, 1000)), body)
    assert np.abs(expected_error).max() > 0.01
    from_start, from_lifter = (
        OnnxEngine(result.path, "refiner")(pixels, pose, sizes)
        for result, pose in zip(results, ((body - expected_error).astype(np.float32), body), strict=True)
    )
    np.testing.assert_allclose(from_lifter, from_start, atol=1e-5)
