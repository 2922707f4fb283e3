"""The code of the CUDA kernels, run on the host by an emulator of blocks and warps (`tests/native/simt`)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from refiner_bench.gpu.random_network import errors_of, random_denoiser, random_lifter

from refiner import native

if not native.features()["built"]:
    pytest.skip("the compiled module is missing", allow_module_level=True)
from refiner import _native

COMPILER = shutil.which("g++") or shutil.which("clang++")
if COMPILER is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

ROOT = Path(__file__).parents[2]
OPTIONS = ["-std=c++17", "-O2", "-g1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror"]
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc/include", "csrc/cuda", "tests/native/simt")]
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiled(folder, name):
    target = folder / name
    source = ROOT / "tests" / "native" / "simt" / f"{name}.cpp"
    for checks in (CHECKS, []):  # some compilers come without the libraries of the sanitizers
        run = subprocess.run(
            [COMPILER, *OPTIONS, *INCLUDES, *checks, str(source), "-o", str(target)], capture_output=True, text=True
        )
        if run.returncode == 0:
            return target
        if "asan" not in run.stderr and "ubsan" not in run.stderr:
            break
    raise AssertionError(run.stderr)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("simt"), "network")


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("simt"), "sampling")


def answer(program, parts):
    """The float32 numbers that a program writes for these arrays."""
    data = b"".join(
        np.ascontiguousarray(part, np.int64 if part.dtype == np.int64 else np.float32).tobytes() for part in parts
    )
    run = subprocess.run([str(program)], input=data, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    return np.frombuffer(run.stdout, np.float32)


class Recorded:
    """Takes the calls of `refiner._native.StcNetwork`; runs windows on the emulated grid and on the CPU's kernels."""

    def __init__(self, features, dim, heads, joints, band, steps, gelu, precision):
        self.sizes = [features, dim, heads, joints, band, steps, int(gelu)]
        self.reference = REFERENCE(features, dim, heads, joints, band, steps, gelu)
        self.outer, self.layers = [], []

    def embedding(self, *arrays):
        self.reference.embedding(*arrays)
        self.outer += arrays

    def attention(self, *arrays):
        self.reference.attention(*arrays)
        self.layers.append((0, arrays))

    def mlp(self, *arrays):
        self.reference.mlp(*arrays)
        self.layers.append((len(arrays[0]), arrays))

    def head(self, weight):
        self.reference.head(weight)
        self.outer.append(weight)

    def expected(self, step, features):
        output = np.empty((*features.shape[:3], 3), np.float32)
        self.reference.windows(step, features, output, 1)
        return output

    def emulated(self, program, step, features, rows=16, blocks=2, threads=64, seed=0):
        batch, frames = features.shape[:2]
        parts = [np.int64([*self.sizes, len(self.layers), batch, frames, step, rows, blocks, threads, seed])]
        parts += self.outer[:2]
        for hidden, arrays in self.layers:
            parts += [np.int64([hidden]), *arrays]
        parts += [self.outer[2], features]
        return answer(program, parts).reshape(*features.shape[:3], 3)


REFERENCE = _native.StcNetwork


def network_of(monkeypatch, role, dim, heads, **more):
    monkeypatch.setattr(_native, "StcNetwork", Recorded)
    return (random_lifter if role == "lifter" else random_denoiser)(dim, heads, **more)


def features_of(recorded, batch, frames, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.5, (batch, frames, 17, recorded.sizes[0])).astype(np.float32)


def assert_half(found, expected):
    """The error of half precision: on the whole a few roundings, and nowhere more than many."""
    assert np.isfinite(found).all() and np.sqrt(np.mean(np.square(expected))) > 0.05
    mean, largest = errors_of(found, expected)
    assert mean < 4 and largest < 32


CASES = [
    # role, C, heads, batch, frames, rows of a tile, blocks, threads, band
    ("denoiser", 64, 8, 1, 9, 16, 3, 64, 0),
    ("denoiser", 64, 8, 3, 3, 32, 2, 128, 0),
    ("denoiser", 64, 8, 2, 5, 64, 2, 64, 0),
    ("denoiser", 64, 2, 1, 4, 16, 1, 32, 0),
    ("denoiser", 32, 8, 2, 3, 32, 3, 64, 0),
    ("denoiser", 96, 8, 1, 4, 64, 2, 96, 0),
    ("denoiser", 64, 4, 1, 7, 16, 2, 128, 3),
    ("lifter", 64, 8, 2, 5, 16, 4, 64, 0),
    ("lifter", 96, 4, 1, 1, 32, 1, 64, 0),
    ("lifter", 192, 16, 1, 3, 16, 2, 256, 0),
]


