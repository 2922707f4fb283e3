"""The number of cameras of each clip that a measurement uses. Some measurements would take long with all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from refiner.data import CameraClip


def of_cameras(clips: Sequence[CameraClip], count: int | None) -> list[CameraClip]:
    """Keep the first ``count`` cameras of each clip; None keeps all cameras."""
    seen: Counter[tuple[str, str]] = Counter()
    chosen = []
    for clip in clips:
        seen[clip.subject, clip.key] += 1
        if count is None or seen[clip.subject, clip.key] <= count:
            chosen.append(clip)
    return chosen


def cameras_text(count: int | None) -> str:
    """The part of a report's sentence that names the number of cameras; an empty string where all were used."""
    return "" if count is None else f", as {count} of their cameras saw them"
