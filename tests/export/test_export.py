"""The manifest, the gate, the cache, and what is left when something goes wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from refiner_export import Batch, ExportOptions, build, cache, export_artefact, gate, parity
from refiner_export.inspection import inspect_artefact

from refiner.camera import normalise_screen
from refiner.errors import (
    ArtefactError,
    CheckpointError,
    ConfigError,
    MissingComponentError,
    ParityError,
    UsageError,
)
from refiner.files import sha256_of
from refiner.machine import processor_name
from refiner.model_files.checkpoint import load_noise_model
from refiner.runtime import Lifter, Refiner
from refiner.runtime.manifest import check_files, read_manifest
from refiner.runtime.onnx_engine import OnnxEngine
from refiner.skeleton import JOINT_NAMES


def test_the_manifest_of_a_refiner(exported):
    checkpoint, result = exported["refiner"]
    manifest = read_manifest(result.path).content
    assert manifest == result.manifest and manifest == json.loads(result.manifest_path.read_text())
    assert result.path.name == "refiner-f27-j17-k2-fp32.onnx"
    assert manifest["checkpoint"] == {"name": "refiner.safetensors", "sha256": sha256_of(checkpoint)}
    assert manifest["files"] == {result.path.name: sha256_of(result.path)}
    assert manifest["joints"]["names"] == list(JOINT_NAMES) and manifest["joints"]["parents"][0] == -1
    assert manifest["inputs"]["pose_2d"] == {"type": "float32", "shape": ["batch", 27, 17, 2]}
    assert manifest["batch"] == {"min": 1, "opt": 1, "max": 64} and list(manifest["outputs"]) == ["refined_pose_3d"]
    assert (manifest["steps"], manifest["timesteps"], manifest["fps"], manifest["opset"]) == (2, [49, 24], 50.0, 20)
    assert manifest["diffusion"]["terminal"] == "zero" and manifest["model"]["dim"] == 16
    found = manifest["parity"]
    assert found["windows"] == 100 and found["batches"] == [1, 2, 64] and found["wild_windows"] == 25
    assert 0 < found["total"]["largest_mm"] < 0.01 and abs(found["total"]["mpjpe_change_mm"]) < 0.01
    assert found["total"]["reference_mpjpe_mm"] > 10 and "typing" not in found
    assert {"torch", "onnx", "onnxruntime"} <= set(manifest["versions"]) and manifest["build"]["seconds"] >= 0
    assert manifest["built_on"].keys() == {"system", "processor", "gpu", "compute_capability", "driver"}
    assert manifest["built_on"]["processor"] == processor_name() != ""
    graph = onnx.load(result.path)
    assert sum(manifest["nodes"].values()) == len(graph.graph.node)
    # The graph carries the same, less the hashes of files, and its hash is that of what it computes.
    stored = json.loads({entry.key: entry.value for entry in graph.metadata_props}["refiner"])
    assert stored == {key: value for key, value in manifest.items() if key != "files"}
    from refiner_export.manifest import graph_hash

    assert graph_hash(graph) == manifest["graph_sha256"]
    assert Refiner.load(result.path).metadata == stored | {"device": "cpu"}


def test_the_manifest_of_a_lifter(exported):
    _, result = exported["lifter"]
    manifest = read_manifest(result.path).content
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
    graph, file = tmp_path / source.path.name, tmp_path / source.manifest_path.name
    graph.write_bytes(source.path.read_bytes())
    # The one file is enough: it carries its manifest.
    assert inspect_artefact(graph).kind == "refiner"
    with pytest.raises(ArtefactError, match="no manifest at"):
        read_manifest(graph)
    for text, message in [
        ("{", "is no JSON"),
        ("[]", "schema"),
        ('{"schema": 99}', "schema"),
        ('{"schema": 2, "kind": "refiner"}', "lacks batch, engine, fps"),
        (json.dumps(source.manifest | {"joints": {"names": list(JOINT_NAMES)[::-1]}}), "in this order"),
        (json.dumps(source.manifest | {"files": {"other.onnx": "00"}}), "does not name it"),
        (json.dumps(source.manifest | {"files": {graph.name: "00"}}), "changed or replaced"),
        (json.dumps(source.manifest | {"files": {**source.manifest["files"], "w.bin": "00"}}), r"w\.bin is missing"),
    ]:
        file.write_text(text)
        with pytest.raises(ArtefactError, match=message):
            check_files(read_manifest(graph), graph)
        with pytest.raises(ArtefactError, match=message):
            Refiner.load(graph)
    file.write_text(json.dumps(source.manifest))
    assert inspect_artefact(graph).content == source.manifest
    graph.write_bytes(source.path.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="sha256"):
        inspect_artefact(graph)


@pytest.fixture
def other_graph(exported, monkeypatch):
    """Export takes the graph of an earlier export, so that only what follows the tracing runs."""
    from refiner_export import graph

    model = onnx.load(exported["refiner"][1].path)
    monkeypatch.setattr(graph, "trace", lambda module, kind, opset, fixed_batch: model)
    return model


def change_weights(model, change):
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims, initial=1))
    values = change(onnx.numpy_helper.to_array(weights)).astype(np.float32)
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))


def test_a_graph_that_differs_is_refused(other_graph, write_checkpoint, tmp_path, export_to):
    change_weights(other_graph, lambda values: values * 1.01)
    with pytest.raises(ParityError, match=r"largest joint difference \d.*67 fresh windows, most in windows") as caught:
        export_to(tmp_path, write_checkpoint("refiner"), windows=20)
    assert caught.value.exit_code == 4
    # What was refused can be looked at, and cannot be taken for an artefact.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "refiner-f27-j17-k2-fp32.onnx.json.rejected",
        "refiner-f27-j17-k2-fp32.onnx.rejected",
    ]
    assert "rejected" in str(caught.value)


def test_a_graph_with_nan_is_refused(other_graph, write_checkpoint, tmp_path, export_to):
    change_weights(other_graph, lambda values: np.full_like(values, np.nan))
    with pytest.raises(ParityError, match="inf mm"):
        export_to(tmp_path, write_checkpoint("refiner"), windows=4)


def test_a_tolerance_can_be_given(other_graph, write_checkpoint, tmp_path, export_to):
    change_weights(other_graph, lambda values: values * 1.0001)
    with pytest.raises(ParityError):
        export_to(tmp_path, write_checkpoint("refiner"), windows=4, tolerance_mm=1e-9)
    assert export_to(tmp_path, write_checkpoint("refiner"), windows=4, tolerance_mm=5.0).path.is_file()


def test_the_gate_looks_at_the_mean_error_of_motion_too():
    options = ExportOptions("onnx", Path("x"), Path("y"), precision="fp16", windows=4)
    windows = gate.gate_windows(options, 9)
    expected = windows.truth + np.float32(0.03)
    expected[..., 0, :] = 0
    moved = windows.truth + np.float32(0.0301)
    moved[..., 0, :] = 0
    result = gate.compare(moved, expected, windows)
    np.testing.assert_allclose(result["mpjpe_change_mm"], 0.1 * np.sqrt(3) * 16 / 17, rtol=2e-2)
    np.testing.assert_allclose(result["largest_mm"], 0.1 * np.sqrt(3), rtol=2e-2)
    with pytest.raises(ParityError, match=r"MPJPE changed by 0\.1.* allowed: 0\.05 mm"):
        gate.judge(result, options)


def test_batches_of_every_size_are_run():
    seen = []

    def double(array):
        seen.append(len(array))
        return 2 * array

    values = np.arange(12.0)
    np.testing.assert_array_equal(gate.run_batches(double, (values,), [1, 2, 5]), 2 * values)
    assert seen == [1, 2, 5, 5]
    options = ExportOptions("onnx", Path("x"), Path("y"))
    for batch, sizes in ((Batch(1, 1, 64), [1, 2, 64]), (Batch(4, 4, 4), [4]), (Batch(2, 4, 900), [2, 900])):
        chosen = dataclasses.replace(options, batch=batch, windows=5)
        assert gate.batch_sizes(chosen) == sizes and gate.window_count(chosen) == max(5, sum(sizes))


def test_an_interrupt_leaves_nothing(other_graph, write_checkpoint, tmp_path, monkeypatch, export_to):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "compare_artefact", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_to(tmp_path / "new", write_checkpoint("refiner"))
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_as_a_whole(other_graph, write_checkpoint, tmp_path, export_to):
    lines = []
    first = export_to(tmp_path, write_checkpoint("refiner"), windows=3)
    again = export_to(tmp_path, write_checkpoint("refiner"), windows=70, report=lines.append)
    assert first.path == again.path and inspect_artefact(again.path).parity.windows == 70
    assert sorted(entry.suffix for entry in tmp_path.iterdir()) == [".json", ".onnx"]
    assert any("transposes" in line for line in lines)
    assert "comparing with PyTorch" in again.stages


def test_what_was_built_before_is_copied(other_graph, write_checkpoint, tmp_path, monkeypatch):
    options = ExportOptions("onnx", tmp_path / "first", write_checkpoint("refiner"), windows=3)
    built = export_artefact(options)
    assert not built.cached and cache.cache_folder().stat().st_mode & 0o777 == 0o700
    again = dataclasses.replace(options, output=tmp_path / "second")
    monkeypatch.setattr(build, "_build", lambda *args: pytest.fail("built again"))
    copied = export_artefact(again)
    assert copied.cached and copied.manifest == built.manifest and copied.path.parent == tmp_path / "second"
    assert inspect_artefact(copied.path).content == built.manifest
    # Other options, another checkpoint and a cache entry that was tampered with are no hits.
    key = cache.build_key(options)
    assert cache.build_key(again) == key
    assert cache.build_key(dataclasses.replace(options, opset=21)) != key
    assert cache.build_key(dataclasses.replace(options, checkpoint=write_checkpoint("lifter"))) != key
    entry = cache.find(key)
    entry.write_bytes(entry.read_bytes()[:-1])
    assert cache.find(key) is None and not entry.exists()


def test_a_cache_that_cannot_be_written_is_no_error(other_graph, write_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    options = ExportOptions("onnx", tmp_path / "out", write_checkpoint("refiner"), windows=3)
    assert export_artefact(options).path.is_file()


def test_what_cannot_be_exported(write_checkpoint, tmp_path, export_to):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export_to(tmp_path, tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no denoising steps"):
        export_to(tmp_path, write_checkpoint("lifter"), steps=2)
    with pytest.raises(UsageError, match="holds a lifter; --with-lifter puts one in front"):
        export_to(tmp_path, write_checkpoint("lifter"), lifter=write_checkpoint("lifter"))
    with pytest.raises(ConfigError, match="27 frames, the refiner of 9"):
        export_to(tmp_path, write_checkpoint("refiner", frames=9), lifter=write_checkpoint("lifter"))
    with pytest.raises(ConfigError, match="between 1 and"):
        export_to(tmp_path, write_checkpoint("refiner"), steps=51)
    for changes, message in (
        ({"engine": "tvm"}, "choose one of onnx, openvino"),
        ({"engine": "openvino", "precision": "fp16"}, "fp32, bf16, int8"),
        ({"compute_capability": "8.6"}, "for --engine trt-rtx"),
        ({"timing_cache": tmp_path / "cache"}, "for --engine trt;"),
        ({"engine": "openvino", "device": "cuda"}, "for onnx, aoti and torch"),
        ({"precision": "bf16"}, "no bf16 products on a CPU"),
        ({"frames": 0}, "--frames is 0"),
        ({"steps": 0}, "--steps is 0"),
        ({"opset": 9}, "18 to 22"),
        ({"workspace_mb": 0}, "--workspace-mb is 0"),
        ({"data": tmp_path / "nowhere"}, "no such folder"),
        ({"tolerance_mm": float("inf")}, "--tolerance-mm is"),
        ({"windows": 0}, "--windows is 0"),
        ({"tolerance_mm": 0.0}, "--tolerance-mm is"),
        ({"engine": "torch", "steps": 1}, "--steps need a graph"),
    ):
        with pytest.raises(UsageError, match=message):
            export_to(tmp_path, write_checkpoint("refiner"), **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "batch"), [("1", Batch(1, 1, 1)), ("8", Batch(8, 8, 8)), ("1:4:16", Batch(1, 4, 16)), ("0", None)]
)
def test_batches_are_read(text, batch):
    if batch is not None:
        assert Batch.parse(text) == batch and Batch.parse(str(batch)) == batch
    for wrong in (text + ":", "4:2:8", "1:2", "a", "1:1:99999", *([text] if batch is None else [])):
        with pytest.raises(UsageError, match="MIN:OPT:MAX in rising order"):
            Batch.parse(wrong)


def test_other_frames_than_the_trained_ones(write_checkpoint, tmp_path, export_to):
    lines = []
    result = export_to(tmp_path, write_checkpoint("refiner"), frames=5, windows=8, report=lines.append)
    assert (result.manifest["frames"], result.manifest["trained_frames"]) == (5, 27)
    assert any("trained on windows of 27 frames" in line for line in lines)
    assert Refiner.load(result.path).frames == 5


@pytest.mark.parametrize("engine", ["trt", "trt-rtx"])
def test_without_the_engine_the_graph_is_kept(other_graph, write_checkpoint, tmp_path, monkeypatch, engine):
    def absent(module):
        raise MissingComponentError(f"--engine {engine} needs {module}")

    monkeypatch.setattr("refiner_export.engines.trt.load_tensorrt", absent)
    capability = "8.6" if engine == "trt-rtx" else None
    options = ExportOptions(
        engine, tmp_path, write_checkpoint("refiner"), windows=3, compute_capability=capability, precision="fp16"
    )
    with pytest.raises(MissingComponentError) as caught:
        export_artefact(options, use_cache=False)
    message = str(caught.value)
    assert caught.value.exit_code == 3 and f"needs tensorrt{'_rtx' if engine == 'trt-rtx' else ''}" in message
    kept = tmp_path / "refiner-f27-j17-k2-fp16.onnx"
    assert str(kept) in message and inspect_artefact(kept).precision == "fp16"
    assert f"refiner-export --engine {engine} --precision fp16" in message
    assert ("--engine trt-rtx" in message) and list(tmp_path.glob("*.engine")) == []


def test_a_corrected_start_is_inside_the_graph(write_checkpoint, tmp_path, export_to):
    """The graph takes the conditional mean off before the first step: as NumPy and the rest of the graph do."""
    diffusion = {"timesteps": 50, "steps": 2, "offset": 0.008, "terminal": "zero"}
    plain, corrected = (
        write_checkpoint("refiner", diffusion=diffusion | {"start": start}) for start in ("lifter", "corrected")
    )
    results = [export_to(tmp_path / path.parent.name, path, windows=20) for path in (plain, corrected)]
    assert results[1].manifest["parity"]["total"]["largest_mm"] < 0.01
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


def test_a_full_disk_and_a_file_in_the_way(other_graph, write_checkpoint, tmp_path, monkeypatch, capsys):
    import errno

    from refiner_export import cli
    from refiner_export.engines import onnx as engine

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "somewhere"))

    monkeypatch.setattr(engine, "compile_graph", full)
    words = ["--engine", "onnx", "--checkpoint", str(write_checkpoint("refiner")), "--windows", "3", "--output"]
    assert cli.main([*words, str(tmp_path / "new")]) == 5
    assert "disk is full" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    assert cli.main([*words, str(tmp_path / "file" / "below")]) == 5
    assert "file" in capsys.readouterr().err


@pytest.mark.data
def test_with_data_the_manifest_says_how_accurate_it_is(exported, tmp_path, export_to, motion_folder):
    lifter = exported["lifter"][0]
    result = export_to(tmp_path, lifter, windows=8, data=motion_folder)
    found = result.manifest["parity"]
    assert found["mpjpe_is_accuracy"] and "validation people" in found["motion"]
    assert found["total"]["mpjpe_mm"] > 100  # random weights
