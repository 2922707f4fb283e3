"""What surrounds a recorded graph: inputs copied in, results copied out, one recording for each batch size."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from refiner.runtime import replay
from refiner.runtime.replay import GraphReplay

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

RNG = np.random.default_rng(31)


def combine(first, second):
    return first.sum(dim=(2, 3)) * 2 - second[:, :1]


def expected(first, second):
    return first.sum(axis=(2, 3)) * 2 - second[:, :1]


def arrays(batch):
    first = RNG.normal(size=(batch, 5, 17, 2)).astype(np.float32)
    return first, RNG.normal(size=(batch, 2)).astype(np.float32)


class Recorder:
    """As a CUDA graph: a replay reads and writes the memory of the recording, and runs nothing of Python's."""

    def __init__(self):
        self.recorded = self.replays = 0

    def __call__(self, run):
        self.recorded += 1
        output = run().clone()

        def again():
            self.replays += 1
            output.copy_(run())

        return again, output


def test_each_batch_size_is_recorded_once():
    recorder = Recorder()
    run = GraphReplay(combine, "cpu", recorder)
    results = []
    for batch in (1, 3, 1, 3, 3):
        inputs = arrays(batch)
        results.append((run(*inputs), expected(*inputs)))
    # All of them at the end: no replay wrote into what an earlier call returned.
    for found, wanted in results:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert (recorder.recorded, recorder.replays) == (2, 5)


def test_the_oldest_recording_goes(monkeypatch):
    monkeypatch.setattr(replay, "MOST_GRAPHS", 2)
    recorder = Recorder()
    run = GraphReplay(combine, "cpu", recorder)
    for batch in (1, 2, 1, 3, 1, 2):  # 3 pushes 2 out, which was used longer ago than 1
        inputs = arrays(batch)
        np.testing.assert_allclose(run(*inputs), expected(*inputs), rtol=1e-5, atol=1e-5)
    assert recorder.recorded == 4


def test_the_callers_arrays_are_not_kept():
    run = GraphReplay(combine, "cpu", Recorder())
    inputs = arrays(2)
    kept = [array.copy() for array in inputs]
    run(*inputs)
    other = arrays(2)
    run(*other)
    for before, after in zip(kept, inputs, strict=True):
        np.testing.assert_array_equal(before, after)


def test_threads_wait_for_each_other():
    run = GraphReplay(combine, "cpu", Recorder())
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            first = rng.normal(size=(2, 5, 17, 2)).astype(np.float32)
            second = rng.normal(size=(2, 2)).astype(np.float32)
            if not np.allclose(run(first, second), expected(first, second), atol=1e-4):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
