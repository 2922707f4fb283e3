"""A window model behind a stream: the last T model frames are refined every ``hop`` model frames, and blended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from refiner.arguments import check_whole
from refiner.data.windows import POSE_STRIDE, blend_weights, phase_weights
from refiner.engines import MOST_STREAMS
from refiner.errors import UsageError
from refiner.runtime.engine import LifterEngine, RefinerEngine, check_kind, lift_without_action
from refiner.runtime.stitching import check_hop
from refiner.runtime.streaming.backend import UNIT_LENS, Array, FrameInput, FrameOutput, as_rays, in_batches


class WindowBackend:
    """Refines the model frames of several people with a window refiner.

    The windows of all people that are due at a model frame go through the model in one call; in several where the
    engine takes no such batch.

    A model that takes every s-th frame (temporal downsampling) runs over s interleaved phases. Each phase is a stream
    of its own: a window holds the newest model frame and every s-th one before it, and ``hop`` and ``look_ahead`` count
    the model frames of a phase. The phases disagree a little. With ``look_ahead`` this is evened out
    (`refiner.data.blend_refined`), at the cost of s - 1 more model frames of delay.

    Until T model frames of a phase have come, the first one is repeated in front of them.

    Args:
        engine: the refiner's engine.
        hop: model frames from the start of one window to the start of the next, 1 to T.
        look_ahead: how many later model frames a model frame waits for, 0 to T - hop. A model frame comes out with the
            first window that ends ``look_ahead`` model frames or more after it, as the Hann-weighted mean of the
            windows that have run by then. With T - hop all windows that hold it have run: the stream then equals
            `refiner.Refiner` with that hop, except for the extra window at the end of a sequence.
        slots: how many people it holds.
        lifter: lifts model frames that come without a body, window by window. Its windows must have the length and
            stride of the refiner's windows.

    Raises:
        UsageError: hop or look_ahead are out of range, lifter and refiner do not fit together, one of them runs
            several windows at a time, or the refiner is causal.
    """

    def __init__(
        self,
        engine: RefinerEngine,
        hop: int = 1,
        look_ahead: int = 0,
        slots: int = 1,
        lifter: LifterEngine | None = None,
    ) -> None:
        check_kind(engine, "refiner", windows=True)
        if lifter is not None:
            check_kind(lifter, "lifter")
        window = engine.frames
        hop = check_hop(hop, window)
        look_ahead = check_whole(look_ahead, f"look_ahead, beside a hop of {hop},", 0, window - hop)
        slots = check_whole(slots, "slots", 1, MOST_STREAMS)
        strides = {model.stride for model in (engine, lifter) if model is not None}
        if len(strides) > 1:
            raise UsageError(
                f"lifter and refiner differ: one takes every {max(strides)}. frame, the other every {min(strides)}.; "
                "mode='window' needs the same for both"
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

    def feed(self, inputs: list[FrameInput]) -> list[FrameOutput]:
        due: list[tuple[int, int, int]] = []  # slot, phase, and the model frame of the phase that comes out
        for entry in inputs:
            person = self._people[entry.slot]
            phase = person.count % self._stride
            person.count += 1
            buffer = person.phases[phase]
            buffer.take(entry)
            last = buffer.count - 1
            through = last - self.look_ahead
            if (last + 1 - self._window) % self.hop == 0 and through >= buffer.emitted:
                due.append((entry.slot, phase, through))
        self._run([self._people[slot].phases[phase] for slot, phase, _ in due])
        outputs: list[FrameOutput] = []
        for slot, phase, through in due:
            self._emit(slot, phase, through)
            outputs += self._people[slot].in_order()
        return outputs

    def finish(self, slot: int) -> list[FrameOutput]:
        person = self._people[slot]
        left = [(phase, buffer) for phase, buffer in enumerate(person.phases) if buffer.emitted < buffer.count]
        self._run([b for _, b in left if b.ran < b.count or b.count < self._window], ends_here=True)
        for phase, buffer in left:
            self._emit(slot, phase, buffer.count - 1)
        return person.in_order(ended=True)

    def reset(self, slot: int) -> None:
        self._people[slot].reset()

    def _run(self, buffers: Sequence[_Buffer], ends_here: bool = False) -> None:
        """Refine the windows that end with the newest model frames, and add the results to the blends.

        ``ends_here``: no more model frames come.
        """
        if not buffers:
            return
        # While a stream shorter than a window runs, it is padded in front, so that the newest model frame lies at the
        # end of the window. When it ends, it is padded at the end, as `Refiner` pads a sequence.
        known = [min(buffer.count, self._window) for buffer in buffers]
        padding = [self._window - length for length in known]
        before = [0] * len(buffers) if ends_here else padding
        windows = [b.window(*place) for b, *place in zip(buffers, before, np.subtract(padding, before), strict=True)]
        if self._lifter is not None:
            lifter = self._lifter
            seen = _seen(buffers, windows, lifter.rays)
            bodies = in_batches(lambda *some: lift_without_action(lifter, *some), lifter.largest_batch, *seen)
        else:
            bodies = np.stack([body for _, body in windows])
        keypoints, lens = _seen(buffers, windows, self._engine.rays)
        refined = in_batches(self._engine, self._engine.largest_batch, keypoints, bodies, lens)
        for index, buffer in enumerate(buffers):
            rows = slice(before[index], before[index] + known[index])
            final = known[index] == self._window or ends_here
            buffer.add(refined[index, rows], bodies[index, rows], self._weights[rows], final)
            buffer.ran = buffer.count

    def _emit(self, slot: int, phase: int, through: int) -> None:
        """Move the outputs of a phase up to its model frame ``through`` from the blend to the person's queue."""
        person = self._people[slot]
        buffer = person.phases[phase]
        for index in range(buffer.emitted, through + 1):
            unrefined, refined = buffer.blended(index)
            number = index * self._stride + phase
            person.ready[number] = FrameOutput(slot, number, unrefined, refined)
        buffer.emitted = max(buffer.emitted, through + 1)


