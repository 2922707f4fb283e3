"""A window model as a stream: the last T beats are refined every ``hop`` beats, overlapping windows are blended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refiner.data.windows import POSE_STRIDE, blend_weights, phase_weights
from refiner.errors import UsageError
from refiner.runtime.engine import LifterEngine, RefinerEngine, lift_unsaid
from refiner.runtime.streaming.backend import UNIT_LENS, Array, BeatInput, BeatOutput, as_rays


class WindowBackend:
    """Any refiner's windows behind a stream.

    Args:
        engine: the refiner's.
        hop: beats from one window to the next, 1 to T.
        look_ahead: beats that a beat waits for others behind it, 0 to T - hop. A beat comes out at the first window
            that ends ``look_ahead`` beats or more after it, as the Hann-weighted mean of the windows that have run by
            then. With T - hop every window that holds it has run: the stream equals `refiner.Refiner` with that hop
            (but for the window that a sequence's end adds to those of the hop).
        slots: how many people.
        lifter: lifts the beats that come without a body, window by window; its windows must have the same length and
            stride.

    A model of every s-th frame (temporal downsampling) runs over s interleaved phases, each of which is a stream of its
    own: a window takes the newest beat and every s-th before it, and hop and look_ahead count the beats of a phase.
    With look_ahead, what the phases disagree in is evened out (`refiner.data.blend_refined`), for s - 1 beats of delay.

    Before T beats of a phase have come the first one is repeated before them. Raises UsageError.
    """

    def __init__(
        self,
        engine: RefinerEngine,
        hop: int = 1,
        look_ahead: int = 0,
        slots: int = 1,
        lifter: LifterEngine | None = None,
    ) -> None:
        window = engine.frames
        if not 1 <= hop <= window:
            raise UsageError(f"hop must lie between 1 and the window's {window} frames, got {hop}")
        if not 0 <= look_ahead <= window - hop:
            raise UsageError(
                f"look_ahead must lie between 0 and {window - hop} (window {window} less hop {hop}), got {look_ahead}"
            )
        strides = {model.stride for model in (engine, lifter) if model is not None}
        if len(strides) > 1:
            raise UsageError(
                f"of lifter and refiner one takes every {max(strides)}. frame, the other every {min(strides)}.; "
                "mode='window' needs both alike"
            )
        if lifter is not None and lifter.frames != window:
            raise UsageError(f"the lifter has windows of {lifter.frames} frames, the refiner of {window}")
        if engine.least_batch > 1 or (lifter is not None and lifter.least_batch > 1):
            raise UsageError("a stream runs one window at a time: export the model with --batch 1")
        self._engine, self._lifter = engine, lifter
        self._window, self._stride = window, strides.pop()
        self.frames, self.fps = (window - 1) * self._stride + 1, engine.fps
        self.hop, self.look_ahead, self.slots = hop, look_ahead, slots
        reach = self._stride - 1 if look_ahead else 0
        self.delay = (look_ahead + hop - 1) * self._stride + reach
        self.lifts = lifter is not None
        self.rays = engine.rays or (lifter is not None and lifter.rays)
        self.uncertainty, self.metadata = engine.uncertainty, engine.metadata
        self._weights = blend_weights(window)
        self._people = [_Person([_Buffer(window) for _ in range(self._stride)], reach) for _ in range(slots)]

    def feed(self, inputs: list[BeatInput]) -> list[BeatOutput]:
        outputs: list[BeatOutput] = []
        for entry in inputs:
            person = self._people[entry.slot]
            phase = person.count % self._stride
            person.count += 1
            buffer = person.phases[phase]
            buffer.take(entry)
            last = buffer.count - 1
            due = last - self.look_ahead
            if (last + 1 - self._window) % self.hop == 0 and due >= buffer.emitted:
                self._run(buffer)
                self._emit(entry.slot, phase, due)
                outputs += person.in_order()
        return outputs

    def finish(self, slot: int) -> list[BeatOutput]:
        person = self._people[slot]
        for phase, buffer in enumerate(person.phases):
            if buffer.emitted == buffer.count:
                continue
            if buffer.ran < buffer.count or buffer.count < self._window:
                self._run(buffer, ends_here=True)
            self._emit(slot, phase, buffer.count - 1)
        return person.in_order(ended=True)

    def reset(self, slot: int) -> None:
        self._people[slot].reset()

    def _run(self, buffer: _Buffer, ends_here: bool = False) -> None:
        """Refine the window that ends with the newest beat, and add it to the blend."""
        window = self._window
        known = min(buffer.count, window)
        # A stream shorter than a window is padded behind when it ends, as `Refiner` pads a sequence; while it runs, in
        # front, so that the newest beat has its place at the end of the window.
        before = 0 if ends_here else window - known
        seen, body = buffer.window(before, window - known - before)
        if self._lifter is not None:
            body = lift_unsaid(self._lifter, *buffer.seen_by(self._lifter.rays, seen))[0]
        given, lens = buffer.seen_by(self._engine.rays, seen)
        refined = self._engine(given, body[None], lens)[0]
        places = slice(before, before + known)
        whole = known == window or ends_here
        buffer.add(refined[places], body[places], self._weights[places], whole)
        buffer.ran = buffer.count

    def _emit(self, slot: int, phase: int, through: int) -> None:
        person = self._people[slot]
        buffer = person.phases[phase]
        for index in range(buffer.emitted, through + 1):
            given, refined = buffer.blended(index)
            beat = index * self._stride + phase
            person.ready[beat] = BeatOutput(slot, beat, given, refined)
        buffer.emitted = max(buffer.emitted, through + 1)


@dataclass(eq=False)
class _Person:
    """The phases of a slot. ``reach``: beats on either side that even out what the phases disagree in; ``count``: beats
    that came; ``out``: the beat that comes out next; ``ready``: outputs by their beat, which wait for others or are
    still needed for those."""

    phases: list[_Buffer]
    reach: int
    count: int = 0
    out: int = 0
    ready: dict[int, BeatOutput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stride = self.reach + 1
        self._weights = phase_weights(stride)
        # Those of the given poses, with zeros around them (`blend_refined`).
        narrow = min(stride, POSE_STRIDE)
        self._given_weights = np.pad(phase_weights(narrow), stride - narrow)

    def in_order(self, ended: bool = False) -> list[BeatOutput]:
        """The outputs that wait for no other beat; with ``ended`` none comes any more."""
        outputs = []
        while self.out in self.ready and (ended or self._has_what_follows()):
            outputs.append(self._even())
            self.out += 1
            self.ready.pop(self.out - self.reach - 1, None)
        return outputs

    def _has_what_follows(self) -> bool:
        return all(self.out + ahead in self.ready for ahead in range(1, self.reach + 1))

    def _even(self) -> BeatOutput:
        beat = self.ready[self.out]
        if not self.reach:
            return beat
        around = range(self.out - self.reach, self.out + self.reach + 1)
        there = [at in self.ready for at in around]
        beats = [self.ready[at] for at in around if at in self.ready]
        given = np.stack([entry.given for entry in beats]).astype(np.float64)
        change = np.stack([entry.refined for entry in beats]) - given
        refined = np.average(given, axis=0, weights=self._given_weights[there])
        refined += np.average(change, axis=0, weights=self._weights[there])
        return replace(beat, refined=np.asarray(refined, np.float32))

    def reset(self) -> None:
        self.count = self.out = 0
        self.ready.clear()
        for buffer in self.phases:
            buffer.reset()


@dataclass(eq=False)
class _Buffer:
    """The last beats of a slot, and the sums of the windows that hold them; nothing is allocated by a beat.

    Every beat is written twice, a window apart, so that the last T always lie side by side.
    """

    window_length: int

    def __post_init__(self) -> None:
        length = self.window_length
        # Pixels, confidence, and the pixels as rays: x, y, c, x', y'.
        self._seen = np.zeros((2 * length, 17, 5), np.float32)
        self._body = np.zeros((2 * length, 17, 3), np.float32)
        self._padded_seen = np.zeros((length, 17, 5), np.float32)
        self._padded_body = np.zeros((length, 17, 3), np.float32)
        # refined, given: weighted sums; a beat's row is its index modulo T.
        self._sums = np.zeros((length, 2, 17, 3))
        self._weight = np.zeros(length)
        self._provisional = np.zeros(length, dtype=bool)
        self.lens = np.ones(3, np.float32)
        self.reset()

    def reset(self) -> None:
        self.count = self.emitted = self.ran = 0

    def take(self, entry: BeatInput) -> None:
        row = self.count % self.window_length
        rays = as_rays(entry.keypoints, entry.lens)[:, :2]
        for place in (row, row + self.window_length):
            self._seen[place, :, :3] = entry.keypoints
            self._seen[place, :, 3:] = rays
            self._body[place] = np.nan if entry.body is None else entry.body
        self._sums[row] = 0.0
        self._weight[row] = 0.0
        self.lens = entry.lens
        self.count += 1

    def window(self, before: int, behind: int) -> tuple[Array, Array]:
        """The last T beats; with fewer, ``before`` copies of the first one and ``behind`` of the last."""
        if not before and not behind:
            start = self.count % self.window_length
            there = slice(start, start + self.window_length)
            return self._seen[there], self._body[there]
        known = self.count
        for source, target in ((self._seen, self._padded_seen), (self._body, self._padded_body)):
            target[:before] = source[0]
            target[before : before + known] = source[:known]
            target[before + known :] = source[known - 1]
        return self._padded_seen, self._padded_body

    def seen_by(self, rays: bool, seen: Array) -> tuple[Array, Array]:
        """What a model takes of a `window`: ``(1, T, 17, 2)`` pixels and the image's size ``(1, 2)``, or with ``rays``
        keypoints and a lens."""
        if rays:
            return np.ascontiguousarray(seen[None, ..., [3, 4, 2]]), UNIT_LENS[None]
        return np.ascontiguousarray(seen[None, ..., :2]), self.lens[None, :2]

    def add(self, refined: Array, given: Array, weights: NDArray[np.float64], whole: bool) -> None:
        """A window's outputs for the last ``len(refined)`` beats. Those of a padded window (``whole`` False) count
        until one without padding comes."""
        rows = np.arange(self.count - len(refined), self.count) % self.window_length
        replaced = rows[self._provisional[rows] | (self._weight[rows] == 0)] if whole else rows
        self._sums[replaced] = 0.0
        self._weight[replaced] = 0.0
        self._provisional[rows] = not whole
        self._sums[rows, 0] += weights[:, None, None] * refined
        self._sums[rows, 1] += weights[:, None, None] * given
        self._weight[rows] += weights

    def blended(self, index: int) -> tuple[Array, Array]:
        """(given, refined) of a beat that is still in the buffer."""
        row = index % self.window_length
        mean = (self._sums[row] / self._weight[row]).astype(np.float32)
        return mean[1], mean[0]
