"""Run a window model over a sequence of any length: cut overlapping windows, run them, blend the results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refiner.arguments import check_whole
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
from refiner.skeleton import flip_pose

Array = NDArray[np.float32]

# The fastest of 4, 16 and 64 on two cores (C = 64); at C = 256 and 27 frames its widest layer takes 0.24 GB.
DEFAULT_BATCH = 64
# The frames that a causal pass takes at a time: at C = 256 its widest layer takes 0.3 GB.
CAUSAL_PART = 2048


def check_hop(hop: int | None, window: int) -> int:
    """The distance between the starts of two windows; None is half a window.

    Raises:
        UsageError: ``hop`` is no whole number from 1 to ``window``.
    """
    if hop is None:
        return max(1, window // 2)
    return check_whole(hop, f"hop, in a window of {window} frames,", 1, window)


def run_windows(
    model: Callable[..., Array],
    sequences: tuple[Array, ...],
    window: int,
    hop: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
) -> Array:
    """Run a model over overlapping windows of a sequence and blend its outputs.

    A frame of the result is the Hann-weighted mean of the windows that hold it. A sequence shorter than a window is
    padded with its last frame.

    Args:
        model: takes one ``(B, window, ...)`` array for each sequence and returns ``(B, window, ...)``.
        sequences: arrays ``(F, ...)`` of the same length.
        window: the number of frames in a window.
        hop: frames from the start of one window to the start of the next.
        batch: windows that run at a time.
        least_batch: where fewer windows are left, the last one is repeated up to this number, and the outputs of the
            repeated windows are dropped.

    Returns:
        ``(F, ...)``.
    """
    frames = len(sequences[0])
    starts = window_starts(frames, window, hop)
    outputs = []
    for first in range(0, len(starts), batch):
        some = starts[first : first + batch]
        filled = np.append(some, np.repeat(some[-1:], max(least_batch - len(some), 0)))
        index = window_indices(filled, window, frames)  # [B, window]
        outputs.append(model(*(sequence[index] for sequence in sequences))[: len(some)])
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
    """Like `run_windows`, but with windows that hold every ``stride``-th frame (temporal downsampling).

    The sequence splits into ``stride`` interleaved phases, and each phase runs by itself. The phases disagree a little;
    `blend_phases` (for a lifter) or `blend_refined` (for a refiner) evens that out. A sequence that is shorter than
    such a window gets a smaller stride.

    Args:
        model, sequences, window, hop, batch, least_batch: see `run_windows`.
        stride: the distance, in frames of the sequence, between two neighbouring frames of a window.
        given: only for a refiner: the ``(F, J, 3)`` poses that it refines.

    Returns:
        ``(F, ...)``.
    """
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
    """Run a model as a stream without delay does: each frame is the last frame of a window of its own.

    Such a window holds the frame and the frames before it (`trailing_indices`). The arguments and the result are those
    of `run_strided`.
    """
    index = trailing_indices(len(sequences[0]), window, stride)
    outputs = []
    for first in range(0, len(index), batch):
        some = index[first : first + batch]
        filled = np.concatenate([some, np.repeat(some[-1:], max(least_batch - len(some), 0), axis=0)])
        outputs.append(model(*(sequence[filled] for sequence in sequences))[: len(some), -1])
    return np.concatenate(outputs)


def run_causal(model: Callable[..., Array], sequences: tuple[Array, ...], reach: int, part: int = CAUSAL_PART) -> Array:
    """Run a causal model over a sequence; the result equals one pass over the whole sequence.

    The model runs over ``part`` frames at a time, so that memory does not grow with the sequence.

    Args:
        model: takes one ``(1, F', ...)`` array for each sequence, of any length, and returns ``(1, F', ...)``.
        sequences: arrays ``(F, ...)`` of the same length.
        reach: the number of earlier frames that the result of a frame depends on. Each part starts that many frames
            earlier.
        part: frames in a part.

    Returns:
        ``(F, ...)``.
    """
    outputs = []
    for first in range(0, len(sequences[0]), part):
        begin = max(0, first - reach)
        output = model(*(sequence[None, begin : first + part] for sequence in sequences))
        outputs.append(output[0, first - begin :])
    return np.concatenate(outputs)


def mirror_pixels(pixels: Array, width: float) -> Array:
    """Mirror a 2D pose: x becomes width - x, and left and right joints are exchanged.

    Args:
        pixels: ``(..., J, 2)`` pixels, or ``(..., J, 3)`` pixels and confidence.
        width: of the image, in pixels.

    Returns:
        The mirrored pose, of the same shape.
    """
    mirrored = flip_pose(pixels)
    mirrored[..., 0] += width  # -x about the image's left edge, moved back into the image
    return mirrored
