"""Error against delay: a stream that may look a number of frames ahead, beside the filters that users know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from refiner.data import CameraClip
from refiner.data.windows import blend_weights
from refiner.evaluation.metrics import root_relative
from refiner.runtime.engine import RefinerEngine
from refiner.runtime.streaming.shape import RunningShape
from refiner_bench.accuracy.filters import ONE_EURO_GRID, SAVITZKY_GOLAY_GRID, one_euro

Array = NDArray[Any]
DELAYS = (0, 1, 2, 4, 8, 13, 26)
BATCH = 64
# What a smoother motion may cost in MPJPE.
SMOOTHING_COST = 0.005

# (pose, fps) -> the pose that a stream gives for every frame.
Stream = Callable[[Array, float], Array]


def window_streams(
    engine: RefinerEngine, clip: CameraClip, lifted: Array, look_aheads: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Look-ahead -> what `refiner.runtime.streaming.window_backend.WindowBackend` gives with a hop of 1, root at 0.

    Every window runs once for all look-aheads, many at a time; a test holds it against the stream itself.
    """
    frames, window = len(lifted), engine.frames
    # Ends of windows; before T frames have come the first one is repeated before them.
    ends = np.arange(frames)
    rows = np.maximum(ends[:, None] - np.arange(window)[::-1], 0)
    pixels, body = clip.pose_2d.astype(np.float32), root_relative(lifted).astype(np.float32)
    size = np.asarray(clip.image_size, np.float32)
    outputs = np.concatenate(
        [
            engine(pixels[some], body[some], np.tile(size, (len(some), 1)))
            for some in (rows[first : first + BATCH] for first in range(0, frames, BATCH))
        ]
    )
    weights = blend_weights(window)
    found = {}
    for look_ahead in look_aheads:
        total, weight = np.zeros((frames, 17, 3)), np.zeros(frames)
        answered = np.minimum(np.arange(frames) + look_ahead, frames - 1)
        for ahead in range(look_ahead + 1):
            end = np.arange(frames) + ahead
            # A padded window counts only where a frame must be answered before the first whole one.
            there = (end <= answered) & ((end >= window - 1) | ((end == answered) & (answered < window - 1)))
            place = window - 1 - ahead
            if place < 0:
                break
            total[there] += weights[place] * outputs[end[there], place]
            weight[there] += weights[place]
        found[look_ahead] = (total / weight[:, None, None]).astype(np.float32)
    return found


def with_running_shape(pose: Array) -> NDArray[np.float32]:
    """One body shape, learnt from the frames so far."""
    shape = RunningShape()
    return np.stack([shape.apply(frame) for frame in pose.astype(np.float32)])


def delayed_one_euro(delay: int, **settings: float) -> Stream:
    """The filter's answer ``delay`` frames later, taken for the frame."""

    def stream(pose: Array, fps: float) -> Array:
        return _later(one_euro(pose, fps, **settings), delay)

    return stream


def _later(pose: Array, delay: int) -> Array:
    later: Array = pose[np.minimum(np.arange(len(pose)) + delay, len(pose) - 1)]
    return later


def delayed_savitzky_golay(delay: int, window: int, order: int) -> Stream:
    """The polynomial through the last ``window`` frames, ``delay`` of them after the frame that it is read at.

    The first frame is repeated before the sequence, the last one behind it.
    """

    def stream(pose: Array, fps: float) -> Array:
        length = max(round(window * fps / 50.0), delay + 1, order + 2)
        weights = scipy.signal.savgol_coeffs(length, order, pos=length - 1 - delay, use="dot")
        frames = len(pose)
        padded = np.concatenate([np.repeat(pose[:1], length - 1, 0), pose, np.repeat(pose[-1:], delay, 0)])
        # Frame t is answered with the frames up to t + delay.
        return np.asarray(sum(weight * padded[place + delay :][:frames] for place, weight in enumerate(weights)))

    return stream


class FilterTuning:
    """Finds the filters with the lowest MPJPE at a delay, or the calmest, over validation ``(pose, truth, fps)``."""

    def __init__(self, validation: Sequence[tuple[Array, Array, float]]) -> None:
        self._validation = validation
        # The One-Euro filter knows no delay: filtered once, it is read at each.
        self._one_euro = [
            ({"min_cutoff": cutoff, "beta": beta}, [one_euro(pose, fps, cutoff, beta) for pose, _, fps in validation])
            for cutoff, beta in product(*ONE_EURO_GRID.values())
        ]

    def one_euro(self, delay: int) -> tuple[Stream, dict[str, float]]:
        """The best One-Euro filter that waits ``delay`` frames at most, and its settings."""
        # A filter that may wait need not: its answer may be read at any time up to the delay.
        shifts = [shift for shift in DELAYS if shift <= delay]
        _, shift, chosen = min(
            (self._error([_later(pose, shift) for pose in filtered]), shift, place)
            for place, (_, filtered) in enumerate(self._one_euro)
            for shift in shifts
        )
        euro = self._one_euro[chosen][0]
        return delayed_one_euro(shift, **euro), euro | {"shift": float(shift)}

    def calmest_one_euro(self) -> tuple[Stream, dict[str, float]]:
        """The One-Euro filter without delay with the least acceleration error among those that cost less than
        `SMOOTHING_COST` of the MPJPE, and its settings."""
        limit = (1.0 + SMOOTHING_COST) * self._error([pose for pose, _, _ in self._validation])
        # Where all of them cost more, the cheapest.
        scores = [(max(self._error(poses), limit), self._tremor(poses)) for _, poses in self._one_euro]
        chosen = self._one_euro[scores.index(min(scores))][0]
        return delayed_one_euro(0, **chosen), chosen

    def tune(self, delay: int) -> dict[str, tuple[Stream, dict[str, float]]]:
        """Name -> (the filter, its settings)."""
        golay = [
            (int(window), int(order))
            for window, order in product(*SAVITZKY_GOLAY_GRID.values())
            if window > order and window > delay
        ]
        window, order = min(golay, key=lambda settings: self._error(self._streamed(delay, *settings)))
        return {
            "One-Euro": self.one_euro(delay),
            "Savitzky-Golay": (delayed_savitzky_golay(delay, window, order), {"window": window, "order": order}),
        }

    def _streamed(self, delay: int, window: int, order: int) -> list[Array]:
        stream = delayed_savitzky_golay(delay, window, order)
        return [stream(pose, fps) for pose, _, fps in self._validation]

    def _error(self, poses: Sequence[Array]) -> float:
        """MPJPE in metres, frame-wise."""
        total = sum(float(np.linalg.norm(difference, axis=-1).mean(axis=1).sum()) for difference in self._off(poses))
        return total / sum(map(len, poses))

    def _tremor(self, poses: Sequence[Array]) -> float:
        """The sum of all acceleration errors: what there is to compare of filters on the same frames."""
        return sum(float(np.linalg.norm(np.diff(off, 2, 0), axis=-1).sum()) for off in self._off(poses))

    def _off(self, poses: Sequence[Array]) -> list[Array]:
        return [pose - truth for pose, (_, truth, _) in zip(poses, self._validation, strict=True)]
