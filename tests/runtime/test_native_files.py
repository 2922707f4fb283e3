"""Checkpoints as bytes: the types of tensors, and damage that no hash finds."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: there is no reference")

import torch
from native_models import assert_close, windows, written

from refiner.engines import EngineOptions
from refiner.errors import CheckpointError, ConfigError, RefinerError, UsageError
from refiner.model_files.arrays import load_arrays
from refiner.runtime.loading import open_engine

NATIVE = EngineOptions("native", threads=1)


def without_hashes(path, target, change=lambda tensors: tensors):
    """A copy of a checkpoint without hashes, so that nothing but the reader judges it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as opened:
        metadata, names = opened.metadata(), list(opened.keys())
        tensors = {name: opened.get_tensor(name) for name in names}
    save_file(change(tensors), target, {name: metadata[name] for name in ("format", "version", "config")})
    return target


def header_of(content: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def framed(header: dict | bytes, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return without_hashes(written(folder / "hashed.safetensors"), folder / "plain.safetensors")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_other_types_are_read(tmp_path, plain, kind):
    """The weights are those that PyTorch reads: the network runs in float32 whatever they were stored in."""

    def stored(tensors):
        return {
            name: value.to(kind) if name.startswith("model.") and value.is_floating_point() else value
            for name, value in tensors.items()
        }

    path = without_hashes(plain, tmp_path / "other.safetensors", stored)
    read = load_arrays(path)
    from refiner.model_files.checkpoint import load_checkpoint

    for name, tensor in load_checkpoint(path).tensors.items():
        np.testing.assert_array_equal(
            read.arrays[name], tensor.to(torch.float32 if kind == torch.bfloat16 else tensor.dtype)
        )
    inputs = windows(0, 2, 9, True)
    rounded = without_hashes(
        path, tmp_path / "rounded.safetensors", lambda tensors: {name: t.float() for name, t in tensors.items()}
    )
    result = open_engine(path, "refiner", NATIVE)(*inputs)
    np.testing.assert_array_equal(result, open_engine(rounded, "refiner", NATIVE)(*inputs))
    assert_close(result, open_engine(rounded, "refiner", EngineOptions("torch"))(*inputs))


def test_awkward_bfloat16(tmp_path, plain):
    values = torch.tensor([0.0, -0.0, 1e-40, 3.0e38, float("inf"), -float("inf"), float("nan"), 1.0 + 2**-7])
    kept = values.to(torch.bfloat16)
    path = without_hashes(plain, tmp_path / "odd.safetensors", lambda tensors: tensors | {"odd": kept.reshape(2, 1, 4)})
    found = load_arrays(path).arrays["odd"]
    assert found.dtype == np.float32 and found.shape == (2, 1, 4)
    np.testing.assert_array_equal(found.view(np.uint32), kept.float().reshape(2, 1, 4).numpy().view(np.uint32))


@pytest.mark.parametrize("kind", [torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_type_that_is_not_read_is_named(tmp_path, plain, kind):
    path = without_hashes(
        plain, tmp_path / "other.safetensors", lambda tensors: tensors | {"odd": torch.ones(4).to(kind)}
    )
    name = {torch.bool: "BOOL", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3"}[kind]
    with pytest.raises(CheckpointError, match=f"the type '{name}'; this refiner reads F64, F32, F16, .*BF16"):
        open_engine(path, "refiner", NATIVE)


# Damage that reaches the reader, since the file has no hashes.


@pytest.mark.parametrize("kept", [0, 5, 8, 100, -1, -5000])
def test_truncated(tmp_path, plain, kept):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(plain.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"truncated|copy it again"):
        open_engine(damaged, "refiner", NATIVE)


def entry_changes(size):
    """Changes of a tensor's entry in the header, all of which are wrong. ``size``: the bytes of all tensors."""
    return {
        "no shape": lambda entry: entry.pop("shape"),
        "no type": lambda entry: entry.pop("dtype"),
        "no offsets": lambda entry: entry.pop("data_offsets"),
        "unknown type": lambda entry: entry.update(dtype="F31"),
        "a type that is a list": lambda entry: entry.update(dtype=["F32"]),
        "another type": lambda entry: entry.update(dtype="F64"),
        "offsets that cross": lambda entry: entry.update(data_offsets=entry["data_offsets"][::-1]),
        "offsets before the file": lambda entry: entry.update(
            data_offsets=[-4 * (entry["data_offsets"][1] - entry["data_offsets"][0]), 0]
        ),
        "offsets behind the file": lambda entry: entry.update(
            data_offsets=[size, size + entry["data_offsets"][1] - entry["data_offsets"][0]]
        ),
        "huge offsets": lambda entry: entry.update(data_offsets=[0, 10**400]),
        "three offsets": lambda entry: entry.update(data_offsets=[0, 1, 2]),
        "offsets that are text": lambda entry: entry.update(data_offsets=["a", "b"]),
        "a negative shape": lambda entry: entry.update(shape=[-1, -len(entry["shape"])]),
        "a huge shape": lambda entry: entry.update(shape=[2**62, 2**62]),
        "a shape that is a number": lambda entry: entry.update(shape=7),
        "an infinite shape": lambda entry: entry.update(shape=[1e400]),
        "an entry that is a list": lambda entry: None,
    }


@pytest.mark.parametrize("name", entry_changes(0))
@pytest.mark.parametrize("tensor", ["model.pose_emb.weight", "error_scale", "model.blocks.0.stc_first.qkv.weight"])
def test_wrong_entries(tmp_path, plain, name, tensor):
    header, rest = header_of(plain.read_bytes())
    entry_changes(len(rest))[name](header[tensor])
    if name == "an entry that is a list":
        header[tensor] = [1, 2]
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(framed(header, rest))
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
        open_engine(damaged, "refiner", NATIVE)


def test_random_damage_of_the_header_is_refused_or_read(tmp_path, plain):
    """Whatever a changed byte makes of the header: an error of this package, or an engine that runs."""
    whole = plain.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.safetensors"
    inputs = windows(0, 1, 9, True)
    refused = read = 0
    for round_ in range(200):
        changed = bytearray(whole)
        # The configuration fills most of the header; half of the changes go into the entries of the tensors.
        begin = 8 if round_ % 2 else whole.index(b'"error_scale"')
        changed[int(rng.integers(begin, end))] = int(rng.integers(32, 127))
        damaged.write_bytes(bytes(changed))
        try:
            engine = open_engine(damaged, "refiner", NATIVE)
        except (CheckpointError, UsageError, ConfigError):
            refused += 1
            continue
        except RefinerError as error:
            raise AssertionError(f"change {round_} ends in {error!r}") from error
        read += 1
        if engine.frames == 9 and engine.rays:
            assert engine(*inputs).shape == inputs[1].shape
    assert refused > 50 and read > 0


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # NumPy says so of numbers without sense
def test_random_damage_of_the_weights_is_read(tmp_path, plain):
    """Without hashes nothing tells other numbers from these: the result is as large as they are, and no crash."""
    whole = plain.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    inputs = windows(0, 1, 9, True)
    damaged = tmp_path / "damaged.safetensors"
    for _ in range(20):
        changed = bytearray(whole)
        for place in rng.integers(begin, len(whole), 200):
            changed[int(place)] = int(rng.integers(0, 256))
        damaged.write_bytes(bytes(changed))
        try:
            engine = open_engine(damaged, "refiner", NATIVE)
        except (CheckpointError, ConfigError):  # a scale or a trust that is none
            continue
        assert engine(*inputs).shape == inputs[1].shape
