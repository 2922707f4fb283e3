"""The native engine against PyTorch: windows, streams, instruction sets, threads, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="PyTorch is not installed: there is no reference")

import torch
from native_models import NATIVE, TORCH, assert_close, windows, written

from refiner import Lifter, Refiner, bundled
from refiner.engines import EngineOptions
from refiner.errors import CheckpointError, ConfigError, MissingComponentError, UsageError
from refiner.model_files.arrays import load_arrays
from refiner.models.canonical import canonical_pose, from_virtual_camera, to_virtual_camera
from refiner.rays import seen_by_network, turned, turned_back
from refiner.runtime.loading import open_causal_engine, open_engine


def both(path, role):
    return open_engine(path, role, NATIVE), open_engine(path, role, TORCH)


# C and heads: the usual ones, all that C = 64, 96, 120, 256 and 512 have, and widths that no register holds whole.
SIZES = st.one_of(
    st.sampled_from([(64, 8), (128, 8), (192, 16), (256, 8), (512, 16)]),
    st.tuples(st.sampled_from([64, 96, 120, 256, 512]), st.integers(1, 16)).filter(
        lambda size: size[0] % (2 * size[1]) == 0
    ),
    st.tuples(st.integers(2, 11), st.integers(1, 16)).map(lambda size: (2 * size[0] * size[1], size[1])),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=SIZES,
    frames=st.integers(1, 60),
    batch=st.integers(1, 9),
    ratio=st.sampled_from([1, 3, 8]),
    mlps=st.sampled_from([1, 2]),
    embedding=st.booleans(),
    rays=st.booleans(),
    causal=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_refiners_equal_pytorch(tmp_path, size, frames, batch, ratio, mlps, embedding, rays, causal, seed):
    batch = 1 if size[0] > 128 else batch
    frames = max(frames, 3) if causal else frames
    path = written(
        tmp_path / "refiner.safetensors", "refiner", seed, frames, *size, rays, causal,
        mlp_ratio=ratio, mlps=mlps, joint_embedding=embedding,
    )  # fmt: skip
    native, reference = both(path, "refiner")
    assert (native.frames, native.steps, native.fps, native.rays) == (frames, 2, 25.0, rays)
    assert native.reach == reference.reach and native.kind == "refiner"
    # A causal network takes more frames than it sees.
    inputs = windows(seed, batch, 2 * frames if causal else frames, rays)
    expected = reference(*inputs)
    assert_close(native(*inputs), expected)
    assert np.abs(expected - inputs[1]).max() > 1e-4


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=SIZES, frames=st.integers(1, 40), rays=st.booleans(),
    root=st.sampled_from(["subtracted", "zeroed"]), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_lifters_equal_pytorch(tmp_path, size, frames, rays, root, seed):
    path = written(tmp_path / "lifter.safetensors", "lifter", seed, frames, *size, rays, root=root)
    native, reference = both(path, "lifter")
    pixels, _, camera = windows(seed, 2, frames, rays)
    lifted = native(pixels, camera)
    assert_close(lifted, reference(pixels, camera))
    assert (lifted[:, :, 0] == 0).all()


@pytest.mark.parametrize("name", [path.stem for path in sorted(bundled.FOLDER.glob("*.safetensors"))])
def test_bundled_models_run_natively_by_default(name):
    role = "lifter" if "lifter" in name else "refiner"
    chosen, reference = open_engine(name, role), open_engine(name, role, TORCH)
    assert chosen.engine == "native"
    pixels, pose, camera = windows(3, 2, chosen.frames, chosen.rays)
    inputs = (pixels, camera) if role == "lifter" else (pixels, pose, camera)
    assert_close(chosen(*inputs), reference(*inputs))


def test_rays_in_numpy_equal_those_of_pytorch():
    pixels, pose, camera = windows(5, 4, 7, True)
    pixels[0, 0, :, 2] = 0.0  # a frame without any joint
    expected = canonical_pose(*(torch.from_numpy(part) for part in (pixels, camera)))
    seen, rotation = seen_by_network(pixels, camera, rays=True)
    np.testing.assert_allclose(seen, expected.features, atol=2e-5)
    np.testing.assert_allclose(rotation, expected.rotation, atol=1e-6)
    there = to_virtual_camera(torch.from_numpy(pose), expected.rotation)
    np.testing.assert_allclose(turned(pose, rotation), there, atol=1e-5)
    np.testing.assert_allclose(turned_back(turned(pose, rotation), rotation), pose, atol=1e-5)
    np.testing.assert_allclose(from_virtual_camera(there, expected.rotation), pose, atol=1e-5)


def test_threads_and_neighbours_change_nothing(tmp_path):
    path = written(tmp_path / "refiner.safetensors", frames=27, dim=64, heads=8)
    inputs = windows(2, 7, 27, True)
    results = [open_engine(path, "refiner", EngineOptions("native", threads=threads))(*inputs) for threads in (1, 2, 5)]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    engine = open_engine(path, "refiner", NATIVE)
    for window in range(7):
        np.testing.assert_array_equal(engine(*(part[window : window + 1] for part in inputs))[0], results[0][window])


def test_what_is_not_a_number_stays_with_its_person(tmp_path):
    path = written(tmp_path / "refiner.safetensors", frames=9)
    inputs = windows(2, 3, 9, True)
    engine = open_engine(path, "refiner", NATIVE)
    clean = engine(*inputs)
    inputs[1][1, 4, 6, 0] = np.nan
    spoilt = engine(*inputs)
    np.testing.assert_array_equal(spoilt[[0, 2]], clean[[0, 2]])
    assert np.isnan(spoilt[1]).any()


def test_one_engine_for_many_threads(tmp_path):
    path = written(tmp_path / "refiner.safetensors", frames=27, dim=64, heads=8)
    engine = open_engine(path, "refiner", EngineOptions("native", threads=2))
    tasks = [windows(seed, 1 + seed % 3, 27, True) for seed in range(8)]
    expected = [engine(*task) for task in tasks]
    wrong = []

    def work(first):
        for index in range(first, first + 24):
            task = index % len(tasks)
            if not np.array_equal(engine(*tasks[task]), expected[task]):
                wrong.append(task)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("isa", ["baseline", "v3"])
def test_every_instruction_set_gives_the_same_to_rounding(tmp_path, isa):
    """In a process of its own, since a process chooses once."""
    sizes = [(96, 4), (64, 8), (64, 16), (36, 3), (34, 1), (48, 2)]
    for index, (dim, heads) in enumerate(sizes):
        written(tmp_path / f"windows-{index}.safetensors", frames=27, dim=dim, heads=heads)
        written(tmp_path / f"causal-{index}.safetensors", frames=9, dim=dim, heads=heads, causal=True)
    script = """
