"""Any number of threads may share an engine: every result is, bit for bit, that of one thread alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
from refiner_export.gate import parity_windows

from refiner.engines import CHECKPOINT_SUFFIX, ENGINES, EngineOptions
from refiner.errors import UsageError
from refiner.runtime import Lifter, Refiner, open_causal_engine
from refiner.runtime.loading import open_engine
from refiner.runtime.streaming import StreamingRefiner
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner.runtime.streaming.intake import STANDING
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1000, 1002)
FRAMES = 9
CALLS, CALLERS = 48, 6
# These compile for a minute.
SLOW = ("torch-compile", "aoti")


def rows(causal):
    """The names of all engines, or of those that run causal refiners."""
    names = [name for name, spec in ENGINES.items() if spec.causal is not None or not causal]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


@pytest.fixture(scope="module")
def files(write_checkpoint, export_to, tmp_path_factory):
    """``files(engine, kind)``: the checkpoint or the artefact that the engine runs, made once."""
    made = {}

    def make(engine, kind):
        spec = ENGINES[engine]
        for package in spec.packages:
            module = {"cuda-python": "cuda", "tensorrt-rtx": "tensorrt_rtx"}.get(package, package)
            if find_spec(module) is None:
                pytest.skip(f"{package} is not installed: {engine} cannot run")
        if spec.on_gpu_alone:
            pytest.skip(f"{engine} needs a GPU: tests/gpu runs it")
        key = (spec.suffix, kind)
        if key not in made:
            model = {"dim": 16, "blocks": 1, "heads": 2, "mlp_ratio": 4, "joint_embedding": True}
            changes = {"model": model | {"causal": True}} if kind == "causal" else {}
            checkpoint = write_checkpoint("lifter" if kind == "lifter" else "refiner", frames=FRAMES, **changes)
            made[key] = checkpoint
            if spec.suffix != CHECKPOINT_SUFFIX:
                streams = {"streams": CALLERS} if kind == "causal" else {}
                folder = tmp_path_factory.mktemp("shared")
                made[key] = export_to(folder, checkpoint, engine=engine, windows=10, **streams).path
        return made[key]

    return make


@pytest.fixture(scope="module")
def callers():
    with ThreadPoolExecutor(CALLERS) as pool:
        yield pool


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["refiner", "lifter"])
@pytest.mark.parametrize("engine", rows(causal=False))
def test_windows(files, callers, engine, kind, threads):
    opened = open_engine(files(engine, kind), kind, EngineOptions(engine, threads=threads))
    inputs = []
    for call in range(8):
        pose_2d, pose_3d, size = parity_windows(1 + call % 3, FRAMES, seed=call)
        inputs.append((pose_2d, pose_3d, size) if kind == "refiner" else (pose_2d, size))
    expected = [opened(*arrays) for arrays in inputs]
    assert len({part.tobytes() for part in expected}) == len(inputs)
    found = list(callers.map(lambda call: opened(*inputs[call % 8]), range(CALLS)))
    for call, part in enumerate(found):
        np.testing.assert_array_equal(part, expected[call % 8])


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_refiners_and_lifters(files, callers, engine):
    """What the trial showed: one `Refiner`, many threads."""
    refiner, lifter = Refiner.load(files(engine, "refiner")), Lifter.load(files(engine, "lifter"))
    pose_2d, pose_3d = (part.reshape(-1, 17, part.shape[-1]) for part in parity_windows(6, FRAMES, seed=1)[:2])
    parts = [slice(start, start + 20 + start) for start in range(8)]
    refined = [refiner.refine(pose_2d[part], pose_3d[part], SIZE) for part in parts]
    lifted = [lifter.lift(pose_2d[part], SIZE) for part in parts]

    def call(number):
        part = parts[number % 8]
        return refiner.refine(pose_2d[part], pose_3d[part], SIZE), lifter.lift(pose_2d[part], SIZE)

    for number, found in enumerate(callers.map(call, range(CALLS))):
        np.testing.assert_array_equal(found[0], refined[number % 8])
        np.testing.assert_array_equal(found[1], lifted[number % 8])


# Run with the name of an engine and its file.
DROPPED = """
import os, signal, sys, threading
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_engine

