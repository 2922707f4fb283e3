"""The native engine in bfloat16: against PyTorch with rounded operands, for every form of the instructions."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: there is no reference")

import torch
from native_models import windows, written

from refiner import Lifter, Refiner, StreamingRefiner, _native, bundled
from refiner.engines import EngineOptions
from refiner.errors import UsageError
from refiner.model_files.build import module_of
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.models.fused import attention_by
from refiner.runtime.loading import open_causal_engine, open_engine

FP32, BF16 = (EngineOptions("native", threads=1, precision=precision) for precision in ("fp32", "bf16"))
here = pytest.mark.skipif("bf16" not in _native.precisions(), reason="this processor has no instructions for bfloat16")
# Loads a model in a process of its own, since a process chooses its instructions once.
RUN = """
import sys, numpy as np
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_causal_engine, open_engine
inputs = [np.load(f"{sys.argv[1]}/{name}.npy") for name in "abc"]
engine = open_engine(sys.argv[2], "refiner", EngineOptions("native", precision="bf16"))
np.save(f"{sys.argv[1]}/windows.npy", engine(*inputs))
stream = open_causal_engine(sys.argv[3], EngineOptions("native", streams=2, precision="bf16"))
frames = [stream.step(inputs[0][:, t], inputs[1][:, t], inputs[2]) for t in range(inputs[0].shape[1])]
np.save(f"{sys.argv[1]}/frames.npy", np.stack(frames, axis=1))
print(engine._network.instructions)
"""


def processor_has(flag):
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            return flag in file.read().split()
    except OSError:
        return False


def plain_norms(path):
    """The checkpoint with norms of scale 1 and shift 0, whose folded weights are the weights themselves."""
    checkpoint = load_checkpoint(path)
    for name, tensor in checkpoint.tensors.items():
        if "layer_norm" in name:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    save_checkpoint(path, checkpoint.config, checkpoint.tensors)
    return path


def rounded_reference(path, inputs):
    """PyTorch, where the operands of qkv, proj, fc1 and fc2 are rounded to bfloat16, and all else is float32."""
    module = module_of(load_checkpoint(path, "refiner"), None, str(path))

    def round_operands(layer, given):
        return (given[0].bfloat16().float(),)

    for name, layer in module.named_modules():
        if name.split(".")[-1] in ("qkv", "proj", "fc1", "fc2"):
            layer.weight.data = layer.weight.data.bfloat16().float()
            layer.register_forward_pre_hook(round_operands)
    with torch.inference_mode(), attention_by("plain"):
        return module(*(torch.from_numpy(part) for part in inputs)).numpy()


def assert_rounded_so(result, expected, exact):
    """The result is as far from float32 as the reference, and not farther from the reference.

    The two are not equal: operands that differ in their last bit in float32 are now and then rounded to different
    sides, and the layers behind carry the difference on. tests/native/test_products.py tests single products.
    """
    effect = np.abs(expected - exact).mean()
    assert effect > 1e-6
    assert 0.6 < np.abs(result - exact).mean() / effect < 1.6
    assert np.abs(result - expected).mean() < 1.2 * effect


@pytest.mark.parametrize(
    ("isa", "instructions", "flag"),
    [
        ("baseline", "portable", None),
        ("v3", "portable", "avx2"),
        ("v4", "portable", "avx512bw"),
        ("bf16", "AVX-512-BF16", "avx512_bf16"),
        ("amx", "AMX", "amx_bf16"),
    ],
)
def test_operands_are_rounded_and_nothing_else(tmp_path, isa, instructions, flag):
    if flag is not None and not processor_has(flag):
        pytest.skip(f"this processor has no {flag}")
    refiner = plain_norms(written(tmp_path / "refiner.safetensors", frames=27, dim=96, heads=4, mlp_ratio=3, blocks=2))
    causal = plain_norms(written(tmp_path / "causal.safetensors", frames=5, dim=16, heads=2, mlp_ratio=1, causal=True))
    inputs = windows(1, 2, 27, True)
    for name, part in zip("abc", inputs, strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    words = [sys.executable, "-c", RUN, str(tmp_path), str(refiner), str(causal)]
    environment = {**os.environ, "REFINER_ISA": isa}
    done = subprocess.run(words, check=True, env=environment, timeout=300, capture_output=True, text=True)
    assert done.stdout.strip() == instructions
    for path, result in ((refiner, "windows"), (causal, "frames")):
        exact = open_engine(path, "refiner", FP32)(*inputs)
        assert_rounded_so(np.load(tmp_path / f"{result}.npy"), rounded_reference(path, inputs), exact)


@here
@pytest.mark.parametrize("size", [(16, 2), (48, 2), (64, 8), (128, 8), (256, 8), (192, 16)])
@pytest.mark.parametrize("frames", [1, 2, 31])
def test_sizes(tmp_path, size, frames):
    path = plain_norms(
        written(tmp_path / "refiner.safetensors", frames=frames, dim=size[0], heads=size[1], mlp_ratio=5)
    )
    inputs = windows(2, 3, frames, True)
    engine = open_engine(path, "refiner", BF16)
    assert engine.metadata["precision"] == "bf16"
    assert_rounded_so(engine(*inputs), rounded_reference(path, inputs), open_engine(path, "refiner", FP32)(*inputs))


@here
def test_threads_neighbours_and_broken_numbers(tmp_path):
    path = written(tmp_path / "refiner.safetensors", frames=27, dim=64, heads=8)
    inputs = windows(2, 7, 27, True)
    engines = [open_engine(path, "refiner", EngineOptions("native", threads=n, precision="bf16")) for n in (1, 2, 5)]
    results = [engine(*inputs) for engine in engines]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    for window in range(7):
        alone = engines[0](*(part[window : window + 1] for part in inputs))
        np.testing.assert_array_equal(alone[0], results[0][window])
    for value in (np.nan, np.inf):
        inputs[1][1, 4, 6, 0] = value
        spoilt = engines[0](*inputs)
        np.testing.assert_array_equal(np.delete(spoilt, 1, axis=0), np.delete(results[0], 1, axis=0))
        assert np.isnan(spoilt[1]).any()


@here
def test_a_stream_is_the_pass_over_its_sequence(tmp_path):
    path = written(tmp_path / "causal.safetensors", frames=5, causal=True, dim=64, heads=8)
    inputs = windows(8, 1, 30, True)
    whole = open_engine(path, "refiner", BF16)(*inputs)
    stream = open_causal_engine(path, BF16)
    assert stream.metadata["precision"] == "bf16"
    frames = [stream.step(inputs[0][:, frame], inputs[1][:, frame], inputs[2]) for frame in range(30)]
    exact = open_engine(path, "refiner", FP32)(*inputs)
    assert_rounded_so(np.stack(frames, axis=1), whole, exact)


@here
@pytest.mark.parametrize("name", [path.stem for path in sorted(bundled.FOLDER.glob("*.safetensors"))])
def test_bundled_models_stay_within_the_gate(name):
    role = "lifter" if "lifter" in name else "refiner"
    exact, rounded = open_engine(name, role, FP32), open_engine(name, role, BF16)
    pixels, pose, camera = windows(3, 4, exact.frames, exact.rays)
    inputs = (pixels, camera) if role == "lifter" else (pixels, pose, camera)
    difference = rounded(*inputs) - exact(*inputs)
    assert 0 < np.abs(difference).max() < 0.05


@here
def test_the_classes_and_float32_is_the_default():
    assert Refiner.load(precision="bf16").metadata["precision"] == "bf16"
    assert Lifter.load(precision="bf16").metadata["precision"] == "bf16"
    assert Refiner.load().metadata["precision"] == Lifter.load().metadata["precision"] == "fp32"
    for mode in ("causal", "window"):
        stream = StreamingRefiner.load(mode=mode, precision="bf16", image_size=(1000, 1000), focal_length=1100)
        assert stream.metadata["precision"] == "bf16"


def test_refusals(tmp_path, monkeypatch):
    path = written(tmp_path / "refiner.safetensors")
    with pytest.raises(UsageError, match="torch runs checkpoints in fp32, not in bf16; engine='native' runs it so"):
        open_engine(path, "refiner", EngineOptions(precision="bf16"))
    with pytest.raises(UsageError, match="native runs checkpoints in fp32, bf16 or fp16, not in int8; export it"):
        open_engine(path, "refiner", EngineOptions("native", precision="int8"))
    with pytest.raises(UsageError, match="was exported in fp32, not in bf16: export it again with --precision bf16"):
        open_engine(None, "refiner", EngineOptions("onnx", precision="bf16"))
    with pytest.raises(UsageError, match="precision"):
        open_engine(path, "refiner", EngineOptions("native", precision="half"))
    monkeypatch.setattr(_native, "precisions", lambda: ["fp32"])
    for load in (Refiner.load, Lifter.load):
        with pytest.raises(UsageError, match=r"no instructions for bf16.*precision='fp32' runs everywhere"):
            load(precision="bf16")