import sys, numpy as np
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_causal_engine, open_engine
folder, count = sys.argv[1], int(sys.argv[2])
inputs = [np.load(f"{folder}/{name}.npy") for name in "abc"]
for index in range(count):
    for kind in ("windows", "causal"):
        engine = open_engine(f"{folder}/{kind}-{index}.safetensors", "refiner", EngineOptions("native"))
        np.save(f"{folder}/{kind}-{index}.npy", engine(*inputs))
    stream = open_causal_engine(f"{folder}/causal-{index}.safetensors", EngineOptions("native", streams=2))
    frames = [stream.step(inputs[0][:, t], inputs[1][:, t], inputs[2]) for t in range(27)]
    np.save(f"{folder}/frames-{index}.npy", np.stack(frames, axis=1))
"""
    inputs = windows(1, 2, 27, True)
    for name, part in zip("abc", inputs, strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    words = [sys.executable, "-c", script, str(tmp_path), str(len(sizes))]
    subprocess.run(words, check=True, env={**os.environ, "REFINER_ISA": isa}, timeout=300)
    for index in range(len(sizes)):
        for kind in ("windows", "causal"):
            expected = open_engine(tmp_path / f"{kind}-{index}.safetensors", "refiner", TORCH)(*inputs)
            assert_close(np.load(tmp_path / f"{kind}-{index}.npy"), expected)
        assert_close(np.load(tmp_path / f"frames-{index}.npy"), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 34, "heads": 17}, "1 to 16 heads.*not for C = 34 and 17 heads.*engine='torch'"),
        ({"kind": "lifter", "architecture": "mlp", "dropout": 0.0}, "PoseDenoiser, not mlp.*engine='torch'"),
    ],
)
def test_what_no_kernel_runs_is_refused(tmp_path, changes, message):
    path = written(tmp_path / "model.safetensors", **changes)
    role = changes.get("kind", "refiner")
    with pytest.raises(UsageError, match=message):
        open_engine(path, role, NATIVE)
    assert open_engine(path, role).engine == "torch"  # only bundled models run natively by default


def test_other_refusals(tmp_path):
    windowed, causal = (
        written(tmp_path / f"{name}.safetensors", causal=name == "causal") for name in ("windows", "causal")
    )
    lifter = written(tmp_path / "lifter.safetensors", "lifter")
    with pytest.raises(ConfigError, match="only a causal refiner runs frame by frame"):
        open_causal_engine(windowed, EngineOptions("native"))
    with pytest.raises(ConfigError, match="nothing to pipeline"):
        open_causal_engine(causal, EngineOptions("native", steps=1, pipelined=True))
    with pytest.raises(UsageError, match="runs frames on the CPU"):
        open_causal_engine(causal, EngineOptions("native", device="cuda"))
    with pytest.raises(UsageError, match=r"C is a multiple of 32 up to 512, not C = 16; .*engine='torch' runs it"):
        open_engine(windowed, "refiner", EngineOptions("native", device="cuda"))
    for precision, device in (("fp16", None), ("fp16", "cpu"), ("fp32", "cuda"), ("bf16", "cuda")):
        with pytest.raises(UsageError, match="in fp16 on a CUDA device and in fp32 or bf16 on the CPU"):
            open_engine(windowed, "refiner", EngineOptions("native", device=device, precision=precision))
    with pytest.raises(UsageError, match="not in fp16"):
        open_causal_engine(causal, EngineOptions("native", precision="fp16"))
    with pytest.raises(CheckpointError, match="holds a lifter, expected a refiner"):
        open_engine(lifter, "refiner", NATIVE)
    with pytest.raises(ConfigError, match="no steps to choose"):
        open_engine(lifter, "lifter", EngineOptions("native", steps=3))
    assert open_engine(windowed, "refiner", EngineOptions("native", steps=3)).steps == 3


def test_a_cuda_device_that_is_not_there(monkeypatch):
    from refiner import _native

    options = EngineOptions("native", device="cuda")
    monkeypatch.setattr(_native, "with_cuda", False)
    with pytest.raises(MissingComponentError, match="built without CUDA"):
        open_engine(None, "refiner", options)
    monkeypatch.setattr(_native, "with_cuda", True)
    monkeypatch.setattr(_native, "cuda_device_count", lambda: 0, raising=False)
    with pytest.raises(MissingComponentError, match="sees no CUDA device"):
        open_engine(None, "lifter", options)


def test_damaged_checkpoints_are_refused(tmp_path):
    path = written(tmp_path / "refiner.safetensors")
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    rng = np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little") + 8
    for kept in (0, 5, 8, 100, header - 1, header, header + 10, len(whole) - 1):
        damaged.write_bytes(whole[:kept])
        with pytest.raises(CheckpointError, match="damaged"):
            open_engine(damaged, "refiner", NATIVE)
    for _ in range(200):  # a byte of the header changed: refused, or it names another tensor or number
        changed = bytearray(whole)
        changed[int(rng.integers(0, header))] = int(rng.integers(0, 256))
        damaged.write_bytes(bytes(changed))
        try:
            open_engine(damaged, "refiner", NATIVE)
        except (CheckpointError, UsageError, ConfigError):
            continue


def changed(path, target, change):
    """A copy of a checkpoint without hashes, with other tensors or another configuration."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as opened:
        metadata, tensors = dict(opened.metadata()), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    metadata = {name: metadata[name] for name in ("format", "version", "config")}
    config = json.loads(metadata["config"])
    change(tensors, config, metadata)
    metadata["config"] = json.dumps(config)
    save_file(tensors, target, metadata)
    return target


