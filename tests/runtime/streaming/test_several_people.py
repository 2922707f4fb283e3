"""The windows of several people go through a model in one call, with the results of calls for each."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import WINDOW, OffsetLifter, SmoothingEngine, motion

from refiner.engines import EngineOptions
from refiner.runtime.loading import open_causal_engine, open_engine
from refiner.runtime.streaming.backend import FrameInput
from refiner.runtime.streaming.causal_backend import CausalBackend
from refiner.runtime.streaming.window_backend import WindowBackend

LENS = np.float32([1000.0, 1002.0, 1100.0])
PEOPLE = 5


class Counted:
    """An engine that writes down the batches of its calls, and takes no larger one than it says."""

    def __init__(self, engine, largest=None):
        self._engine, self.batches = engine, []
        if largest is not None:
            self.largest_batch = largest

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __call__(self, *inputs):
        assert {len(part) for part in inputs} == {len(inputs[0])} and 1 <= len(inputs[0]) <= self.largest_batch
        self.batches.append(len(inputs[0]))
        return self._engine(*inputs)


def entry(slot, pixels, body, lifts):
    keypoints = np.concatenate([pixels, np.ones((17, 1), np.float32)], axis=-1)
    return FrameInput(slot, keypoints, None if lifts else body - body[:1], LENS)


def fed(backend, frames, lifts=False, together=True, late=0, ends=True):
    """All outputs of a backend for PEOPLE people, of whom the last comes ``late`` frames later, by slot."""
    moves = [motion(frames, seed=slot) for slot in range(PEOPLE)]
    found = {slot: [] for slot in range(PEOPLE)}
    for index in range(frames):
        here = [slot for slot in range(PEOPLE) if slot < PEOPLE - 1 or index >= late]
        entries = [entry(slot, *(part[index] for part in moves[slot]), lifts) for slot in here]
        for some in [entries] if together else [[one] for one in entries]:
            for output in backend.feed(some):
                found[output.slot].append(output)
    for slot in found if ends else ():
        found[slot] += backend.finish(slot)
    return found


def assert_same(found, expected):
    for slot, outputs in expected.items():
        assert [output.index for output in found[slot]] == [output.index for output in outputs]
        for name in ("refined", "unrefined"):
            there = [np.stack([getattr(output, name) for output in of]) for of in (found[slot], outputs)]
            np.testing.assert_array_equal(*there)


def strided(engine, stride):
    engine.stride = stride
    return engine


@pytest.mark.parametrize("lifts", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("hop", "look_ahead"), [(1, 0), (2, 3), (9, 0)])
def test_one_call_for_all_people(hop, look_ahead, stride, lifts):
    def backend(largest=None):
        engine = Counted(strided(SmoothingEngine(), stride), largest)
        lifter = Counted(strided(OffsetLifter(), stride), largest) if lifts else None
        return WindowBackend(engine, hop, look_ahead, PEOPLE, lifter), engine, lifter

    frames, late = 4 * WINDOW + 3, 7
    alone, engine_alone, _ = backend()
    expected = fed(alone, frames, lifts, together=False, late=late)
    assert set(engine_alone.batches[: 2 * PEOPLE]) == {1}
    assert all(len(outputs) == frames - (late if slot == PEOPLE - 1 else 0) for slot, outputs in expected.items())

    for largest in (None, 1, 2, 4):
        limited, engine, lifter = backend(largest)
        assert_same(fed(limited, frames, lifts, late=late), expected)
        assert sum(engine.batches) == sum(engine_alone.batches)
        assert lifter is None or lifter.batches == engine.batches

    # All people are due at the same frames.
    together, engine, _ = backend()
    fed(together, frames, lifts, ends=False)
    assert set(engine.batches) == {PEOPLE}
    limited, engine, _ = backend(2)
    fed(limited, frames, lifts, ends=False)
    assert engine.batches == [2, 2, 1] * (len(engine.batches) // 3)


def test_the_native_engine_gives_the_same_bits():
    engine = open_engine(None, "refiner", EngineOptions("native", threads=1))
    frames = engine.frames + 2
    hop = 3
    counted = Counted(engine)
    found = fed(WindowBackend(counted, hop, slots=PEOPLE), frames)
    assert_same(found, fed(WindowBackend(engine, hop, slots=PEOPLE), frames, together=False))
    assert max(counted.batches) == PEOPLE


@pytest.mark.parametrize("largest", [None, 2])
def test_a_causal_stream_lifts_all_people_in_one_call(largest):
    def backend():
        lifter = Counted(OffsetLifter(), largest)
        return CausalBackend(open_causal_engine(None, EngineOptions("native", streams=PEOPLE)), lifter), lifter

    alone, _ = backend()
    expected = fed(alone, 12, lifts=True, together=False)
    together, lifter = backend()
    assert_same(fed(together, 12, lifts=True), expected)
    assert lifter.batches == 12 * ([PEOPLE] if largest is None else [2, 2, 1])
