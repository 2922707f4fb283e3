"""Left and right that a detector took for each other for a stretch of frames, told by the frames around it.

Where the labels of a body's left and right change over, the joints jump by its width; back again, they jump back. The
cheapest way through the frames, with and without swapped labels, is found by dynamic programming for the legs and for
the rest of the body apart. A body seen from its side hardly jumps, and then nothing is changed; nor can it be told that
labels are swapped from the first frame to the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputWarning
from refiner.skeleton import LEFT, RIGHT

Pairs = Sequence[tuple[int, int]]
# Pairs of left and right joints of the legs, and of the arms with their shoulders, in Human3.6M's order.
LEGS: Pairs = ((4, 1), (5, 2), (6, 3))
ARMS: Pairs = ((11, 14), (12, 15), (13, 16))
# What it costs to swap labels and to take them back, in spreads of the body and joints: a jump must be larger than what
# bodies do between two frames.
SWAP_COST = 0.35
# A frame with swapped labels costs a little, so that of two equal explanations the detector's own is kept.
FRAME_COST = 0.004
# No jump costs more than this: a joint that a detector throws away must not decide.
LARGEST_JUMP = 1.5
assert {joint for pair in (*LEGS, *ARMS) for joint in pair} == set(LEFT) | set(RIGHT)


def swapped_frames(pose: NDArray[np.float64], missing: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.bool_]:
    """Frames whose labels of left and right are swapped in ``pairs``: ``(F,)``.

    Args:
        pose: ``(F, 17, 2 or 3)``, finite, in any unit. missing: ``(F, 17)`` joints that say nothing.
    """
    if len(pose) < 3:
        return np.zeros(len(pose), dtype=bool)
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    spread = np.sqrt(((pose - pose.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=-1))
    unit = np.maximum(np.median(spread), 1e-9)
    kept, changed = _jumps(pose / unit, ~missing, left, right)
    return _cheapest(kept.tolist(), changed.tolist())


def _cheapest(kept: list[float], changed: list[float]) -> NDArray[np.bool_]:
    """The cheapest states (labels swapped or not) of all frames, from what it costs to go from each to the next."""
    half = 0.5 * SWAP_COST
    plain, swapped = 0.0, half
    # For both states of a frame: whether the frame before it was swapped.
    before: list[tuple[bool, bool]] = []
    for stays, leaps in zip(kept, changed, strict=True):
        from_swapped, to_swapped = swapped + leaps + half, plain + leaps + half
        before.append((from_swapped < plain + stays, swapped + stays <= to_swapped))
        plain, swapped = min(plain + stays, from_swapped), min(swapped + stays, to_swapped) + FRAME_COST
    state = swapped + half < plain
    states = [state]
    for choices in reversed(before):
        state = choices[state]
        states.append(state)
    return np.array(states[::-1])


def with_sides_back(values: NDArray[Any], swapped: NDArray[np.bool_], pairs: Pairs) -> NDArray[Any]:
    """``(F, 17, ...)`` with left and right of ``pairs`` exchanged in the ``swapped`` frames; the input is not
    changed."""
    result = values.copy()
    for left, right in pairs:
        result[swapped, left], result[swapped, right] = values[swapped, right], values[swapped, left]
    return result


def _jumps(
    pose: NDArray[np.float64], there: NDArray[np.bool_], left: list[int], right: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From each frame to the next, ``(F - 1,)`` each: the mean movement of the pairs with the labels as they are, and
    with those of one of the two frames swapped. Joints that are missing in either frame count for nothing."""

    def moved(before: list[int], after: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        distance = np.linalg.norm(pose[1:, after] - pose[:-1, before], axis=-1)
        seen = there[1:, after] & there[:-1, before]
        return (np.minimum(distance, LARGEST_JUMP) * seen).sum(axis=-1), seen.sum(axis=-1).astype(float)

    def mean(*parts: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        total, number = (sum(values) for values in zip(*parts, strict=True))
        return np.asarray(total / np.maximum(number, 1.0))

    return mean(moved(left, left), moved(right, right)), mean(moved(left, right), moved(right, left))


def sides_back(pose: NDArray[np.float64], missing: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], Pairs]]:
    """What `with_sides_back` must exchange so that left and right are a body's own: frames and pairs, nothing where all
    is right. Arguments as for `swapped_frames`."""
    found = [(swapped_frames(pose, missing, pairs), pairs) for pairs in (LEGS, ARMS)]
    return [(swapped, pairs) for swapped, pairs in found if swapped.any()]


def warn_of_sides(swapped: NDArray[np.bool_], what: str) -> None:
    """Tell the caller of a runtime's method which frames had their left and right exchanged."""
    warnings.warn(
        f"{what}: left and right of legs or arms were swapped in {int(swapped.sum())} of {len(swapped)} frames, "
        f"first frame {int(np.argmax(swapped))}; they are exchanged",
        InputWarning,
        stacklevel=5,
    )
