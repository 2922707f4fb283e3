"""The native engine's memory: kept between calls, given back afterwards; threads, forks and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from refiner import bundled
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_causal_engine
from refiner.runtime.native.window import NativeEngine

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork and /proc as Linux has them")

REFINER = bundled.default_checkpoint("refiner")
# Calls after which a network gives back what none of them needed (csrc/bindings/workspaces.h).
PERIOD = 64
FLOATS_OF_A_TOKEN = 5

PRELUDE = """
import gc, os, signal, sys, threading
import numpy as np
from refiner import bundled
from refiner.engines import EngineOptions
from refiner.runtime.loading import open_causal_engine, open_engine

signal.alarm(100)
REFINER = bundled.default_checkpoint("refiner")
rng = np.random.default_rng(0)

def opened(threads=1):
    return open_engine(REFINER, "refiner", EngineOptions("native", threads=threads))

def windows(batch, engine):
    pixels = rng.normal(500, 80, (batch, engine.frames, 17, 3)).astype(np.float32)
    pixels[..., 2] = 1.0
    pose = rng.normal(2, 0.4, (batch, engine.frames, 17, 3)).astype(np.float32)
    return pixels, pose, np.tile(np.float32([1000, 1000, 1100]), (batch, 1))

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
"""


def in_a_process(program: str) -> str:
    """What a program prints that runs in a process of its own."""
    if "REFINER_INSTRUMENTED" in os.environ:
        pytest.skip("a sanitizer is at work: it keeps memory, and other processes run another module")
    words = [sys.executable, "-W", "ignore", "-c", PRELUDE + program]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def windows(seed: int, batch: int, engine: NativeEngine) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(500, 80, (batch, engine.frames, 17, 3)).astype(np.float32)
    pixels[..., 2] = 1.0
    pose = rng.normal(2, 0.4, (batch, engine.frames, 17, 3)).astype(np.float32)
    return pixels, pose, np.tile(np.float32([1000, 1000, 1100]), (batch, 1))


def opened(threads: int = 1) -> NativeEngine:
    return NativeEngine(REFINER, "refiner", threads=threads)


def floats(engine: NativeEngine, batch: int) -> int:
    """The floats that a call of so many windows needs."""
    return FLOATS_OF_A_TOKEN * batch * engine.frames * 17 * int(engine.metadata["model"]["dim"])


def test_memory_of_a_large_call_is_given_back():
    engine = opened()
    network = engine._network
    small, large = windows(0, 1, engine), windows(1, 8, engine)
    expected = engine(*small)
    assert network.workspace_floats == floats(engine, 1)
    engine(*large)
    assert network.workspace_floats == floats(engine, 8)
    for _ in range(2 * PERIOD):
        np.testing.assert_array_equal(engine(*small), expected)
    assert network.workspace_floats == floats(engine, 1)


def test_calls_of_changing_sizes_keep_their_memory():
    engine = opened()
    for call in range(2 * PERIOD):
        engine(*windows(call, 4 if call % 9 == 0 else 1, engine))
        assert engine._network.workspace_floats == floats(engine, 4)


def test_memory_of_calls_at_the_same_time_is_given_back():
    engine = opened()
    task = windows(0, 2, engine)
    expected = engine(*task)
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        barrier.wait()
        return all(np.array_equal(engine(*task), expected) for _ in range(8))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(work, range(8)))
    assert floats(engine, 2) <= engine._network.workspace_floats <= 8 * floats(engine, 2)
    for _ in range(2 * PERIOD):
        engine(*task)
    assert engine._network.workspace_floats == floats(engine, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_several_engines_in_eight_threads(threads):
    """Windows and streams of different networks, in one process, at the same time."""
    names = [path for path in sorted(bundled.FOLDER.glob("*.safetensors")) if "lifter" not in path.stem]
    engines = [NativeEngine(path, "refiner", threads=threads) for path in names]
    engines = [engine for engine in engines if engine.rays]
    assert len(engines) > 1
    tasks = [windows(seed, 1 + seed % 3, engine) for seed, engine in enumerate(engines)]
    expected = [engine(*task) for engine, task in zip(engines, tasks, strict=True)]

    def frames(seed: int) -> np.ndarray:
        stream = open_causal_engine(None, EngineOptions("native", threads=threads))
        pixels, pose, lens = windows(seed, 1, engines[0])
        return np.stack([stream.step(pixels[:, t], pose[:, t], lens) for t in range(9)])

    stepped = [frames(seed) for seed in range(2)]

    def work(first: int) -> bool:
        right = True
        for index in range(first, first + 12):
            chosen = index % len(engines)
            right &= np.array_equal(engines[chosen](*tasks[chosen]), expected[chosen])
            right &= index % 6 != 0 or np.array_equal(frames(index % 2), stepped[index % 2])
        return right

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(work, range(8)))


def test_a_forked_child_calls_the_engine():
    """Children are forked while other threads of the parent are inside calls, of which the child has none."""
    in_a_process("""
