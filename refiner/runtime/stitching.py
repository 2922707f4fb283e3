"""A window model over a sequence of any length: overlapping windows, blended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refiner.data.windows import (
    blend_phases,
    blend_refined,
    merge_phases,
    merge_windows,
    tds_phases,
    trailing_indices,
    window_indices,
    window_starts,
)
from refiner.errors import UsageError
from refiner.skeleton import flip_pose

Array = NDArray[np.float32]

# The fastest of 4, 16 and 64 on two cores (C = 64); at C = 256 and 27 frames its widest layer takes 0.24 GB.
DEFAULT_BATCH = 64
# Frames of a causal pass at a time: at C = 256 its widest layer takes 0.3 GB.
CAUSAL_PART = 2048


def check_hop(hop: int | None, window: int) -> int:
    """The distance of two windows; None is half a window. Raises UsageError unless 1 <= hop <= window."""
    if hop is None:
        return max(1, window // 2)
    if not 1 <= hop <= window:
        raise UsageError(f"hop must lie between 1 and the window's {window} frames, got {hop}")
    return hop


def run_windows(
    model: Callable[..., Array],
    sequences: tuple[Array, ...],
    window: int,
    hop: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
) -> Array:
    """Run ``model(*windows)`` over ``(F, ...)`` sequences and blend its ``(B, window, ...)`` outputs to ``(F, ...)``.

    Windows start every ``hop`` frames; a frame is the Hann-weighted mean of the windows that hold it. A sequence
    shorter than a window is padded with its last frame. ``batch`` windows run at a time; where fewer than
    ``least_batch`` are left, the last of them fills up, and what comes of it is dropped.
    """
    frames = len(sequences[0])
    starts = window_starts(frames, window, hop)
    outputs = []
    for first in range(0, len(starts), batch):
        some = starts[first : first + batch]
        filled = np.append(some, np.repeat(some[-1:], max(least_batch - len(some), 0)))
        frame = window_indices(filled, window, frames)
        outputs.append(model(*(sequence[frame] for sequence in sequences))[: len(some)])
    merged: Array = merge_windows(np.concatenate(outputs), starts, frames)
    return merged


def run_strided(
    model: Callable[..., Array],
    sequences: tuple[Array, ...],
    window: int,
    hop: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
    stride: int = 1,
    given: Array | None = None,
) -> Array:
    """`run_windows` with windows of every ``stride``-th frame (temporal downsampling): each of the interleaved phases
    of a sequence by itself. What the phases disagree in is evened out: of a lifter by `blend_phases`, of a refiner of
    the poses ``given`` by `blend_refined`. A sequence that is shorter than such a window has a smaller stride."""
    frames = len(sequences[0])
    taken = max(1, min(stride, (frames - 1) // max(window - 1, 1)))
    parts = [
        run_windows(model, tuple(sequence[phase] for sequence in sequences), window, hop, batch, least_batch)
        for phase in tds_phases(frames, taken)
    ]
    merged = merge_phases(parts, frames)
    return blend_phases(merged, taken) if given is None else blend_refined(merged, given, taken)


def run_live(
    model: Callable[..., Array],
    sequences: tuple[Array, ...],
    window: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
    stride: int = 1,
) -> Array:
    """``model`` as a stream runs it that answers at once: each frame is the last one of a window of those before it
    (`trailing_indices`). Arguments as for `run_strided`."""
    index = trailing_indices(len(sequences[0]), window, stride)
    outputs = []
    for first in range(0, len(index), batch):
        some = index[first : first + batch]
        filled = np.concatenate([some, np.repeat(some[-1:], max(least_batch - len(some), 0), axis=0)])
        outputs.append(model(*(sequence[filled] for sequence in sequences))[: len(some), -1])
    return np.concatenate(outputs)


def run_causal(model: Callable[..., Array], sequences: tuple[Array, ...], reach: int, part: int = CAUSAL_PART) -> Array:
    """A causal ``model(*sequences)``, ``(1, F, ...)`` of any length, over ``(F, ...)`` sequences, exactly.

    It runs over ``part`` frames at a time, so that memory does not grow with the sequence, each time from ``reach``
    frames earlier on: as far back as a frame depends on others.
    """
    outputs = []
    for first in range(0, len(sequences[0]), part):
        begin = max(0, first - reach)
        output = model(*(sequence[None, begin : first + part] for sequence in sequences))
        outputs.append(output[0, first - begin :])
    return np.concatenate(outputs)


def mirror_pixels(pixels: Array, width: float) -> Array:
    """``(..., J, 2)`` pixels, or ``(..., J, 3)`` with their confidence, of the mirror image: x becomes width - x, left
    and right joints change places."""
    mirrored = flip_pose(pixels)
    mirrored[..., 0] += width  # -x about the image's left edge, moved back into the image
    return mirrored
