"""Sequences of any length as windows of a model's length, and back; every frame counted once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import EmptySequenceError, LengthError, ShapeError, UsageError

Array = NDArray[Any]
Indices = NDArray[np.intp]


def window_starts(frames: int, window: int, hop: int | None = None) -> Indices:
    """First frames of windows that cover ``frames``: 0, hop, 2 hop ..., the last one ending with the
    sequence.

    ``hop`` None is ``window``. A sequence shorter than a window has one, starting at 0. Raises
    EmptySequenceError for no frames and UsageError for a hop that would leave gaps.
    """
    hop = window if hop is None else hop
    if window < 1 or not 1 <= hop <= window:
        raise UsageError(f"windows of {window} frames every {hop}: expected window >= 1 and 1 <= hop <= window")
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames has no windows")
    last = max(frames - window, 0)
    return np.append(np.arange(0, last, hop), last).astype(np.intp)


def window_indices(starts: ArrayLike, window: int, frames: int) -> Indices:
    """The frame of every place of every window ``(N, window)``; after the end, the last frame again."""
    return np.asarray(np.minimum(np.asarray(starts, np.intp)[:, None] + np.arange(window), frames - 1))


def split_windows(sequence: ArrayLike, window: int, hop: int | None = None) -> Array:
    """``(F, ...)`` -> ``(N, window, ...)`` at `window_starts`; its last frame pads a short sequence."""
    values = np.asarray(sequence)
    if values.ndim == 0:
        raise ShapeError("found a single number, expected a sequence (frames, ...)")
    return np.asarray(values[window_indices(window_starts(len(values), window, hop), window, len(values))])


def trailing_indices(frames: int, window: int, stride: int = 1) -> Indices:
    """For each frame, the frames of the window that ends with it, ``(frames, window)``.

    A window takes every ``stride``-th frame; where it would begin before the sequence, the first frame is repeated."""
    back = stride * np.arange(window - 1, -1, -1)
    return np.asarray(np.maximum(np.arange(frames)[:, None] - back, 0), np.intp)


def blend_weights(window: int) -> NDArray[np.float64]:
    """A Hann window ``(window,)`` without its zeros: the middle counts most, the ends a little."""
    return np.asarray(np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2)


def merge_windows(windows: ArrayLike, starts: ArrayLike, frames: int, weights: ArrayLike | None = None) -> Array:
    """``(N, window, ...)`` -> ``(frames, ...)``: the weighted mean of the windows that hold a frame.

    ``weights`` ``(window,)``, positive; None takes `blend_weights`. The float type is kept; places after the
    end are dropped. Raises LengthError where the starts do not fit the windows or a frame is in none of them.
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
    total = np.zeros((frames, *values.shape[2:]))
    weight = np.zeros(frames)
    # Starts are distinct, so that one place of all windows never falls twice on a frame.
    for place in range(window):
        inside = first + place < frames
        at = first[inside] + place
        total[at] += factors[place] * values[inside, place]
        weight[at] += factors[place]
    if not (weight > 0).all():
        raise LengthError(f"frame {int(np.argmin(weight > 0))} of {frames} is in none of the windows")
    merged = total / weight.reshape(-1, *(1,) * (values.ndim - 2))
    return merged.astype(values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64)


def score_mask(starts: ArrayLike, window: int, frames: int) -> NDArray[np.bool_]:
    """Which places of which windows count, ``(N, window)``: each frame once, in the window whose middle is
    nearest.

    Of two windows equally near the earlier one counts. Raises LengthError where a frame is in none of them.
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


def tds_phases(frames: int, stride: int) -> list[Indices]:
    """The ``stride`` interleaved phases of a sequence (temporal downsampling): frames p, p + s, p + 2s, ...

    A sequence shorter than the stride has one phase per frame. Raises EmptySequenceError for no frames and
    UsageError for a stride below 1.
    """
    if stride < 1:
        raise UsageError(f"the stride is {stride}, expected 1 or more")
    if frames < 1:
        raise EmptySequenceError(f"a sequence of {frames} frames has no phases")
    return [np.arange(phase, frames, stride, dtype=np.intp) for phase in range(min(stride, frames))]


def merge_phases(parts: Sequence[ArrayLike], frames: int) -> Array:
    """The inverse of taking ``sequence[phase]`` for every phase of `tds_phases`: ``(frames, ...)``."""
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


# Poses are averaged over 5 frames at most, weighted by a triangle: at 50 Hz little is lost of running (measured by
# refiner-bench accuracy: docs/any-camera.md).
POSE_STRIDE = 3


def phase_weights(stride: int) -> NDArray[np.float64]:
    """A triangle ``(2 stride - 1,)`` that sums to 1, in which every phase of `tds_phases` weighs alike."""
    rising = np.arange(1, stride + 1)
    return np.asarray(np.concatenate([rising, rising[-2::-1]]) / stride**2)


def blend_phases(sequence: ArrayLike, stride: int) -> Array:
    """``(F, ...)`` whose frames come from `tds_phases` in turn -> the same with what the phases disagree in evened out.

    Each phase is estimated by itself, so that neighbouring frames tremble against each other; every frame becomes the
    mean of those around it by `phase_weights`, at the ends of those that there are. With a stride of 1 nothing changes.
    """
    values = np.asarray(sequence)
    if stride <= 1:
        return values
    frames, reach = len(values), stride - 1
    total, weight = np.zeros(values.shape), np.zeros(frames)
    for shift, factor in zip(range(-reach, reach + 1), phase_weights(stride), strict=True):
        here = slice(max(0, -shift), min(frames, frames - shift))
        there = slice(max(0, shift), min(frames, frames + shift))
        if here.start < here.stop:
            total[here] += factor * values[there]
            weight[here] += factor
    return np.asarray(total / weight.reshape(-1, *(1,) * (values.ndim - 1)), values.dtype)


def blend_refined(refined: ArrayLike, given: ArrayLike, stride: int) -> Array:
    """`blend_phases` of the poses ``(F, ...)`` that a refiner of every ``stride``-th frame made of ``given``.

    What the refiner changed is evened out over its stride. The given poses are evened out over `POSE_STRIDE` frames at
    most: over more of them fast motion would be smoothed away. Up to that stride this equals ``blend_phases(refined)``.
    """
    poses = np.asarray(given)
    change = np.asarray(refined) - poses
    return np.asarray(blend_phases(poses, min(stride, POSE_STRIDE)) + blend_phases(change, stride), change.dtype)
