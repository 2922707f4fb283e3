"""Where a body of known shape stands: the root's positions that fit the rays to its joints, smooth over time.

All frames are solved together by Gauss-Newton. Each frame gives a 3 x 3 system from the reprojection of its joints,
with outliers weighted down; a penalty on the acceleration of the root joins the frames. The system is banded, so that a
frame costs about 20 thousand operations, whatever the length of the sequence. The residuals of a frame are measured in
metres at the distance of the root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refiner.errors import EmptySequenceError

Array = NDArray[np.float64]

# The constants are chosen on the validation subject, seen by random cameras. Stronger smoothing would lower the error
# by another 5 %, but would take most of a fast motion along the viewing ray away: a step towards the camera and back
# within a second, at 5 m.
# Acceleration is penalised so that motion across the view passes up to this frequency, where all joints are seen.
CUTOFF_HZ = 8.0
# The joints of a frame err together in their distance, and so do neighbouring frames: an error in the size of the body
# is one error and not seventeen. The information along the viewing ray therefore counts by this factor.
DEPTH_TRUST = 0.1
# Metres at which a joint counts half (Cauchy's weights).
OUTLIER_M = 0.1
# Metres at which a foot that is off the floor counts half, and the weight of the floor, in joints.
OFF_FLOOR_M, FLOOR_WEIGHT = 0.1, 0.15
# Fewer joints do not determine the distance of a frame well. The limit is that of the lifter's input.
LEAST_JOINTS = 6
# Over longer gaps the motion is not known: the root goes straight from one end to the other.
LONGEST_GAP_S = 0.5
# Every joint stays this far in front of the lens.
NEAREST_M = 0.1
MOST_ITERATIONS, SETTLED_M = 30, 1e-5
JOINTS = 17


@dataclass(frozen=True, eq=False)
class FloorFit:
    """A floor that the feet stand on.

    Attributes:
        down: ``(3,)``, the direction of gravity in camera axes.
        distance: Metres from the lens straight down to the ankles of a standing person.
        ankle: ``(F, 3)`` metres: the lower ankle relative to the root.
        weight: ``(F,)``: the confidence of this ankle, 0 where it is not seen.
    """

    down: Array
    distance: float
    ankle: Array
    weight: Array


def anchored_frames(weights: Array) -> NDArray[np.bool_]:
    """The frames ``(F,)`` whose joints determine where the person is.

    Args:
        weights: ``(F, 17)``, the confidence of each joint; 0 where it is missing.

    Raises:
        EmptySequenceError: No frame shows two joints.
    """
    seen = (weights > 0).sum(axis=1)
    if seen.max(initial=0) < 2:
        raise EmptySequenceError("no frame shows two joints of the person, so nobody knows where it stands")
    return np.asarray(seen >= min(LEAST_JOINTS, int(seen.max())))


def fit_root(rays: Array, weights: Array, body: Array, fps: float, floor: FloorFit | None = None) -> Array:
    """Find the root's positions.

    A frame with few joints takes what they tell, and the rest from its neighbours. Frames in gaps of more than half a
    second, and those before the first and behind the last frame with enough joints, are interpolated linearly.

    Args:
        rays: ``(F, 17, 2)``, x / z and y / z of the rays to the joints. Rays of weight 0 are not used.
        weights: ``(F, 17)``, the confidence of each joint; 0 where it is missing.
        body: ``(F, 17, 3)`` metres in camera axes, relative to the root.
        fps: The frame rate, frames/s.
        floor: The floor, if it is known.

    Returns:
        ``(F, 3)`` metres in camera axes. Every joint lies in front of the lens.

    Raises:
        EmptySequenceError: No frame shows two joints.
    """
    anchors = np.flatnonzero(anchored_frames(weights))
    seen = weights > 0
    rays = np.where(seen[..., None], rays, 0.0)
    weights = np.where(seen, weights, 0.0)
    guess = _weak_perspective(rays[anchors], weights[anchors], body[anchors])
    start = _in_front(_interpolated(guess, anchors, len(rays)), body)
    root = np.empty((len(rays), 3))
    known = np.zeros(len(rays), dtype=bool)
    splits = np.flatnonzero(np.diff(anchors) > LONGEST_GAP_S * fps + 1) + 1
    for stretch in np.split(anchors, splits):
        part = slice(stretch[0], stretch[-1] + 1)
        root[part] = _fit_part(rays[part], weights[part], body[part], fps, start[part], _cut(floor, part))
        known[part] = True
    return _in_front(_interpolated(root[known], np.flatnonzero(known), len(rays)), body)


def _cut(floor: FloorFit | None, part: slice) -> FloorFit | None:
    return floor and FloorFit(floor.down, floor.distance, floor.ankle[part], floor.weight[part])


def _interpolated(values: Array, frames: NDArray[np.intp], count: int) -> Array:
    """``(N, 3)`` at ``frames`` -> ``(count, 3)``, linear in between and constant beyond the ends."""
    return np.stack([np.interp(np.arange(count), frames, column) for column in values.T], axis=-1)


def _weak_perspective(rays: Array, weights: Array, body: Array) -> Array:
    """A first guess ``(F, 3)``: the distance from the size of the body in the image. It is in front of the lens."""
    share = weights / weights.sum(axis=1, keepdims=True)
    ray, middle = ((share[..., None] * values).sum(axis=1) for values in (rays, body))
    seen = (share[..., None] * (rays - ray[:, None]) ** 2).sum(axis=(1, 2))
    real = (share[..., None] * (body - middle[:, None])[..., :2] ** 2).sum(axis=(1, 2))
    depth = np.sqrt(real / np.maximum(seen, 1e-12))
    root = np.concatenate([ray, np.ones((len(ray), 1))], axis=1) * depth[:, None] - middle
    return _in_front(root, body)


def _in_front(root: Array, body: Array, before: Array | None = None) -> Array:
    """Move roots along their rays so that all joints lie in front of the lens, and none comes nearer by more than half.

    ``before``: the roots of the last iteration.
    """
    least = NEAREST_M - body[..., 2].min(axis=1)
    if before is not None:
        least = np.maximum(least, 0.5 * before[:, 2])
    behind = root[:, 2] < least
    if not behind.any():
        return root
    # A root behind the lens has no ray: it keeps its place across the view.
    factor = np.where(root[:, 2] > NEAREST_M, least / np.maximum(root[:, 2], NEAREST_M), 1.0)
    moved = root * np.where(behind, factor, 1.0)[:, None]
    moved[:, 2] = np.where(behind, least, root[:, 2])
    return moved


def _fit_part(rays: Array, weights: Array, body: Array, fps: float, start: Array, floor: FloorFit | None) -> Array:
    """Gauss-Newton over a stretch of frames without long gaps."""
    root = start
    penalty = _acceleration_bands(len(root), fps)
    for _ in range(MOST_ITERATIONS):
        system, gradient = _reprojection(rays, weights, body, root)
        if floor is not None:
            off = floor.distance - (root + floor.ankle) @ floor.down
            weight = FLOOR_WEIGHT * floor.weight / (1.0 + (off / OFF_FLOOR_M) ** 2)
            system = system + weight[:, None, None] * np.outer(floor.down, floor.down)
            gradient = gradient + (weight * off)[:, None] * floor.down
        moved = _in_front(_solve(system, gradient, root, penalty), body, root)
        step = float(np.abs(moved - root).max())
        root = moved
        if step < SETTLED_M:
            break
    return root


def _reprojection(rays: Array, weights: Array, body: Array, root: Array) -> tuple[Array, Array]:
    """The normal equations of each frame: ``(F, 3, 3)`` and the right side ``(F, 3)`` for a step of the root."""
    points = body + root[:, None]
    depth = points[..., 2]
    image = points[..., :2] / depth[..., None]
    at_root = root[:, 2:]
    residual = (rays - image) * at_root[..., None]  # metres at the distance of the root
    distance = np.einsum("fjc,fjc->fj", residual, residual)
    weights = weights / (1.0 + distance / OUTLIER_M**2)
    # A step (x, y, z) of the root moves the image of a joint by [1, 0, -u; 0, 1, -v] (x, y, z) / depth.
    nearer = at_root / depth
    once, twice = weights * nearer, weights * nearer**2
    system = np.zeros((len(root), 3, 3))
    system[:, 0, 0] = system[:, 1, 1] = twice.sum(axis=1)
    system[:, :2, 2] = -np.einsum("fj,fjc->fc", twice, image)
    system[:, 2, :2] = system[:, :2, 2]
    system[:, 2, 2] = np.einsum("fj,fjc,fjc->f", twice, image, image)
    gradient = np.empty((len(root), 3))
    gradient[:, :2] = np.einsum("fj,fjc->fc", once, residual)
    gradient[:, 2] = -np.einsum("fj,fjc,fjc->f", once, image, residual)
    # The size of the body is wrong by an unknown factor, and such an error looks like a step along the ray to the root.
    along = np.einsum("fij,fj->fi", system, root)
    information = np.einsum("fi,fi->f", along, root)
    share = (1.0 - DEPTH_TRUST) / np.maximum(information, 1e-12)
    gradient = gradient - (share * np.einsum("fi,fi->f", gradient, root))[:, None] * along
    system = system - share[:, None, None] * along[:, :, None] * along[:, None, :]
    return system, gradient


def _acceleration_bands(frames: int, fps: float) -> Array:
    """The matrix of the penalty on second differences as its diagonals ``(3, F)``: row k holds [i, i + k].

    Fewer than three frames have no acceleration, and are not joined.
    """
    bands = np.zeros((3, frames))
    if frames < 3:
        return bands
    weight = JOINTS * (fps / (2.0 * np.pi * CUTOFF_HZ)) ** 4
    difference = (1.0, -2.0, 1.0)
    for offset in range(3):
        for index in range(3 - offset):
            bands[offset, index : frames - 2 + index] += weight * difference[index] * difference[index + offset]
    return bands


def _solve(system: Array, gradient: Array, root: Array, penalty: Array) -> Array:
    """The roots ``(F, 3)`` with the least error to first order, plus the penalty."""
    from scipy.linalg import solveh_banded

    frames, width = len(root), 6
    # The upper diagonals as LAPACK wants them: [width - d, column] is the entry d above the main diagonal.
    bands = np.zeros((width + 1, 3 * frames))
    for row in range(3):
        for column in range(row, 3):
            bands[width - (column - row), column::3] = system[:, row, column]
    # Where neither joints nor neighbours say anything, the root stays.
    damping = 1e-9 * JOINTS
    bands[width] += damping
    for offset in range(min(3, frames)):
        for axis in range(3):
            bands[width - 3 * offset, 3 * offset + axis :: 3] += penalty[offset, : frames - offset]
    right = np.einsum("fij,fj->fi", system, root) + gradient + damping * root
    solved: Array = solveh_banded(bands, right.ravel(), check_finite=False).reshape(frames, 3)
    return solved
