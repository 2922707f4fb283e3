"""A graph that changed since it was written is refused, without the onnx package."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner import bundled
from refiner.errors import ArtefactError
from refiner.runtime.onnx_file import HASH_KEY, _fields, add_hash, check_graph_file

onnx = pytest.importorskip("onnx", reason="onnx is not installed: graphs cannot be written")


def graph(weights):
    tensor = onnx.numpy_helper.from_array(weights, "w")
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, weights.shape) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [tensor]))
    onnx.helper.set_model_props(model, {"refiner": "{}", "other": "é" * 300})
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("graph") / "a.onnx"
    onnx.save(graph(np.arange(300, dtype=np.float32)), file)
    before = file.read_bytes()
    add_hash(file)
    return before, file.read_bytes()


def test_the_hash_is_an_entry_of_the_metadata(written, tmp_path):
    before, after = written
    model = onnx.load_from_string(after)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert entries == {"refiner": "{}", "other": "é" * 300, HASH_KEY: hashlib.sha256(before).hexdigest()}
    del model.metadata_props[-1]
    assert model == onnx.load_from_string(before)
    (tmp_path / "a.onnx").write_bytes(after)
    check_graph_file(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(before)  # as earlier versions wrote it
    check_graph_file(tmp_path / "a.onnx")


@settings(max_examples=400, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused_or_lies_in_the_name_of_the_hash(written, tmp_path_factory, place, bit):
    _, after = written
    content = bytearray(after)
    index = int(place * len(content))
    content[index] ^= 1 << bit
    file = tmp_path_factory.mktemp("flipped") / "a.onnx"
    file.write_bytes(content)
    try:
        check_graph_file(file)
    except ArtefactError:
        return
    name = after.index(HASH_KEY.encode())
    assert name - 6 <= index < name + len(HASH_KEY) + 2


@pytest.mark.parametrize("length", [0, 1, 10, -1, -70])
def test_what_is_cut_off_is_refused(written, tmp_path, length):
    file = tmp_path / "a.onnx"
    file.write_bytes(written[1][:length])
    with pytest.raises(ArtefactError, match="truncated"):
        check_graph_file(file)


def test_weights_in_another_file_are_refused(tmp_path):
    model = graph(np.arange(3000, dtype=np.float32))
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    for _ in range(2):
        with pytest.raises(ArtefactError, match="keeps its weights in other files"):
            check_graph_file(tmp_path / "a.onnx")
        add_hash(tmp_path / "a.onnx")


def test_fields_of_every_type():
    content = memoryview(b"\x08\x96\x01" + b"\x11" + bytes(8) + b"\x1a\x03abc" + b"\x25" + bytes(4))
    assert [(number, end - value) for number, _, value, end in _fields(content, 0, len(content))] == [
        (1, 2),
        (2, 8),
        (3, 3),
        (4, 4),
    ]


@pytest.mark.parametrize("checkpoint", bundled.with_graphs(), ids=lambda path: path.stem)
def test_bundled_graphs_have_a_hash(checkpoint):
    file = bundled.graph_of(checkpoint)
    entries = {entry.key for entry in onnx.load(file).metadata_props}
    assert entries == {"refiner", HASH_KEY}
    check_graph_file(file)
