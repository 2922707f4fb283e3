"""Frame rates that vary: people at the time-stamps of a video, and at a constant rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refiner.errors import VideoError
from refiner.formats.detections import Detections, Person
from refiner.formats.tracking import Track, follow

Array = NDArray[np.float64]

# Time-stamps that lie no further off a regular grid than this share of a frame are regular.
REGULAR = 0.25
# No motion is interpolated over more than this; as long as `refiner.runtime.people` bridges. Seconds.
LONGEST_STEP_S = 0.5
# More frames than the video has, by this factor, are a fault of its time-stamps.
MOST_FACTOR, LEAST_MOST = 20, 1000


def constant_rate(seconds: Array) -> float | None:
    """Frames/s of time-stamps ``(F,)`` that are regular; None where they are not, or where there is only one."""
    if len(seconds) < 2 or not seconds[-1] > seconds[0]:
        return None
    fps = (len(seconds) - 1) / (seconds[-1] - seconds[0])
    off = np.abs((seconds - seconds[0]) * fps - np.arange(len(seconds)))
    return float(fps) if off.max() <= REGULAR else None


def at_constant_rate(detections: Detections, seconds: Array) -> tuple[Detections, Array]:
    """The same people at a constant frame rate, that of the median step from frame to frame.

    People are followed, and each joint is interpolated linearly between the two frames around an instant. A joint that
    only one of the two shows is taken from there if it lies within a quarter of a frame.

    Args:
        detections: one entry for each frame.
        seconds: ``(F,)``, their time-stamps, which increase.

    Returns:
        The detections with ``fps``, and their time-stamps ``(G,)``.

    Raises:
        VideoError: the time-stamps would need far more frames than the video has.
    """
    fps = 1.0 / float(np.median(np.diff(seconds)))
    count = int(np.floor((seconds[-1] - seconds[0]) * fps + 0.5)) + 1
    if count > max(MOST_FACTOR * len(seconds), LEAST_MOST):
        raise VideoError(f"the {len(seconds)} time-stamps lie so unevenly that {count} regular frames were needed")
    instants = seconds[0] + np.arange(count) / fps
    people: list[list[Person]] = [[] for _ in range(count)]
    if any(detections.frames):
        # The tracker counts time in frames; their mean rate is good enough for it.
        mean = (len(seconds) - 1) / (seconds[-1] - seconds[0])
        for track in follow(replace(detections, fps=mean)):
            keypoints, confidence = _interpolated(track, seconds, instants)
            for frame in np.flatnonzero((confidence > 0).any(axis=1)):
                people[frame].append(Person(keypoints[frame], confidence[frame], track.number))
    return replace(detections, fps=fps, frames=tuple(map(tuple, people))), instants


def _interpolated(track: Track, seconds: Array, instants: Array) -> tuple[Array, Array]:
    """Keypoints ``(G, J, 2)`` and confidence ``(G, J)`` of a track at other instants."""
    after = np.clip(np.searchsorted(seconds, instants), 1, len(seconds) - 1)
    before = after - 1
    step = seconds[after] - seconds[before]
    share = np.clip((instants - seconds[before]) / step, 0.0, 1.0)
    seen = track.confidence > 0
    both = seen[before] & seen[after] & (step <= LONGEST_STEP_S)[:, None]
    typical = float(np.median(np.diff(seconds)))
    # The nearer frame, where it is near.
    nearest = np.where(share < 0.5, before, after)
    near = np.abs(seconds[nearest] - instants) <= REGULAR * typical
    alone = seen[nearest] & near[:, None] & ~both
    weight = share[:, None]
    confidence = np.where(
        both,
        (1 - weight) * track.confidence[before] + weight * track.confidence[after],
        np.where(alone, track.confidence[nearest], 0.0),
    )
    between = (1 - weight[..., None]) * track.keypoints[before] + weight[..., None] * track.keypoints[after]
    keypoints = np.where(both[..., None], between, np.where(alone[..., None], track.keypoints[nearest], np.nan))
    return keypoints, confidence
