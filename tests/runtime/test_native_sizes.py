"""Networks of every size that the native engine has kernels for, in every instruction set of this processor.

PyTorch is the reference. Whatever size `check_size` allows comes into the tables by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refiner import _native
from refiner.diffusion.ddim import ddim_schedule
from refiner.diffusion.schedule import cosine_schedule
from refiner.errors import UsageError
from refiner.rays import placed, seen_by_network, turned
from refiner.runtime.native import network
from refiner.runtime.native.checkpoint import Refinement
from refiner.runtime.native.network import check_size

DIMS = (64, 72, 96, 128, 160, 192, 256, 320, 384, 512)
SOURCE = Path(__file__).parents[2] / "csrc" / "include" / "isa.h"
# What REFINER_ISA can force; "" is the newest instruction set of this processor.
FORCED = re.findall(r'strcmp\(wanted, "(\w+)"\)', SOURCE.read_text(encoding="utf-8")) if SOURCE.is_file() else []
ISAS = ["", *(FORCED or ["baseline", "v3"])]


def has_kernel(dim: int, heads: int) -> bool:
    try:
        check_size(dim, heads, "")
    except UsageError:
        return False
    return True


SIZES = [(dim, heads) for dim in DIMS for heads in range(1, 17) if has_kernel(dim, heads)]


def drawn(seed: int, sizes, most_frames: int, most_batch: int, most_tokens: int):
    """A case for every size and both kinds of attention: ``(dim, heads, frames, batch, causal)``."""
    rng = np.random.default_rng(seed)
    cases = []
    for dim, heads in sizes:
        for causal in (False, True):
            # Short sequences as often as long ones.
            frames = int(np.exp(rng.uniform(0, np.log(most_frames + 0.99))))
            frames = max(frames, 3) if causal else frames
            batch = int(rng.integers(1, most_batch + 1))
            cases.append((dim, heads, frames, max(1, min(batch, most_tokens // frames)), causal))
    return cases


QUICK = drawn(0, [size for size in SIZES if size[0] <= 128], 24, 4, 48)
SLOW = [*drawn(1, SIZES, 300, 9, 400), (64, 8, 300, 9, False), (256, 8, 243, 2, False), (512, 16, 300, 1, True)]


def title(case) -> str:
    return "C{} H{} T{} B{}{}".format(*case[:4], " causal" if case[4] else "")


def test_the_tables_reach_the_ends_of_the_ranges():
    dims, heads, frames, batches, causal = (set(column) for column in zip(*SLOW, *QUICK, strict=False))
    assert {64, 128, 256, 512} <= dims and heads == {heads for _, heads in SIZES} >= {2, 4, 8, 16}
    assert min(frames) <= 2 and max(frames) == 300 and min(batches) == 1 and max(batches) == 9 and len(causal) == 2


# What needs no PyTorch. The sanitizers run these tests too.


def random_network(dim: int, heads: int, causal: bool, frames: int, seed: int = 0):
    """A denoiser of one block and two steps, whose every weight counts."""
    model = {"dim": dim, "heads": heads, "blocks": 1, "mlp_ratio": 2, "joint_embedding": True}
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in network.denoiser_shapes(model).items():
        spread = 0.5 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        weights[name] = rng.normal(0, spread, shape).astype(np.float32)
    return network.denoiser(weights, model, (40, 10), frames if causal else 0)


def features(seed: int, batch: int, frames: int):
    return np.random.default_rng(seed).normal(size=(batch, frames, 17, 5)).astype(np.float32)


def run(net, step: int, given, threads: int):
    output = np.full((*given.shape[:-1], 3), np.nan, np.float32)
    net.windows(step, given, output, threads)
    return output


@pytest.mark.parametrize("case", QUICK, ids=title)
def test_threads_and_neighbours_change_no_bit(case):
    check_threads(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=title)
def test_threads_and_neighbours_change_no_bit_in_large_networks(case):
    check_threads(case)


def check_threads(case):
    dim, heads, frames, batch, causal = case
    net = random_network(dim, heads, causal, frames)
    given = features(1, batch, 2 * frames if causal else frames)
    expected = [run(net, step, given, 1) for step in (0, 1)]
    assert np.isfinite(expected).all() and not np.array_equal(*expected)
    for step in (0, 1):
        for threads in (2, 3):
            np.testing.assert_array_equal(run(net, step, given, threads), expected[step])
        for index in {0, batch - 1}:
            np.testing.assert_array_equal(run(net, step, given[index : index + 1], 2)[0], expected[step][index])
    # What is not a number stays with its window.
    given[-1, frames // 2, 3, 1] = np.nan
    spoilt = run(net, 0, given, 2)
    np.testing.assert_array_equal(spoilt[:-1], expected[0][:-1])
    assert np.isnan(spoilt[-1]).any()


@pytest.mark.parametrize("case", [case for case in QUICK if case[4]], ids=title)
def test_streams_equal_windows(case):
    check_streams(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in SLOW if case[4]], ids=title)
def test_long_streams_equal_windows(case):
    check_streams(case)


def check_streams(case):
    """Each frame of a stream is that of the pass over its whole sequence, for 1 and 2 threads the same bits."""
    dim, heads, frames, batch, _ = case
    net = random_network(dim, heads, True, frames)
    schedule = ddim_schedule(2, cosine_schedule(50, 0.008), "zero")
    scale = np.full((17, 3), 0.05, np.float32)
    length = frames + min(frames, 20) + 5
    rng = np.random.default_rng(2)
    pixels = rng.uniform(200, 800, (batch, length, 17, 2)).astype(np.float32)
    pose = rng.normal(0, 0.4, (batch, length, 17, 3)).astype(np.float32)
    lens = np.full((batch, 2), 1000.0, np.float32)
    seen, rotation = seen_by_network(pixels, lens, False)
    start, root = turned(pose - pose[..., :1, :], rotation), pose[..., :1, :]
    refinement = Refinement(schedule, scale, None, None)
    refined = refinement.denoised(start, lambda step, now: run(net, step, np.concatenate([seen, now], axis=-1), 1))
    expected = placed(refined, rotation, root)
    found = []
    for threads in (1, 2):
        steps = np.array([step[1:] for step in schedule], np.float32)
        nothing = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
        streams = _native.CausalStreams(net, batch, False, False, steps, scale, *nothing)
        counts, active = np.zeros(batch, np.int64), np.ones(batch, np.bool_)
        output = np.zeros((batch, 17, 3), np.float32)
        stream = []
        for frame in range(length):
            now = (np.ascontiguousarray(part[:, frame]) for part in (pixels, pose))
            streams.step(*now, lens, counts, active, output, threads)
            counts += 1
            stream.append(output.copy())
        found.append(np.stack(stream, axis=1))
    np.testing.assert_array_equal(found[1], found[0])
    largest = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-5 * largest)
    assert np.abs(expected - pose).max() > 1e-3


# Against PyTorch.

CHILD = """
import sys
from pathlib import Path
import numpy as np
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_engine