def _seen(buffers: Sequence[_Buffer], windows: Sequence[tuple[Array, Array]], rays: bool) -> list[Array]:
    """The first and the last input of a model for all windows, see `_Buffer.seen_by`."""
    each = [buffer.seen_by(rays, seen) for buffer, (seen, _) in zip(buffers, windows, strict=True)]
    return [np.concatenate(parts) for parts in zip(*each, strict=True)]


@dataclass(eq=False)
class _Person:
    """The phases of a slot, and their outputs in order.

    Attributes:
        phases: a buffer for each phase.
        reach: the number of model frames on either side that even out the disagreement of the phases.
        count: the model frames that came.
        out: the number of the model frame that comes out next.
        ready: outputs by the number of their model frame. They wait for others, or others still need them.
    """

    phases: list[_Buffer]
    reach: int
    count: int = 0
    out: int = 0
    ready: dict[int, FrameOutput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stride = self.reach + 1
        self._weights = phase_weights(stride)
        # The weights of the poses before refinement, with zeros around them (`blend_refined`).
        narrow = min(stride, POSE_STRIDE)
        self._unrefined_weights = np.pad(phase_weights(narrow), stride - narrow)

    def in_order(self, ended: bool = False) -> list[FrameOutput]:
        """Remove and return the outputs that wait for no other model frame. ``ended``: no more model frames come."""
        outputs = []
        while self.out in self.ready and (ended or self._next_are_ready()):
            outputs.append(self._even())
            self.out += 1
            self.ready.pop(self.out - self.reach - 1, None)
        return outputs

    def _next_are_ready(self) -> bool:
        return all(self.out + ahead in self.ready for ahead in range(1, self.reach + 1))

    def _even(self) -> FrameOutput:
        """The next output, with the disagreement of the phases evened out as in `blend_refined`."""
        output = self.ready[self.out]
        if not self.reach:
            return output
        around = range(self.out - self.reach, self.out + self.reach + 1)
        present = [number in self.ready for number in around]
        neighbours = [self.ready[number] for number in around if number in self.ready]
        unrefined = np.stack([entry.unrefined for entry in neighbours]).astype(np.float64)
        change = np.stack([entry.refined for entry in neighbours]) - unrefined
        refined = np.average(unrefined, axis=0, weights=self._unrefined_weights[present])
        refined += np.average(change, axis=0, weights=self._weights[present])
        return replace(output, refined=np.asarray(refined, np.float32))

    def reset(self) -> None:
        self.count = self.out = 0
        self.ready.clear()
        for buffer in self.phases:
            buffer.reset()


@dataclass(eq=False)
class _Buffer:
    """The last T model frames of a phase, and the weighted sums of the windows that hold them.

    A new model frame allocates no memory. Each model frame is written twice, one window length apart, so that the last
    T always lie side by side in memory.

    Attributes:
        count: the model frames that came.
        emitted: how many of them came out.
        ran: the count at the last run of the model.
        lens: the lens of the newest model frame.
    """

    window_length: int

    def __post_init__(self) -> None:
        length = self.window_length
        # Pixels, confidence, and the pixels as rays: x, y, c, x', y'.
        self._seen = np.zeros((2 * length, 17, 5), np.float32)
        self._body = np.zeros((2 * length, 17, 3), np.float32)
        self._padded_seen = np.zeros((length, 17, 5), np.float32)
        self._padded_body = np.zeros((length, 17, 3), np.float32)
        # Weighted sums of the refined (0) and the unrefined (1) poses; a model frame's row is its index modulo T.
        self._sums = np.zeros((length, 2, 17, 3))
        self._weight = np.zeros(length)
        # Whether a row holds only results of padded windows.
        self._provisional = np.zeros(length, dtype=bool)
        self.lens = np.ones(3, np.float32)
        self.reset()

    def reset(self) -> None:
        self.count = self.emitted = self.ran = 0

    def take(self, entry: FrameInput) -> None:
        row = self.count % self.window_length
        rays = as_rays(entry.keypoints, entry.lens)[:, :2]
        for copy in (row, row + self.window_length):
            self._seen[copy, :, :3] = entry.keypoints
            self._seen[copy, :, 3:] = rays
            self._body[copy] = np.nan if entry.body is None else entry.body
        self._sums[row] = 0.0
        self._weight[row] = 0.0
        self.lens = entry.lens
        self.count += 1

    def window(self, before: int, behind: int) -> tuple[Array, Array]:
        """The last T model frames: keypoints ``(T, 17, 5)`` and bodies ``(T, 17, 3)``.

        Where fewer have come, ``before`` copies of the first one and ``behind`` copies of the last one are added.
        """
        if not before and not behind:
            start = self.count % self.window_length
            rows = slice(start, start + self.window_length)
            return self._seen[rows], self._body[rows]
        known = self.count
        for source, target in ((self._seen, self._padded_seen), (self._body, self._padded_body)):
            target[:before] = source[0]
            target[before : before + known] = source[:known]
            target[before + known :] = source[known - 1]
        return self._padded_seen, self._padded_body

    def seen_by(self, rays: bool, seen: Array) -> tuple[Array, Array]:
        """The inputs of a model for the keypoints of a `window`.

        Returns:
            ``(1, T, 17, 2)`` pixels and the image's size ``(1, 2)``. With ``rays``, ``(1, T, 17, 3)`` keypoints and a
            lens ``(1, 3)``.
        """
        if rays:
            return np.ascontiguousarray(seen[None, ..., [3, 4, 2]]), UNIT_LENS[None]
        return np.ascontiguousarray(seen[None, ..., :2]), self.lens[None, :2]

    def add(self, refined: Array, unrefined: Array, weights: NDArray[np.float64], final: bool) -> None:
        """Add a window's outputs for the last ``len(refined)`` model frames to the sums.

        The outputs of a padded window (``final`` False) count only until a window without padding comes.
        """
        rows = np.arange(self.count - len(refined), self.count) % self.window_length
        replaced = rows[self._provisional[rows] | (self._weight[rows] == 0)] if final else rows
        self._sums[replaced] = 0.0
        self._weight[replaced] = 0.0
        self._provisional[rows] = not final
        self._sums[rows, 0] += weights[:, None, None] * refined
        self._sums[rows, 1] += weights[:, None, None] * unrefined
        self._weight[rows] += weights

    def blended(self, index: int) -> tuple[Array, Array]:
        """The poses before and after refinement, ``(17, 3)`` each, of a model frame that is still in the buffer."""
        row = index % self.window_length
        mean = (self._sums[row] / self._weight[row]).astype(np.float32)
        return mean[1], mean[0]
