"""ONNX Runtime as an engine: a graph with a known formula, and every file that is not one of ours."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from refiner.errors import ArtefactError, MissingComponentError, UsageError
from refiner.files import sha256_of
from refiner.machine import physical_processors
from refiner.runtime import Refiner
from refiner.runtime.manifest import manifest_path
from refiner.runtime.onnx_engine import GRAPHS, KEPT_BATCHES, OnnxEngine
from refiner.skeleton import JOINT_NAMES

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: graphs cannot be run")

SIZE = (1000, 1002)


def test_agrees_with_the_formula(write_graph, ramp_engine, clip):
    pose = clip(50)
    graph = Refiner.load(write_graph(), threads=1)
    expected = Refiner(ramp_engine).refine(*pose, image_size=SIZE)
    np.testing.assert_allclose(graph.refine(*pose, image_size=SIZE), expected, atol=1e-5)
    assert (graph.frames, graph.fps, graph.steps) == (9, 50.0, 2) and graph.metadata["engine"] == "onnx"
    assert not graph._engine.rays


def test_a_missing_file(tmp_path):
    with pytest.raises(ArtefactError, match="refiner-export"):
        OnnxEngine(tmp_path / "none.onnx", "refiner")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated(write_graph, kept):
    path = write_graph()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ArtefactError):
        OnnxEngine(path, "refiner")


def test_garbage(tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(ArtefactError, match=r"cannot load .*noise\.onnx"):
        OnnxEngine(path, "refiner")


MANIFEST = {
    "schema": 2,
    "kind": "refiner",
    "engine": "onnx",
    "precision": "fp32",
    "frames": 9,
    "fps": 50.0,
    "batch": {"min": 1, "opt": 1, "max": 8},
    "joints": {"names": list(JOINT_NAMES)},
    "inputs": {},
    "outputs": {},
}


def of_inputs(**shapes):
    return {**MANIFEST, "inputs": {name: {"shape": ["batch", *shape]} for name, shape in shapes.items()}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest": {}}, "carries no refiner metadata"),
        ({"manifest": "{broken"}, "cannot be read"),
        ({"manifest": "[1, 2]"}, "no manifest of schema 2"),
        ({"manifest": {"schema": 2}}, "lacks batch, engine, fps"),
        ({"manifest": {**MANIFEST, "schema": 7}}, "found 7"),
        ({"manifest": {**MANIFEST, "kind": "lifter"}}, "is a lifter, expected a refiner"),
        ({"manifest": {**MANIFEST, "engine": "openvino"}}, "made for the engine 'openvino'"),
        ({"manifest": {**MANIFEST, "joints": {"names": ["Hip"]}}}, "joints"),
        ({"manifest": {**MANIFEST, "batch": 3}}, "no usable batch"),
        ({"manifest": {**MANIFEST, "inputs": []}}, "no usable inputs"),
        ({"manifest": {**MANIFEST, "inputs": {}}}, "contradicts itself"),
        # The names of a camera-aware model, the shapes of another; and half of its names.
        ({"manifest": of_inputs(keypoints=(9, 17, 2), pose_3d=(9, 17, 3), camera=(3,))}, "contradicts itself"),
        ({"manifest": of_inputs(keypoints=(9, 17, 3), pose_3d=(9, 17, 3), camera=(2,))}, "contradicts itself"),
        ({"manifest": of_inputs(keypoints=(9, 17, 3), pose_3d=(9, 17, 3), image_size=(2,))}, "contradicts itself"),
        ({"manifest": of_inputs(keypoints=(9, 17, 3), pose_3d=(9, 17, 3), camera=(3,))}, r"it has \['pose_2d'"),
        ({"output": "y"}, r"\['y'\] where its manifest"),
        ({"batch": 4, "manifest": None, "declared": "batch"}, "shape"),
        ({"frames": "frames"}, "frames"),
        ({"type": 11}, "double"),
    ],
)
def test_foreign_graphs(write_graph, changes, message):
    path = write_graph(**changes)
    with pytest.raises(ArtefactError, match=message):
        OnnxEngine(path, "refiner")


def test_a_fixed_batch_is_filled_up(write_graph, ramp_engine, clip):
    pose = clip(50)
    fixed = Refiner.load(write_graph(batch=4), hop=7)
    assert fixed.batch == 4
    expected = Refiner(ramp_engine, hop=7).refine(*pose, image_size=SIZE)
    np.testing.assert_allclose(fixed.refine(*pose, image_size=SIZE), expected, atol=1e-5)


def test_windows_that_do_not_fit(write_graph):
    engine = OnnxEngine(write_graph(batch=2), "refiner")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, *shape)).astype(np.float32) for shape in ((9, 17, 2), (9, 17, 3), (2,))]
    with pytest.raises(UsageError, match=r"3 windows .* \(2 to 2\).*--batch 2:3:3"):
        engine(*arrays)
    with pytest.raises(UsageError, match=r"pose_2d has shape \(2, 8, 17, 2\).*of 9 frames"):
        engine(arrays[0][:2, :8], arrays[1][:2], arrays[2][:2])
    with pytest.raises(UsageError, match="takes pose_2d, pose_3d, image_size"):
        engine(arrays[0][:2], arrays[2][:2])
    assert engine(*(array[:0] for array in arrays)).shape == (0, 9, 17, 3)


def test_a_graph_beside_another_manifest(write_graph):
    path = write_graph()
    manifest = {**MANIFEST, "files": {path.name: "00"}}
    manifest_path(path).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"sha256 .* changed or replaced"):
        OnnxEngine(path, "refiner")
    manifest["files"] = {path.name: sha256_of(path), "../weights.bin": "00"}
    manifest_path(path).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="another folder"):
        OnnxEngine(path, "refiner")
    manifest["files"] = {path.name: sha256_of(path)}
    manifest_path(path).write_text(json.dumps(manifest))
    assert OnnxEngine(path, "refiner").frames == 9


def test_weights_outside_the_file_are_not_followed_out_of_its_folder(write_graph, tmp_path):
    import onnx

    path = write_graph()
    model = onnx.load(path)
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    folder = tmp_path / "inner"
    folder.mkdir()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    (folder / "ramp.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match="keeps its weights in other files"):
        OnnxEngine(folder / "ramp.onnx", "refiner")


def test_a_provider_that_is_not_there(write_graph):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    with pytest.raises(MissingComponentError, match=r"no CUDAExecutionProvider.*refiner\[gpu\]"):
        OnnxEngine(write_graph(), "refiner", device="cuda")


def test_a_provider_that_does_not_load(write_graph, monkeypatch):
    """What ONNX Runtime does where CUDA's libraries are missing: it warns and takes the CPU."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *available])
    make = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, providers: make(*args, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(MissingComponentError, match="fell back to CPUExecutionProvider"):
        OnnxEngine(write_graph(), "refiner", device="cuda")


class CudaStandIn:
    """What an engine on a CUDA device uses of ONNX Runtime, on the CPU. A graph is replayed on its own buffers."""

    def __init__(self, monkeypatch, session):
        import onnxruntime

        self.session, self.graphs, self.buffers = session, {}, weakref.WeakSet()

        class OrtValue:
            def __init__(value, array):
                value.array = array
                self.buffers.add(value)

            @classmethod
            def ortvalue_from_numpy(cls, array, device, number):
                return cls(array.copy())

            @classmethod
            def ortvalue_from_shape_and_type(cls, shape, kind, device, number):
                return cls(np.zeros(shape, kind))

            def update_inplace(value, array):
                assert array.shape == value.array.shape
                value.array[:] = array

            def numpy(value):
                return value.array.copy()

        class RunOptions:
            def add_run_config_entry(options, name, text):
                assert name == "gpu_graph_id"
                options.graph = int(text)

        monkeypatch.setattr(onnxruntime, "OrtValue", OrtValue)
        monkeypatch.setattr(onnxruntime, "RunOptions", RunOptions)

    def io_binding(self):
        binding = SimpleNamespace(inputs={}, outputs={})
        binding.bind_ortvalue_input = binding.inputs.__setitem__
        binding.bind_ortvalue_output = binding.outputs.__setitem__
        binding.synchronize_inputs = binding.synchronize_outputs = lambda: None
        return binding

    def run_with_iobinding(self, binding, options):
        # ONNX Runtime replays what it captured under a number, whatever is bound now; it never frees a graph.
        if options.graph != -1:
            binding = self.graphs.setdefault(options.graph, binding)
        feeds = {name: value.array for name, value in binding.inputs.items()}
        results = self.session.run(list(binding.outputs), feeds)
        for value, result in zip(binding.outputs.values(), results, strict=True):
            value.array[:] = result


def test_few_batch_sizes_are_kept_on_a_cuda_device(write_graph, monkeypatch):
    engine = OnnxEngine(write_graph(), "refiner")
    cuda = CudaStandIn(monkeypatch, engine._session)
    reference = OnnxEngine(write_graph(), "refiner")
    engine.device, engine._session = "cuda", cuda
    rng = np.random.default_rng(0)
    for batch in 2 * [*range(1, 16), 3, 3, 14, 9, 14]:
        arrays = [rng.normal(size=(batch, *shape)).astype(np.float32) for shape in ((9, 17, 2), (9, 17, 3), (2,))]
        np.testing.assert_array_equal(engine(*arrays), reference(*arrays))
        gc.collect()
        assert len(cuda.buffers) <= 4 * (GRAPHS + KEPT_BATCHES)
    assert len(cuda.graphs) == GRAPHS and len(cuda.buffers) == 4 * (GRAPHS + KEPT_BATCHES)


NO_TORCH = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "onnx", "onnxscript", "safetensors", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from refiner import Refiner, RefinerError
rng = np.random.default_rng(0)
pose_2d, pose_3d = rng.uniform(200, 800, (20, 17, 2)), rng.normal(0, 0.4, (20, 17, 3))
assert Refiner.load(sys.argv[1]).refine(pose_2d, pose_3d, image_size=(1000, 1002)).shape == (20, 17, 3)
print(Refiner.load().metadata["engine"])
try:
    Refiner.load("some.safetensors")
except RefinerError as error:
    print(type(error).__name__, error)
"""


def test_a_graph_runs_without_pytorch(write_graph):
    result = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(write_graph())], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    bundled, named = result.stdout.splitlines()
    assert bundled == "native"
    assert named.startswith("MissingComponentError")
    assert "pose-refiner[train]" in named and ".onnx" in named and "refiner-export --engine onnx" in named
    assert "engine='native'" in named


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_threads_that_leave_the_processor_to_others(write_graph, threads):
    """ONNX Runtime's defaults tie threads to processors, and let them spin."""
    options = Refiner.load(write_graph(), threads=threads)._engine._session.get_session_options()
    assert options.intra_op_num_threads == (threads or physical_processors())
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
