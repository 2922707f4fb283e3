"""Refinement of a stream with a delay: the windowed refiner, and usual smoothing filters as a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from refiner.data import CameraClip
from refiner.data.windows import blend_weights
from refiner.evaluation.metrics import root_relative
from refiner.runtime.engine import RefinerEngine
from refiner.runtime.streaming.shape import RunningShape
from refiner_bench.accuracy.filters import ONE_EURO_GRID, SAVITZKY_GOLAY_GRID, one_euro
from refiner_bench.arrays import FloatArray

# Delays in frames.
DELAYS = (0, 1, 2, 4, 8, 13, 26)
BATCH = 64
# The largest relative increase of MPJPE that smoothing may cause.
SMOOTHING_COST = 0.005

# Takes poses ``(F, J, 3)`` and the frames per second; returns the output of a stream for every frame, ``(F, J, 3)``.
Stream = Callable[[FloatArray, float], FloatArray]
Settings = dict[str, float]


class TunedStream(NamedTuple):
    """A filter and its settings."""

    stream: Stream
    settings: Settings


class ValidationSequence(NamedTuple):
    """One validation sequence: poses and true poses, ``(F, J, 3)`` in metres, and frames per second."""

    pose: FloatArray
    truth: FloatArray
    fps: float


@dataclass(frozen=True)
class _Filtered:
    """The validation sequences after a One-Euro filter with some settings."""

    settings: Settings
    poses: list[FloatArray]


def window_streams(
    engine: RefinerEngine, clip: CameraClip, lifted: FloatArray, look_aheads: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """The output of a windowed refiner on a stream for several look-aheads.

    The result equals that of `refiner.runtime.streaming.window_backend.WindowBackend` with a hop of 1. Here every
    window runs only once for all look-aheads, and many windows run in one call.

    Args:
        engine: The refiner.
        clip: The clip.
        lifted: The lifted poses of the clip, ``(F, 17, 3)`` in metres.
        look_aheads: The numbers of frames that the stream may wait for.

    Returns:
        By look-ahead, the refined poses ``(F, 17, 3)`` in metres with the root at 0.
    """
    frames, window = len(lifted), engine.frames
    # One window ends at each frame. The first frame is repeated where a window begins before the clip.
    ends = np.arange(frames)
    window_frames = np.maximum(ends[:, None] - np.arange(window)[::-1], 0)  # [F, T]
    pixels, body = clip.pose_2d.astype(np.float32), root_relative(lifted).astype(np.float32)
    size = np.asarray(clip.image_size, np.float32)
    outputs = np.concatenate(
        [
            engine(pixels[batch], body[batch], np.tile(size, (len(batch), 1)))
            for batch in (window_frames[first : first + BATCH] for first in range(0, frames, BATCH))
        ]
    )
    weights = blend_weights(window)
    refined = {}
    for look_ahead in look_aheads:
        total, weight = np.zeros((frames, 17, 3)), np.zeros(frames)
        # The last frame that the stream knows when it outputs a frame.
        last_known = np.minimum(np.arange(frames) + look_ahead, frames - 1)
        for ahead in range(look_ahead + 1):
            end = np.arange(frames) + ahead
            # A window with repeated frames counts only for a frame that is output before the first complete window.
            complete = end >= window - 1
            first_outputs = (end == last_known) & (last_known < window - 1)
            used = (end <= last_known) & (complete | first_outputs)
            index = window - 1 - ahead
            if index < 0:
                break
            total[used] += weights[index] * outputs[end[used], index]
            weight[used] += weights[index]
        refined[look_ahead] = (total / weight[:, None, None]).astype(np.float32)
    return refined


def with_running_shape(pose: FloatArray) -> NDArray[np.float32]:
    """Give all poses one body shape, which is learnt from the frames so far."""
    shape = RunningShape()
    return np.stack([shape.apply(frame) for frame in pose.astype(np.float32)])


def delayed_one_euro(delay: int, **settings: float) -> Stream:
    """A One-Euro filter whose output for a frame is that of the filter ``delay`` frames later."""

    def stream(pose: FloatArray, fps: float) -> FloatArray:
        return _later(one_euro(pose, fps, **settings), delay)

    return stream


def _later(pose: FloatArray, delay: int) -> FloatArray:
    later: FloatArray = pose[np.minimum(np.arange(len(pose)) + delay, len(pose) - 1)]
    return later


def delayed_savitzky_golay(delay: int, window: int, order: int) -> Stream:
    """A Savitzky-Golay filter with a delay.

    The output for a frame is the value of a polynomial through the last ``window`` frames, of which ``delay`` are after
    the output frame. The first frame is repeated before the sequence and the last one after it. ``window`` is in frames
    at 50 frames per second.
    """

    def stream(pose: FloatArray, fps: float) -> FloatArray:
        length = max(round(window * fps / 50.0), delay + 1, order + 2)
        weights = scipy.signal.savgol_coeffs(length, order, pos=length - 1 - delay, use="dot")
        frames = len(pose)
        padded = np.concatenate([np.repeat(pose[:1], length - 1, 0), pose, np.repeat(pose[-1:], delay, 0)])
        # The output for frame t uses the frames up to t + delay.
        return np.asarray(sum(weight * padded[index + delay :][:frames] for index, weight in enumerate(weights)))

    return stream


class FilterTuning:
    """Chooses the settings of filters on validation sequences."""

    def __init__(self, validation: Sequence[ValidationSequence]) -> None:
        self._validation = [ValidationSequence(*sequence) for sequence in validation]
        # The One-Euro filter has no parameter for a delay. It runs once, and its output is read at every delay.
        self._one_euro = [
            _Filtered(
                {"min_cutoff": cutoff, "beta": beta},
                [one_euro(sequence.pose, sequence.fps, cutoff, beta) for sequence in self._validation],
            )
            for cutoff, beta in product(*ONE_EURO_GRID.values())
        ]

    def one_euro(self, delay: int) -> TunedStream:
        """The One-Euro filter with the lowest MPJPE that waits for at most ``delay`` frames."""
        # The filter need not use the whole delay: its output may be read at any time up to the delay.
        shifts = [shift for shift in DELAYS if shift <= delay]
        _, shift, best = min(
            (self._error([_later(pose, shift) for pose in filtered.poses]), shift, index)
            for index, filtered in enumerate(self._one_euro)
            for shift in shifts
        )
        settings = self._one_euro[best].settings
        return TunedStream(delayed_one_euro(shift, **settings), settings | {"shift": float(shift)})

    def calmest_one_euro(self) -> TunedStream:
        """The One-Euro filter without delay with the lowest acceleration error.

        Only filters count that increase MPJPE by less than `SMOOTHING_COST`.
        """
        limit = (1.0 + SMOOTHING_COST) * self._error([sequence.pose for sequence in self._validation])
        # If every filter increases MPJPE by more, this order gives the filter with the lowest MPJPE.
        scores = [
            (max(self._error(filtered.poses), limit), self._tremor(filtered.poses)) for filtered in self._one_euro
        ]
        settings = self._one_euro[scores.index(min(scores))].settings
        return TunedStream(delayed_one_euro(0, **settings), settings)

    def tune(self, delay: int) -> dict[str, TunedStream]:
        """The filters with the lowest MPJPE at a delay, by name."""
        golay = [
            (int(window), int(order))
            for window, order in product(*SAVITZKY_GOLAY_GRID.values())
            if window > order and window > delay
        ]
        window, order = min(golay, key=lambda settings: self._error(self._streamed(delay, *settings)))
        return {
            "One-Euro": self.one_euro(delay),
            "Savitzky-Golay": TunedStream(
                delayed_savitzky_golay(delay, window, order), {"window": window, "order": order}
            ),
        }

    def _streamed(self, delay: int, window: int, order: int) -> list[FloatArray]:
        stream = delayed_savitzky_golay(delay, window, order)
        return [stream(pose, fps) for pose, _, fps in self._validation]

    def _error(self, poses: Sequence[FloatArray]) -> float:
        """MPJPE in metres, averaged over frames."""
        total = sum(
            float(np.linalg.norm(difference, axis=-1).mean(axis=1).sum()) for difference in self._differences(poses)
        )
        return total / sum(map(len, poses))

    def _tremor(self, poses: Sequence[FloatArray]) -> float:
        """The sum of all acceleration errors. It compares filters on the same frames."""
        return sum(
            float(np.linalg.norm(np.diff(difference, 2, 0), axis=-1).sum()) for difference in self._differences(poses)
        )

    def _differences(self, poses: Sequence[FloatArray]) -> list[FloatArray]:
        return [pose - truth for pose, (_, truth, _) in zip(poses, self._validation, strict=True)]
