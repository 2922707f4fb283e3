"""Detection and repair of frames in which a detector swapped the left and right labels of the legs or arms.

When the labels swap, the joints jump by the width of the body, and when the labels swap back, the joints jump back.
Dynamic programming finds the cheapest sequence of states (swapped or not) over the frames, separately for the legs and
for the arms. A body that is seen from the side hardly jumps, so nothing is changed there. Labels that are swapped in
all frames cannot be detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.reasons import Note
from refiner.skeleton import LEFT, RIGHT

Pairs = Sequence[tuple[int, int]]
# Pairs of left and right joints of the legs, and of the arms with their shoulders, in Human3.6M's order.
LEGS: Pairs = ((4, 1), (5, 2), (6, 3))
ARMS: Pairs = ((11, 14), (12, 15), (13, 16))
# The cost of one swap and the swap back, per joint, in units of the spread of the body. A jump must be larger than the
# usual motion of a body between two frames.
SWAP_COST = 0.35
# The small cost of a frame with swapped labels. If two explanations are equal, the detector's labels win.
FRAME_COST = 0.004
# The upper limit for the cost of a jump, so that an outlier of the detector does not decide.
LARGEST_JUMP = 1.5
assert {joint for pair in (*LEGS, *ARMS) for joint in pair} == set(LEFT) | set(RIGHT)


def swapped_frames(pose: NDArray[np.float64], missing: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.bool_]:
    """Find the frames in which the left and right labels of ``pairs`` are swapped.

    Args:
        pose: ``(F, 17, 2 or 3)``, finite, in any unit.
        missing: ``(F, 17)``, true for joints that are not used.
        pairs: Pairs (left joint, right joint).

    Returns:
        ``(F,)``, true for the swapped frames.
    """
    return _swapped(pose / _size(pose), ~missing, pairs)


def _size(pose: NDArray[np.float64]) -> float:
    """The usual spread of the joints ``(F, 17, 2 or 3)``, which is the unit of the costs."""
    offset = pose - pose.mean(axis=1, keepdims=True)
    spread = np.sqrt(_squared(offset).mean(axis=-1))
    return float(np.maximum(np.median(spread), 1e-9))


def _squared(offset: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of squares over the last axis. NumPy is slow with sums over short axes."""
    total = offset[..., 0] * offset[..., 0]
    for axis in range(1, offset.shape[-1]):
        total += offset[..., axis] * offset[..., axis]
    return np.asarray(total)


def _swapped(pose: NDArray[np.float64], detected: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.bool_]:
    """As `swapped_frames`, for poses in units of the body."""
    if len(pose) < 3:
        return np.zeros(len(pose), dtype=bool)
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    same, changed = _jumps(pose, detected, left, right)
    if float((same - changed).max()) <= 0.5 * SWAP_COST:
        # A swap and the swap back gain less than they cost.
        return np.zeros(len(pose), dtype=bool)
    return _cheapest(same.tolist(), changed.tolist())


def _cheapest(same: list[float], changed: list[float]) -> NDArray[np.bool_]:
    """Return the cheapest state (labels swapped or not) of every frame.

    ``same`` and ``changed`` hold, for each pair of consecutive frames, the cost of keeping and of changing the state.
    """
    half = 0.5 * SWAP_COST
    plain, swapped = 0.0, half
    # For both states of a frame: whether the frame before it was swapped.
    before: list[tuple[bool, bool]] = []
    for same_cost, changed_cost in zip(same, changed, strict=True):
        from_swapped, to_swapped = swapped + changed_cost + half, plain + changed_cost + half
        before.append((from_swapped < plain + same_cost, swapped + same_cost <= to_swapped))
        plain, swapped = min(plain + same_cost, from_swapped), min(swapped + same_cost, to_swapped) + FRAME_COST
    state = swapped + half < plain
    states = [state]
    for choices in reversed(before):
        state = choices[state]
        states.append(state)
    return np.array(states[::-1])


def exchange_sides(values: NDArray[Any], swapped: NDArray[np.bool_], pairs: Pairs) -> NDArray[Any]:
    """Exchange the left and right joints in the swapped frames.

    Args:
        values: ``(F, 17, ...)``, for example poses or confidences.
        swapped: ``(F,)``, true for the frames to change.
        pairs: Pairs (left joint, right joint).

    Returns:
        A changed copy, ``(F, 17, ...)``.
    """
    result = values.copy()
    for left, right in pairs:
        result[swapped, left], result[swapped, right] = values[swapped, right], values[swapped, left]
    return result


def _jumps(
    pose: NDArray[np.float64], detected: NDArray[np.bool_], left: list[int], right: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean movement of the joints from each frame to the next, ``(F - 1,)`` twice.

    The first array uses the labels as they are, the second array swaps the labels of one of the two frames. A joint
    that is missing in either frame is not used.
    """

    def moved(before: list[int], after: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        distance = np.sqrt(_squared(pose[1:, after] - pose[:-1, before]))
        usable = detected[1:, after] & detected[:-1, before]
        return (np.minimum(distance, LARGEST_JUMP) * usable).sum(axis=-1), usable.sum(axis=-1).astype(float)

    def mean(*parts: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.float64]:
        total, number = (sum(values) for values in zip(*parts, strict=True))
        return np.asarray(total / np.maximum(number, 1.0))

    return mean(moved(left, left), moved(right, right)), mean(moved(left, right), moved(right, left))


def find_swapped_sides(pose: NDArray[np.float64], missing: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], Pairs]]:
    """Find swapped legs and swapped arms.

    The arguments are the same as for `swapped_frames`.

    Returns:
        (swapped frames, pairs) for `exchange_sides`; empty if no labels are swapped.
    """
    scaled, detected = pose / _size(pose), ~missing
    limbs = [(_swapped(scaled, detected, pairs), pairs) for pairs in (LEGS, ARMS)]
    return [(swapped, pairs) for swapped, pairs in limbs if swapped.any()]


def swapped_sides(swapped: NDArray[np.bool_], name: str) -> Note:
    """A note about frames ``(F,)`` whose left and right were exchanged; ``name`` is the argument of the poses."""
    return Note(
        "sides exchanged",
        f"{name}: left and right of legs or arms were swapped in {int(swapped.sum())} of {len(swapped)} frames, "
        f"first frame {int(np.argmax(swapped))}; they are exchanged",
        swapped,
    )