@pytest.mark.parametrize(("role", "dim", "heads", "batch", "frames", "rows", "blocks", "threads", "band"), CASES)
def test_networks_equal_the_cpu_kernels(
    program, monkeypatch, role, dim, heads, batch, frames, rows, blocks, threads, band
):
    more = {"band": band} if role == "denoiser" else {}
    recorded = network_of(monkeypatch, role, dim, heads, seed=dim + heads + frames, **more)
    for step in range(2 if role == "denoiser" else 1):
        features = features_of(recorded, batch, frames, seed=step)
        found = recorded.emulated(program, step, features, rows, blocks, threads, seed=step)
        assert_half(found, recorded.expected(step, features))


def test_long_windows_wide_networks_and_an_mlp_of_several_parts(program, monkeypatch):
    """A hidden layer of 3 x 96 = 288 channels takes two parts, the second one of 32."""
    recorded = network_of(monkeypatch, "denoiser", 96, 8, seed=5, ratio=3, mlps=2)
    features = features_of(recorded, 1, 30, seed=6)
    assert_half(recorded.emulated(program, 1, features, 32, 3, 64), recorded.expected(1, features))


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_the_result_depends_on_no_block_thread_or_neighbour(program, monkeypatch, rows):
    """Bit for bit: the number of blocks and threads, the order in which they run, and the other windows."""
    recorded = network_of(monkeypatch, "denoiser", 64, 8, seed=7)
    features = features_of(recorded, 3, 3, seed=8)
    whole = recorded.emulated(program, 0, features, rows, 2, 64, seed=1)
    np.testing.assert_array_equal(recorded.emulated(program, 0, features, rows, 5, 128, seed=2), whole)
    np.testing.assert_array_equal(recorded.emulated(program, 0, features[1:2], rows, 1, 32), whole[1:2])


@pytest.mark.parametrize("rows", [16, 64])
def test_nan_and_infinity_stay_in_their_window(program, monkeypatch, rows):
    recorded = network_of(monkeypatch, "denoiser", 64, 8, seed=9)
    features = features_of(recorded, 3, 3, seed=10)
    whole = recorded.emulated(program, 0, features, rows)
    for value in (np.nan, np.inf):
        broken = features.copy()
        broken[1, 2, 16, 3] = value  # the last token of its window
        found = recorded.emulated(program, 0, broken, rows)
        np.testing.assert_array_equal(found[[0, 2]], whole[[0, 2]])
        assert np.isnan(found[1]).any()


@pytest.mark.parametrize("weight", [7e4, np.nan])
def test_weights_beyond_half_precision_are_refused(program, monkeypatch, weight):
    recorded = network_of(monkeypatch, "lifter", 64, 8, seed=0)
    recorded.layers[0][1][0][5, 6] = weight
    with pytest.raises(AssertionError, match="a weight of qkv is no finite number of half precision"):
        recorded.emulated(program, 0, features_of(recorded, 1, 2, seed=0))


@pytest.mark.parametrize(("frames", "size", "inputs"), [(1, 1, 1), (9, 51, 85), (6, 32, 64), (5, 300, 33)])
@pytest.mark.parametrize("named", [False, True])
def test_the_sampler_equals_the_cpu_kernel(sampler, frames, size, inputs, named):
    rng = np.random.default_rng(frames + size)
    condition, clean, *factors = (
        rng.normal(size=shape).astype(np.float32) for shape in ((frames, inputs), (frames, size), frames, frames)
    )
    cholesky = np.tril(rng.normal(size=(size, size))) / np.sqrt(size)
    gaussian = {
        "mean_error": rng.normal(size=size).astype(np.float32),
        "mean_condition": rng.normal(size=inputs).astype(np.float32),
        "gain": (rng.normal(size=(size, inputs)) / np.sqrt(inputs)).astype(np.float32),
        "cholesky": cholesky.astype(np.float32),
    }
    ids = rng.permutation(frames) + 2**40
    choice = {"frame_ids": ids} if named else {"first_frame": 2**33}
    expected = native.diffuse(condition, clean, *factors, **gaussian, seed=5, threads=1, **choice)
    # The kernel reads nothing above the diagonal.
    gaussian["cholesky"] = np.where(np.tri(size, dtype=bool), gaussian["cholesky"], np.float32(np.nan))
    parts = [np.int64([frames, size, inputs, 5, 2**33, int(named), size]), *gaussian.values(), condition, clean]
    found = answer(sampler, [*parts, *factors, *([ids] if named else [])]).reshape(2, frames, size)
    for there, here in zip(found, expected, strict=True):
        np.testing.assert_allclose(there, here, atol=2e-5)