engine = opened(2)
task = windows(3, engine)
expected = engine(*task)
stop = threading.Event()
def work():
    while not stop.is_set():
        engine(*task)
callers = [threading.Thread(target=work) for _ in range(3)]
for caller in callers:
    caller.start()
for _ in range(12):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        right = all(np.array_equal(engine(*task), expected) for _ in range(3))
        right &= np.array_equal(opened(2)(*task), expected)
        os._exit(0 if right else 3)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for caller in callers:
    caller.join()
assert np.array_equal(engine(*task), expected)
""")


def test_engines_that_are_dropped_give_their_memory_back():
    """100 engines with a call each: what stays is less than what three of them need."""
    printed = in_a_process("""
def one():
    engine = opened()
    engine(*windows(6, engine))
one()
before = resident()
kept = [opened() for _ in range(4)]
for engine in kept:
    engine(*windows(6, engine))
four = resident() - before
del engine, kept
after_four = resident()
for _ in range(100):
    one()
print(four, resident() - after_four)
""")
    four, grown = map(float, printed.split())
    assert four > 4 * 2
    assert grown < 3 * four / 4


def test_threads_that_end_give_their_memory_back():
    """Scratch memory belongs to a thread: 200 threads, one after the other, leave less than 25 of them would keep."""
    grown = in_a_process("""
engine = opened()
task = windows(1, engine)
def one():
    caller = threading.Thread(target=lambda: engine(*task))
    caller.start()
    caller.join()
for _ in range(20):
    one()
before = resident()
for _ in range(200):
    one()
print(resident() - before)
""")
    assert float(grown) < 25 * 0.03


@pytest.mark.parametrize(
    "program",
    [
        "opened(2)(*windows(2, opened()))",
        "engine = opened(2); engine(*windows(2, engine)); del engine",
    ],
    ids=["after a call", "after the engine was dropped"],
)
def test_a_process_ends_cleanly(program):
    assert in_a_process(program) == ""


@pytest.mark.parametrize(
    "caller",
    [
        "engine, task = opened(), windows(2, opened()); return lambda: engine(*task)",
        "stream, task = open_causal_engine(None, EngineOptions('native')), windows(1, opened());"
        " return lambda: stream.step(task[0][:, 0], task[1][:, 0], task[2])",
        "poses = rng.normal(size=(100, 17, 3)); return lambda: native.p_mpjpe(poses, poses[::-1], threads=1)",
        "return lambda: native.philox_normal(0, 0, 100, 51, threads=1)",
    ],
    ids=["windows", "frames", "alignment", "sampling"],
)
def test_a_process_ends_cleanly_during_calls(caller):
    """Threads that are inside kernels when the interpreter ends do not abort the process."""
    program = f"""
from refiner import native
def caller():
    {caller}
begun = [threading.Event() for _ in range(6)]
def work(call, own):
    while True:
        call()
        own.set()
for own in begun:
    threading.Thread(target=work, args=(caller(), own), daemon=True).start()
for own in begun:
    own.wait()
"""
    for _ in range(4):
        assert in_a_process(program) == ""
