"""Splitting of sequences into windows of a model's length, and merging of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import EmptySequenceError, LengthError, ShapeError, UsageError

Array = NDArray[Any]
Indices = NDArray[np.intp]


def window_starts(frames: int, window: int, hop: int | None = None) -> Indices:
    """Return the first frames of windows that cover a sequence: 0, hop, 2 hop, ...

    The last window ends with the sequence. A sequence that is shorter than a window has one window, which starts at 0.

    Args:
        frames: The number of frames of the sequence.
        window: The number of frames of a window.
        hop: The distance between two windows in frames. None: ``window``.

    Returns:
        ``(N,)``.

    Raises:
        EmptySequenceError: The sequence has no frames.
        UsageError: The hop would leave gaps between windows.
    """
    hop = window if hop is None else hop
    if window < 1 or not 1 <= hop <= window:
        raise UsageError(f"windows of {window} frames every {hop}: expected window >= 1 and 1 <= hop <= window")
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames has no windows")
    last = max(frames - window, 0)
    return np.append(np.arange(0, last, hop), last).astype(np.intp)


def window_indices(starts: ArrayLike, window: int, frames: ArrayLike) -> Indices:
    """Return the frame index of every element of every window.

    Args:
        starts: The first frame of each window, ``(N,)``.
        window: The number of frames of a window.
        frames: The number of frames of the sequence. Where several sequences lie one after the other, the frame at
            which the sequence of each window ends, ``(N, 1)``.

    Returns:
        ``(N, window)``. After the end of the sequence, the index is the last frame.
    """
    return np.asarray(
        np.minimum(np.asarray(starts, np.intp)[:, None] + np.arange(window), np.asarray(frames, np.intp) - 1)
    )


def split_windows(sequence: ArrayLike, window: int, hop: int | None = None) -> Array:
    """Split a sequence into windows that begin at `window_starts`.

    Args:
        sequence: ``(F, ...)``.
        window: The number of frames of a window.
        hop: The distance between two windows in frames. None: ``window``.

    Returns:
        ``(N, window, ...)``. The last frame pads a sequence that is shorter than a window.

    Raises:
        ShapeError: ``sequence`` is a single number.
        EmptySequenceError, UsageError: See `window_starts`.
    """
    values = np.asarray(sequence)
    if values.ndim == 0:
        raise ShapeError("found a single number, expected a sequence (frames, ...)")
    return np.asarray(values[window_indices(window_starts(len(values), window, hop), window, len(values))])


def trailing_indices(frames: int, window: int, stride: int = 1) -> Indices:
    """Return, for each frame, the frame indices of the window that ends with this frame.

    Args:
        frames: The number of frames of the sequence.
        window: The number of frames of a window.
        stride: A window takes every ``stride``-th frame.

    Returns:
        ``(frames, window)``. Before the start of the sequence, the index is the first frame.
    """
    back = stride * np.arange(window - 1, -1, -1)
    return np.asarray(np.maximum(np.arange(frames)[:, None] - back, 0), np.intp)


def blend_weights(window: int) -> NDArray[np.float64]:
    """Return a Hann window ``(window,)`` without its zeros: large weights in the middle, small weights at the ends."""
    return np.asarray(np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2)


def merge_windows(
    windows: ArrayLike,
    starts: ArrayLike,
    frames: int,
    weights: ArrayLike | None = None,
    ends: ArrayLike | None = None,
) -> Array:
    """Merge windows into a sequence: each frame is the weighted mean over the windows that contain it.

    Args:
        windows: ``(N, window, ...)``. Elements after the end of the sequence are dropped.
        starts: The first frame of each window, ``(N,)``.
        frames: The number of frames of the sequence.
        weights: ``(window,)``, positive. None: `blend_weights`.
        ends: Where several sequences lie one after the other: the frame at which the sequence of each window ends,
            ``(N,)``. None: ``frames``.

    Returns:
        ``(frames, ...)`` of the same float type.

    Raises:
        LengthError: The starts do not fit the windows, or no window contains a frame.
        ShapeError: The weights have another shape or are not positive.
    """
    values = np.asarray(windows)
    first = np.asarray(starts, dtype=np.intp)
    if values.ndim < 2 or first.shape != values.shape[:1]:
        raise LengthError(f"windows of shape {values.shape} and starts of shape {first.shape} do not go together")
    window = values.shape[1]
    factors = blend_weights(window) if weights is None else np.asarray(weights, dtype=np.float64)
    if factors.shape != (window,) or not (factors > 0).all():
        raise ShapeError(f"weights have shape {factors.shape}, expected ({window},), all positive")
    if len(np.unique(first)) < len(first) or (first < 0).any():
        raise LengthError("the starts of the windows repeat or are negative")
    last = np.full(len(first), frames) if ends is None else np.minimum(np.asarray(ends, dtype=np.intp), frames)
    total = np.zeros((frames, *values.shape[2:]))
    weight = np.zeros(frames)
    # The starts are distinct, so the elements at one offset of all windows belong to distinct frames.
    for offset in range(window):
        inside = first + offset < last
        at = first[inside] + offset
        total[at] += factors[offset] * values[inside, offset]
        weight[at] += factors[offset]
    if not (weight > 0).all():
        raise LengthError(f"frame {int(np.argmin(weight > 0))} of {frames} is in none of the windows")
    merged = total / weight.reshape(-1, *(1,) * (values.ndim - 2))
    return merged.astype(values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64)


def score_mask(starts: ArrayLike, window: int, frames: int) -> NDArray[np.bool_]:
    """Choose the elements of windows that are scored, so that each frame is scored once.

    A frame is scored in the window whose middle is nearest; if two are equally near, in the earlier window.

    Args:
        starts: The first frame of each window, ``(N,)``.
        window: The number of frames of a window.
        frames: The number of frames of the sequence.

    Returns:
        A mask ``(N, window)``.

    Raises:
        LengthError: No window contains a frame.
    """
    first = np.asarray(starts, dtype=np.intp)
    distance = np.abs(2 * np.arange(window) - (window - 1))
    best = np.full(frames, 2 * window)
    owner = np.full(frames, -1)
    for index, start in enumerate(first):
        end = min(start + window, frames)
        nearer = distance[: end - start] < best[start:end]
        best[start:end][nearer] = distance[: end - start][nearer]
        owner[start:end][nearer] = index
    if (owner < 0).any():
        raise LengthError(f"frame {int(np.argmax(owner < 0))} of {frames} is in none of the windows")
    mask = np.zeros((len(first), window), dtype=bool)
    mask[owner, np.arange(frames) - first[owner]] = True
    return mask


def window_span(window: int, stride: int) -> int:
    """Return the number of frames of a sequence from the first to the last frame of a window.

    Args:
        window: The number of frames in a window.
        stride: A window takes every ``stride``-th frame.

    Raises:
        UsageError: The stride is below 1.
    """
    if stride < 1:
        raise UsageError(f"the stride is {stride}, expected 1 or more")
    return (window - 1) * stride + 1


def tds_phases(frames: int, stride: int) -> list[Indices]:
    """Return the interleaved phases of a sequence (temporal downsampling): frames p, p + s, p + 2s, ...

    There are s = ``stride`` phases. A sequence that is shorter than the stride has one phase per frame.

    Raises:
        EmptySequenceError: The sequence has no frames.
        UsageError: The stride is below 1.
    """
    if stride < 1:
        raise UsageError(f"the stride is {stride}, expected 1 or more")
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames has no phases")
    return [np.arange(phase, frames, stride, dtype=np.intp) for phase in range(min(stride, frames))]


def merge_phases(parts: Sequence[ArrayLike], frames: int) -> Array:
    """Interleave the phases of `tds_phases` to a sequence ``(frames, ...)``.

    ``parts`` holds ``sequence[phase]`` for every phase. Raises LengthError if the phases have other lengths.
    """
    arrays = [np.asarray(part) for part in parts]
    phases = tds_phases(frames, max(len(arrays), 1))
    lengths = [len(array) for array in arrays]
    if lengths != [len(phase) for phase in phases]:
        raise LengthError(
            f"phases of {lengths} frames do not make a sequence of {frames}; "
            f"expected {[len(phase) for phase in phases]}"
        )
    merged = np.empty((frames, *arrays[0].shape[1:]), dtype=np.result_type(*arrays))
    for phase, array in zip(phases, arrays, strict=True):
        merged[phase] = array
    return merged


# Input poses are averaged over at most 5 frames with triangular weights (a stride of 3). At 50 Hz this changes fast
# motion such as running very little (measured by refiner-bench accuracy: docs/any-camera.md).
POSE_STRIDE = 3


def phase_weights(stride: int) -> NDArray[np.float64]:
    """Return triangular weights ``(2 stride - 1,)`` that sum to 1. Every phase of `tds_phases` has the same weight."""
    rising = np.arange(1, stride + 1)
    return np.asarray(np.concatenate([rising, rising[-2::-1]]) / stride**2)


def blend_phases(sequence: ArrayLike, stride: int) -> Array:
    """Average out the differences between the phases of a sequence that was estimated phase by phase.

    The model estimates each phase of `tds_phases` separately, so neighbouring frames jitter. Every frame becomes the
    weighted mean of the frames around it (`phase_weights`). At the ends, only the existing frames are averaged.

    Args:
        sequence: ``(F, ...)``.
        stride: The number of phases. With 1 nothing changes.

    Returns:
        ``(F, ...)`` of the same type.
    """
    values = np.asarray(sequence)
    if stride <= 1:
        return values
    frames, reach = len(values), stride - 1
    total, weight = np.zeros(values.shape), np.zeros(frames)
    for shift, factor in zip(range(-reach, reach + 1), phase_weights(stride), strict=True):
        target = slice(max(0, -shift), min(frames, frames - shift))
        source = slice(max(0, shift), min(frames, frames + shift))
        if target.start < target.stop:
            total[target] += factor * values[source]
            weight[target] += factor
    return np.asarray(total / weight.reshape(-1, *(1,) * (values.ndim - 1)), values.dtype)


def blend_refined(refined: ArrayLike, poses: ArrayLike, stride: int) -> Array:
    """Average out the differences between the phases of a sequence that was refined phase by phase.

    The refiner's change is averaged over its stride (`blend_phases`). The input poses are averaged over the smaller of
    ``stride`` and `POSE_STRIDE`, because a larger stride would smooth fast motion away. If ``stride`` is at most
    `POSE_STRIDE`, the result equals ``blend_phases(refined, stride)``.

    Args:
        refined: The refined poses ``(F, ...)``.
        poses: The input poses of the refiner ``(F, ...)``.
        stride: The stride of the refiner's windows in frames.

    Returns:
        ``(F, ...)``.
    """
    original = np.asarray(poses)
    change = np.asarray(refined) - original
    return np.asarray(blend_phases(original, min(stride, POSE_STRIDE)) + blend_phases(change, stride), change.dtype)
