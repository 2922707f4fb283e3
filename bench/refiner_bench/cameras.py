"""How many of a clip's cameras a measurement takes, for measurements that would take long with all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from refiner.data import CameraClip


def of_cameras(clips: Sequence[CameraClip], count: int | None) -> list[CameraClip]:
    """Each clip as its first ``count`` cameras saw it; None is all."""
    seen: Counter[tuple[str, str]] = Counter()
    chosen = []
    for clip in clips:
        seen[clip.subject, clip.key] += 1
        if count is None or seen[clip.subject, clip.key] <= count:
            chosen.append(clip)
    return chosen


def told_cameras(count: int | None) -> str:
    """For a report's sentence; nothing for all of them."""
    return "" if count is None else f", as {count} of their cameras saw them"
