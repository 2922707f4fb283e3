"""Triton's model repository, read with Triton's own protobuf."""

from __future__ import annotations

import json

import pytest
from refiner_export import Batch
from refiner_export.triton import model_config, write_repository

from refiner.errors import ArtefactError, UsageError
from refiner.runtime.manifest import manifest_path, parse_manifest

model_config_pb2 = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed: nothing to read the config with"
)


def parse(text):
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_graph_with_dynamic_batching(exported, tmp_path):
    import onnx

    _, result = exported["refiner"]
    folder = write_repository(result.path, tmp_path / "models")
    config = parse((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 64)
    assert list(config.dynamic_batching.preferred_batch_size) == [64]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    # What Triton says of the tensors is what is in the graph.
    graph = onnx.load(folder / "1" / "model.onnx").graph
    for declared, inside in ((config.input, graph.input), (config.output, graph.output)):
        shapes = {entry.name: [axis.dim_value for axis in entry.type.tensor_type.shape.dim][1:] for entry in inside}
        assert {entry.name: list(entry.dims) for entry in declared} == shapes
        assert {entry.data_type for entry in declared} == {model_config_pb2.TYPE_FP32}
    assert sorted(path.name for path in folder.iterdir()) == ["1", "config.pbtxt", "manifest.json"]
    # Written again it is replaced, and nothing else is left.
    write_repository(result.path, tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [folder.name]


def test_a_fixed_batch_and_other_backends(exported, tmp_path):
    content = exported["refiner"][1].manifest

    def changed(**entries):
        return parse_manifest(content | entries, tmp_path)

    fixed = parse(model_config("fixed", changed(batch={"min": 4, "opt": 4, "max": 4})))
    assert fixed.max_batch_size == 0 and list(fixed.input[0].dims) == [4, 27, 17, 2]
    assert not fixed.HasField("dynamic_batching")
    tensorrt = parse(model_config("trt", changed(engine="trt", batch={"min": 1, "opt": 8, "max": 32})))
    assert tensorrt.backend == "tensorrt" and list(tensorrt.dynamic_batching.preferred_batch_size) == [8, 32]
    assert tensorrt.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU


def test_openvino_takes_both_of_its_files(write_checkpoint, tmp_path, export_to):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    result = export_to(
        tmp_path / "out", write_checkpoint("refiner", frames=9), engine="openvino", windows=4, batch=Batch(1, 2, 8)
    )
    folder = write_repository(result.path, tmp_path / "models")
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["model.bin", "model.xml"]
    assert parse((folder / "config.pbtxt").read_text()).backend == "openvino"


def test_what_triton_cannot_serve(exported, tmp_path):
    result = exported["lifter"][1]
    copied = tmp_path / result.path.name
    copied.write_bytes(result.path.read_bytes())
    manifest_path(copied).write_text(json.dumps(result.manifest | {"engine": "aoti"}))
    with pytest.raises(UsageError, match="no backend for aoti"):
        write_repository(copied, tmp_path / "models")
    manifest_path(copied).write_text(json.dumps(result.manifest))
    copied.write_bytes(b"short")
    with pytest.raises(ArtefactError, match="sha256"):
        write_repository(copied, tmp_path / "models")
    assert not (tmp_path / "models").exists()
