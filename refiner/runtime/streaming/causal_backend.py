"""A causal refiner behind a stream: each model frame costs one step of the engine and comes out at once."""

from __future__ import annotations

import numpy as np

from refiner.causal_state import CAUSAL
from refiner.errors import UsageError
from refiner.runtime.causal import CausalEngine
from refiner.runtime.engine import LifterEngine, check_kind, lift_without_action
from refiner.runtime.streaming.backend import UNIT_LENS, Array, FrameInput, FrameOutput, as_rays, columns, in_batches


class CausalBackend:
    """Refines the model frames of several people with one causal engine, which keeps the state of each person.

    Args:
        engine: steps all slots at once. Slots without a new model frame keep their state.
        lifter: lifts model frames that come without a body. It takes the last frame of a window that ends with the
            model frame.

    A pipelined engine gives a model frame ``engine.delay`` steps later.

    Raises:
        UsageError: the lifter runs several windows at a time, another stream uses the engine, or a model is of another
            kind.
    """

    def __init__(self, engine: CausalEngine, lifter: LifterEngine | None = None) -> None:
        check_kind(engine, CAUSAL)
        if lifter is not None:
            check_kind(lifter, "lifter")
            if lifter.least_batch > 1:
                raise UsageError("a stream runs one window at a time: export the lifter with --batch 1")
        engine.claim(self)
        self._engine, self._lifter = engine, lifter
        self.frames, self.fps, self.slots = engine.frames, engine.fps, engine.streams
        self.delay = engine.delay
        self.lifts = lifter is not None
        self.rays = engine.rays or (lifter is not None and lifter.rays)
        self.uncertainty, self.metadata = engine.uncertainty, engine.metadata
        self._columns = columns(engine.rays)
        self._seen = np.zeros((self.slots, 17, self._columns), np.float32)
        self._body = np.zeros((self.slots, 17, 3), np.float32)
        self._lenses = np.ones((self.slots, self._columns), np.float32)
        self._active = np.zeros(self.slots, dtype=bool)
        self._count = [0] * self.slots
        # The input body of each model frame whose output has not come yet.
        self._unrefined = np.zeros((self.delay + 1, self.slots, 17, 3), np.float32)
        self._refined = np.zeros((self.slots, 17, 3), np.float32)
        self._windows = None if lifter is None else [_LiftedWindow(lifter) for _ in range(self.slots)]

    def feed(self, inputs: list[FrameInput]) -> list[FrameOutput]:
        self._active[:] = False
        lifted = self._lift([entry for entry in inputs if entry.body is None])
        for entry in inputs:
            slot = entry.slot
            self._active[slot] = True
            self._seen[slot] = entry.keypoints[:, : self._columns]
            self._lenses[slot] = entry.lens[: self._columns]
            self._body[slot] = lifted[slot] if entry.body is None else entry.body
        return self._step([entry.slot for entry in inputs])

    def finish(self, slot: int) -> list[FrameOutput]:
        """See `StreamBackend.finish`. A pipelined engine still holds model frames.

        The last input is repeated until they have come out.
        """
        outputs: list[FrameOutput] = []
        self._active[:] = False
        self._active[slot] = True
        for _ in range(self.delay if self._count[slot] else 0):
            outputs += self._step([slot])
        return outputs

    def reset(self, slot: int) -> None:
        self._count[slot] = 0
        self._engine.reset(slot)
        if self._windows is not None:
            self._windows[slot].reset()

    def _step(self, slots: list[int]) -> list[FrameOutput]:
        refined = self._engine.step(self._seen, self._body, self._lenses, self._active, self._refined)
        outputs = []
        for slot in slots:
            index = self._count[slot]
            self._unrefined[index % (self.delay + 1), slot] = self._body[slot]
            self._count[slot] += 1
            out = index - self.delay
            if out >= 0:
                unrefined = self._unrefined[out % (self.delay + 1), slot].copy()
                outputs.append(FrameOutput(slot, out, unrefined, refined[slot].copy()))
        return outputs

    def _lift(self, entries: list[FrameInput]) -> dict[int, Array]:
        """The bodies of model frames that come without one, by slot, in one call of the lifter where it can."""
        if not entries:
            return {}
        lifter, windows = self._lifter, self._windows
        assert lifter is not None and windows is not None
        rays = lifter.rays
        seen = [windows[e.slot].take(as_rays(e.keypoints, e.lens) if rays else e.keypoints) for e in entries]
        lenses = [UNIT_LENS if rays else entry.lens[:2] for entry in entries]
        lifted = in_batches(
            lambda *some: lift_without_action(lifter, *some), lifter.largest_batch, np.stack(seen), np.stack(lenses)
        )[:, -1]
        return {entry.slot: body - body[:1] for entry, body in zip(entries, lifted, strict=True)}


class _LiftedWindow:
    """The lifter's window of the last model frames of one person, every ``stride``-th of them, the newest last.

    Before a full window has come, the first model frame is repeated in front. Each model frame is written twice, one
    window length apart, so that the last ones always lie side by side in memory.
    """

    def __init__(self, lifter: LifterEngine) -> None:
        self._stride = lifter.stride
        self._length = (lifter.frames - 1) * self._stride + 1
        self._columns = columns(lifter.rays)
        self._rows = np.zeros((2 * self._length, 17, self._columns), np.float32)
        self.reset()

    def reset(self) -> None:
        self._count = 0

    def take(self, keypoints: Array) -> Array:
        seen = keypoints[:, : self._columns]
        if self._count == 0:
            self._rows[:] = seen
        row = self._count % self._length
        self._rows[row] = self._rows[row + self._length] = seen
        self._count += 1
        start = self._count % self._length
        return self._rows[start : start + self._length : self._stride]