opened = [open_engine(sys.argv[2], "refiner", EngineOptions(sys.argv[1], threads=1))]
drop = threading.Thread(target=opened.clear)
drop.start()
drop.join()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("engine", rows(causal=False))
def test_a_signal_after_another_thread_dropped_the_engine(files, engine):
    command = [sys.executable, "-c", DROPPED, engine, str(files(engine, "refiner"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


def walk(stream):
    rng = np.random.default_rng(stream)
    # A person, and not joints anywhere: those may look like a person in another joint order.
    poses = STANDING + np.cumsum(rng.normal(0, 0.01, (20, 17, 3)), axis=0)
    return (500 + 200 * poses[..., :2]).astype(np.float32), poses.astype(np.float32)


@pytest.mark.parametrize("engine", rows(causal=True))
def test_streams_of_one_causal_engine(files, callers, engine):
    """Each thread has a stream of its own in one engine."""
    file = files(engine, "causal")
    steps = [walk(stream) for stream in range(CALLERS)]
    sizes = np.tile(np.array(SIZE, np.float32), (CALLERS, 1))

    def run(opened, stream):
        active = np.arange(CALLERS) == stream
        pose_2d, pose_3d = np.ones((CALLERS, 17, 2), np.float32), np.ones((CALLERS, 17, 3), np.float32)
        out = []
        for pixels, pose in zip(*steps[stream], strict=True):
            pose_2d[stream], pose_3d[stream] = pixels, pose
            out.append(opened.step(pose_2d, pose_3d, sizes, active)[stream])
        return np.stack(out)

    options = EngineOptions(engine, streams=CALLERS, threads=1)
    alone = open_causal_engine(file, options)
    expected = [run(alone, stream) for stream in range(CALLERS)]
    shared = open_causal_engine(file, options)
    found = list(callers.map(lambda stream: run(shared, stream), range(CALLERS)))
    for one, other in zip(found, expected, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


def streamed(live, stream):
    pixels, poses = walk(stream)
    frames = [live.push(*frame, index / 50) for index, frame in enumerate(zip(pixels, poses, strict=True))]
    return np.stack([frame.pose_3d for ready in [*frames, live.flush()] for frame in ready])


@pytest.mark.parametrize("engine", rows(causal=False))
def test_window_streams_share_an_engine(files, callers, engine):
    opened = open_engine(files(engine, "refiner"), "refiner", EngineOptions(engine, threads=1))
    lives = [StreamingRefiner(WindowBackend(opened), SIZE) for _ in range(2 * CALLERS)]
    expected = [streamed(live, stream) for stream, live in enumerate(lives[:CALLERS])]
    for stream, poses in enumerate(callers.map(streamed, lives[CALLERS:], range(CALLERS))):
        np.testing.assert_array_equal(poses, expected[stream])


def test_two_streams_cannot_share_the_memory_of_a_causal_engine(files):
    opened = open_causal_engine(files("torch", "causal"), EngineOptions(threads=1))
    first = StreamingRefiner(CausalBackend(opened), SIZE)
    expected = streamed(first, 1)
    first.push(*(part[0] for part in walk(2)), 0.0)
    with pytest.raises(UsageError, match="another stream uses this engine"):
        CausalBackend(opened)
    del first
    # The next owner finds no memory of the one before.
    np.testing.assert_array_equal(streamed(StreamingRefiner(CausalBackend(opened), SIZE), 1), expected)


@pytest.mark.parametrize(("threads", "policy", "expected"), [(2, "", 2), (None, "", 1), (None, "passive", 3)])
def test_an_engine_leaves_the_threads_of_pytorch_alone(files, monkeypatch, threads, policy, expected):
    """By default one thread runs, unless OpenMP's threads wait without work."""
    import torch

    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    windows = open_engine(files("torch", "refiner"), "refiner", EngineOptions(threads=threads))
    live = open_causal_engine(files("torch", "causal"), EngineOptions(threads=threads))
    before = torch.get_num_threads()
    seen = []
    count = torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(3)
    try:
        windows(*parity_windows(1, FRAMES, seed=1))
        assert set(seen) == {expected} and torch.get_num_threads() == 3
        seen.clear()
        live.step(np.ones((1, 17, 2)), np.ones((1, 17, 3)), np.ones((1, 2)))
        assert set(seen) == {expected} and torch.get_num_threads() == 3
    finally:
        count.remove()
        torch.set_num_threads(before)
