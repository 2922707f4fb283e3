"""Run a window model over sequences of any length: cut overlapping windows, run them, blend the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
Indices = NDArray[np.intp]

# The fastest of 4, 16 and 64 on two cores (C = 64); at C = 256 and 27 frames its widest layer takes 0.24 GB.
DEFAULT_BATCH = 64
# Windows whose outputs are kept until they are merged: about 9 MB.
MERGED_WINDOWS = 1664
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


@dataclass(frozen=True, eq=False)
class Run:
    """A sequence, or a part of one, that a model runs over.

    Attributes:
        arrays: the model's inputs ``(F, ...)`` that have a row for each frame.
        constants: its other inputs ``(...)``, the same for all frames, such as the size of the image.
        given: only for a refiner: the ``(F, J, 3)`` poses that it refines.
    """

    arrays: tuple[Array, ...]
    constants: tuple[Array, ...] = ()
    given: Array | None = None

    @property
    def frames(self) -> int:
        """F, the number of frames."""
        return len(self.arrays[0])


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
    return run_strided(model, [Run(sequences)], window, hop, batch, least_batch)[0]


def run_strided(
    model: Callable[..., Array],
    runs: Sequence[Run],
    window: int,
    hop: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
    stride: int = 1,
) -> list[Array]:
    """Run a model over windows of many sequences, which share batches, and blend its outputs as `run_windows`.

    The windows hold every ``stride``-th frame (temporal downsampling). A sequence splits into ``stride`` interleaved
    phases, and each phase has windows of its own. The phases disagree a little; `blend_phases` (for a lifter) or
    `blend_refined` (for a refiner) evens that out. A sequence that is shorter than such a window gets a smaller stride.

    Args:
        model: takes one ``(B, window, ...)`` array for each of `Run.arrays` and one ``(B, ...)`` array for each of
            `Run.constants`, and returns ``(B, window, ...)``.
        runs: the sequences.
        window, hop, batch, least_batch: see `run_windows`.
        stride: the distance, in frames of the sequence, between two neighbouring frames of a window.

    Returns:
        ``(F, ...)`` for each sequence.
    """
    strides = [max(1, min(stride, (run.frames - 1) // max(window - 1, 1))) for run in runs]
    segments = [
        _Segment(number, phase, window_starts(len(phase), window, hop))
        for number, (run, taken) in enumerate(zip(runs, strides, strict=True))
        for phase in tds_phases(run.frames, taken)
    ]
    pieces: list[list[Array]] = [[] for _ in runs]
    for group in _groups(segments):
        outputs = _run_group(model, runs, group, window, batch, least_batch)
        for segment, piece in zip(group, outputs, strict=True):
            pieces[segment.number].append(piece)
    results = []
    for run, taken, parts in zip(runs, strides, pieces, strict=True):
        merged = merge_phases(parts, run.frames)
        results.append(blend_phases(merged, taken) if run.given is None else blend_refined(merged, run.given, taken))
    return results


@dataclass(frozen=True, eq=False)
class _Segment:
    """One phase of one sequence.

    Attributes:
        number: of the sequence.
        phase: ``(f,)``, its frames.
        starts: ``(n,)``, the first frames of its windows, counted within the phase.
    """

    number: int
    phase: Indices
    starts: Indices


def _groups(segments: Sequence[_Segment]) -> Iterator[list[_Segment]]:
    """Segments whose windows are merged at a time, so that memory does not grow with all the windows."""
    group: list[_Segment] = []
    windows = 0
    for segment in segments:
        group.append(segment)
        windows += len(segment.starts)
        if windows >= MERGED_WINDOWS:
            yield group
            group, windows = [], 0
    if group:
        yield group


def _run_group(
    model: Callable[..., Array],
    runs: Sequence[Run],
    group: Sequence[_Segment],
    window: int,
    batch: int,
    least_batch: int,
) -> list[Array]:
    """The merged outputs of each segment. All segments lie one after the other in one array of frames."""
    first = runs[group[0].number]
    arrays = [
        np.concatenate([runs[segment.number].arrays[index][segment.phase] for segment in group])
        for index in range(len(first.arrays))
    ]
    constants = [
        np.stack([runs[segment.number].constants[index] for segment in group]) for index in range(len(first.constants))
    ]
    counts = [len(segment.starts) for segment in group]
    lengths = np.array([len(segment.phase) for segment in group])
    segment_ends = np.cumsum(lengths)
    owners = np.repeat(np.arange(len(group)), counts)  # [N], the segment of each window
    starts = np.concatenate([segment.starts for segment in group]) + (segment_ends - lengths)[owners]
    ends = segment_ends[owners]
    outputs = []
    for begin in range(0, len(starts), batch):
        some = np.arange(begin, min(begin + batch, len(starts)))
        filled = np.append(some, np.repeat(some[-1:], max(least_batch - len(some), 0)))
        index = window_indices(starts[filled], window, ends[filled, None])  # [B, window]
        outputs.append(model(*(array[index] for array in arrays), *(rows[owners[filled]] for rows in constants)))
        outputs[-1] = outputs[-1][: len(some)]
    return np.split(merge_windows(np.concatenate(outputs), starts, int(segment_ends[-1]), ends=ends), segment_ends[:-1])


def run_live(
    model: Callable[..., Array],
    run: Run,
    window: int,
    batch: int = DEFAULT_BATCH,
    least_batch: int = 1,
    stride: int = 1,
) -> Array:
    """Run a model as a stream without delay does: each frame is the last frame of a window of its own.

    Such a window holds the frame and the frames before it (`trailing_indices`). The arguments and the result are those
    of `run_strided`, for one sequence.
    """
    index = trailing_indices(run.frames, window, stride)
    outputs = []
    for first in range(0, len(index), batch):
        some = index[first : first + batch]
        filled = np.concatenate([some, np.repeat(some[-1:], max(least_batch - len(some), 0), axis=0)])
        constants = (np.repeat(row[None], len(filled), axis=0) for row in run.constants)
        outputs.append(model(*(array[filled] for array in run.arrays), *constants)[: len(some), -1])
    return np.concatenate(outputs)


def run_causal(
    model: Callable[..., Array], runs: Sequence[Run], reach: int, batch: int = DEFAULT_BATCH, part: int = CAUSAL_PART
) -> list[Array]:
    """Run a causal model over sequences; the result equals one pass over each whole sequence.

    The model runs over ``part`` frames at a time, so that memory does not grow with the sequences. Pieces of like
    length share a batch; the last frame pads the shorter ones, which changes none of the frames before it.

    Args:
        model: takes one ``(B, F', ...)`` array for each of `Run.arrays`, of any length, and one ``(B, ...)`` array for
            each of `Run.constants`, and returns ``(B, F', ...)``.
        runs: the sequences.
        reach: the number of earlier frames that the result of a frame depends on. Each piece starts that many frames
            earlier.
        batch: pieces that run at a time.
        part: frames that a sequence gets from one piece, and the frames of a batch of several pieces.

    Returns:
        ``(F, ...)`` for each sequence.
    """
    pieces = [
        _Piece(number, max(0, first - reach), first, min(first + part, run.frames))
        for number, run in enumerate(runs)
        for first in range(0, run.frames, part)
    ]
    outputs: list[dict[int, Array]] = [{} for _ in runs]
    for group in _alike(pieces, batch, part):
        longest = group[0].frames
        index = [np.minimum(piece.begin + np.arange(longest), piece.end - 1) for piece in group]
        inputs = [
            np.stack([runs[piece.number].arrays[k][rows] for piece, rows in zip(group, index, strict=True)])
            for k in range(len(runs[0].arrays))
        ]
        inputs += [
            np.stack([runs[piece.number].constants[k] for piece in group]) for k in range(len(runs[0].constants))
        ]
        for piece, output in zip(group, model(*inputs), strict=True):
            outputs[piece.number][piece.first] = output[piece.first - piece.begin : piece.end - piece.begin]
    return [np.concatenate([found[first] for first in sorted(found)]) for found in outputs]


@dataclass(frozen=True)
class _Piece:
    """The frames ``begin`` to ``end`` of a sequence, whose results count from the frame ``first`` on."""

    number: int
    begin: int
    first: int
    end: int

    @property
    def frames(self) -> int:
        return self.end - self.begin


def _alike(pieces: Sequence[_Piece], batch: int, part: int) -> Iterator[list[_Piece]]:
    """Pieces of like length, the longest first; together at most ``part`` frames, or one piece alone."""
    group: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: -piece.frames):
        if group and (len(group) == batch or (len(group) + 1) * group[0].frames > part):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


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
