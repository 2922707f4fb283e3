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
        filtered = one_euro(pose, fps, **settings)
        return filtered[np.minimum(np.arange(len(pose)) + delay, len(pose) - 1)]

    return stream


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


def tuned_filters(delay: int, validation: Sequence[tuple[Array, Array, float]]) -> dict[str, tuple[Stream, Any]]:
    """Name -> (the filter with the lowest MPJPE at this delay over ``(lifted, truth, fps)``, its settings)."""
    made: dict[str, list[tuple[Stream, dict[str, float]]]] = {"One-Euro": [], "Savitzky-Golay": []}
    for cutoff, beta in product(*ONE_EURO_GRID.values()):
        made["One-Euro"].append(
            (delayed_one_euro(delay, min_cutoff=cutoff, beta=beta), {"min_cutoff": cutoff, "beta": beta})
        )
    for window, order in product(*SAVITZKY_GOLAY_GRID.values()):
        if window > order and window > delay:
            settings = {"window": window, "order": order}
            made["Savitzky-Golay"].append((delayed_savitzky_golay(delay, int(window), int(order)), settings))

    def error(stream: Stream) -> float:
        sums = [
            float(np.linalg.norm(stream(pose, fps) - truth, axis=-1).mean(1).sum()) for pose, truth, fps in validation
        ]
        return sum(sums) / sum(len(pose) for pose, _, _ in validation)

    return {name: min(choices, key=lambda choice: error(choice[0])) for name, choices in made.items()}