CHANGES = {
    "another version": lambda tensors, config, metadata: metadata.update(version="2"),
    "no format": lambda tensors, config, metadata: metadata.pop("format"),
    "no blocks": lambda tensors, config, metadata: config["model"].pop("blocks"),
    "no terminal": lambda tensors, config, metadata: config["diffusion"].pop("terminal"),
    "no time": lambda tensors, config, metadata: tensors.pop("model.time_mlp.0.weight"),
    "flat time": lambda tensors, config, metadata: tensors.update({"model.time_mlp.0.weight": torch.zeros(512)}),
    "no joint embedding": lambda tensors, config, metadata: tensors.pop("model.joint_embedding"),
    "turned embedding": lambda tensors, config, metadata: tensors.update(
        {"model.joint_embedding": torch.zeros(16, 17)}
    ),
    "more blocks": lambda tensors, config, metadata: tensors.update(
        {"model.blocks.1.mlp.fc1.weight": torch.zeros(32, 16)}
    ),
    "no hidden layer": lambda tensors, config, metadata: tensors.update(
        {"model.blocks.0.mlp.fc1.weight": torch.zeros(0, 16), "model.blocks.0.mlp.fc2.weight": torch.zeros(16, 0)}
    ),
    "a norm of one": lambda tensors, config, metadata: tensors.update(
        {"model.blocks.0.layer_norm.weight": torch.ones(1)}
    ),
    "screen": lambda tensors, config, metadata: config["model"].update(input="screen"),
    "error scale of 48": lambda tensors, config, metadata: tensors.update(error_scale=torch.ones(48)),
    "error scale of 3": lambda tensors, config, metadata: tensors.update(error_scale=torch.ones(3)),
    "trust of 1": lambda tensors, config, metadata: tensors.update(trust=torch.ones(1)),
    "trust of 3": lambda tensors, config, metadata: tensors.update(trust=torch.ones(3)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_its_configuration_is_refused(tmp_path, name):
    path = written(tmp_path / "refiner.safetensors")
    target = changed(path, tmp_path / "changed.safetensors", CHANGES[name])
    with pytest.raises(CheckpointError):
        open_engine(target, "refiner", NATIVE)
    same = changed(path, tmp_path / "same.safetensors", lambda tensors, config, metadata: None)
    assert open_engine(same, "refiner", NATIVE).steps == 2


def test_trust_is_for_windows(tmp_path):
    path = written(tmp_path / "causal.safetensors", causal=True)
    target = changed(
        path, tmp_path / "changed.safetensors", lambda tensors, *_: tensors.update(trust=torch.tensor([0.01, 0.05]))
    )
    for opens in (
        lambda: open_engine(target, "refiner", NATIVE),
        lambda: open_causal_engine(target, EngineOptions("native")),
    ):
        with pytest.raises(ConfigError, match="trust is for windowed refiners"):
            opens()


def test_the_format_is_that_of_the_pytorch_reader():
    from refiner.model_files import arrays, checkpoint

    assert (arrays.FORMAT, arrays.VERSION) == (checkpoint.FORMAT, checkpoint.VERSION)


def test_arrays_of_a_checkpoint_are_those_of_safetensors(tmp_path):
    from refiner.model_files.checkpoint import load_checkpoint

    for path in (written(tmp_path / "refiner.safetensors"), bundled.default_checkpoint("refiner")):
        expected, read = load_checkpoint(path), load_arrays(path)
        assert read.config == expected.config and read.arrays.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            np.testing.assert_array_equal(read.arrays[name], tensor.numpy())


def test_nothing_else_is_needed():
    """The default models run with NumPy, SciPy and the compiled module alone."""
    script = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "onnx", "onnxruntime", "openvino"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
from refiner import Lifter, Refiner, StreamingRefiner
from refiner.data.synthetic import synthetic_motion
from refiner.camera import human36m_cameras
camera = human36m_cameras()[0]
pixels = np.random.default_rng(0).normal(0, 60, (30, 17, 2)) + 500
lens = {"image_size": (1000, 1000), "focal_length": 1100}
pose = Lifter.load().lift(pixels, **lens)
refiner = Refiner.load()
assert refiner.refine(pixels, pose, **lens).shape == (30, 17, 3)
assert refiner.compare_input(pixels, pose, **lens) is not None
stream = StreamingRefiner.load(lifter=True, **lens)
assert sum(len(stream.push(frame, None, index / 50)) for index, frame in enumerate(pixels)) > 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)


def test_without_the_compiled_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "refiner._native", None)
    monkeypatch.delattr(sys.modules["refiner"], "_native", raising=False)
    with pytest.raises(MissingComponentError, match="compiled module"):
        open_engine(None, "refiner", NATIVE)


def test_defaults_of_the_classes():
    assert Lifter.load().metadata["engine"] == Refiner.load().metadata["engine"] == "native"
    assert Refiner.load(engine="torch").metadata["engine"] == "torch"
    assert Refiner.load(engine="onnx").metadata["engine"] == "onnx"
    assert open_causal_engine().engine == "native"
    assert open_causal_engine(None, EngineOptions(pipelined=True)).engine == "native"