for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    given = np.load(path)
    inputs = [given[name] for name in ("keypoints", "pose", "lens")]
    results = [
        open_engine(path.with_suffix(".safetensors"), "refiner", EngineOptions("native", threads=threads))(*inputs)
        for threads in (1, 2)
    ]
    assert np.array_equal(*results, equal_nan=True), path
    np.save(path.with_suffix(".npy"), results[0])
"""


def check_against_pytorch(folder: Path, cases) -> None:
    if "REFINER_INSTRUMENTED" in os.environ:
        pytest.skip("a sanitizer is at work: other processes run another module")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: there is no reference")
    from native_models import assert_close, windows, written

    from refiner.engines import EngineOptions
    from refiner.runtime.loading import open_engine

    torch.set_num_threads(1)
    expected = {}
    for number, (dim, heads, frames, batch, causal) in enumerate(cases):
        path = folder / f"{number:03}.safetensors"
        written(path, seed=number, frames=frames, dim=dim, heads=heads, causal=causal)
        # A causal network takes more frames than it sees.
        inputs = windows(number, batch, frames + min(frames, 30) if causal else frames, True)
        np.savez(path.with_suffix(".npz"), **dict(zip(("keypoints", "pose", "lens"), inputs, strict=True)))
        expected[path] = open_engine(path, "refiner", EngineOptions("torch"))(*inputs)
        assert np.abs(expected[path] - inputs[1]).max() > 1e-4
    for isa in ISAS:
        words = [sys.executable, "-W", "ignore", "-c", CHILD, str(folder)]
        subprocess.run(words, check=True, env={**os.environ, "REFINER_ISA": isa}, timeout=1800)
        for path, reference in expected.items():
            result = path.with_suffix(".npy")
            assert_close(np.load(result), reference)
            result.unlink()


def test_networks_equal_pytorch_in_every_instruction_set(tmp_path):
    check_against_pytorch(tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_large_networks_equal_pytorch_in_every_instruction_set(tmp_path, part):
    check_against_pytorch(tmp_path, SLOW[part::4])
