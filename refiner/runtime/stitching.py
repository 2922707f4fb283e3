"""A window model over a sequence of any length: overlapping windows, blended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refiner.data.windows import merge_windows, split_windows, window_starts

Array = NDArray[np.float32]


def run_windows(
    model: Callable[..., Array], sequences: tuple[Array, ...], window: int, hop: int, batch: int = 64
) -> Array:
    """Run ``model(*windows)`` over ``(F, ...)`` sequences and blend its ``(B, window, ...)`` outputs to ``(F, ...)``.

    Windows start every ``hop`` frames; a frame is the Hann-weighted mean of the windows that hold it. A sequence
    shorter than a window is padded with its last frame. ``batch`` windows run at a time.
    """
    frames = len(sequences[0])
    starts = window_starts(frames, window, hop)
    windows = [split_windows(sequence, window, hop) for sequence in sequences]
    outputs = [
        model(*(np.ascontiguousarray(part[first : first + batch]) for part in windows))
        for first in range(0, len(starts), batch)
    ]
    merged: Array = merge_windows(np.concatenate(outputs), starts, frames)
    return merged
