"""Triangulation of one person from several calibrated views, robust against outliers and swapped labels.

The linear method is that of Hartley and Zisserman (Multiple View Geometry, 12.2, inhomogeneous). Every equation is
divided by the depth of the point, so that the minimised error is close to pixels. The robust weights are those of Geman
and McClure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import InputError, ShapeError
from refiner.skeleton import JointSet
from refiner_bench.arrays import FloatArray

Array = NDArray[np.float64]

# For a person of about 1,000 pixels, a detector is normally off by some pixels. Ten pixels are doubtful, and thirty an
# error.
OUTLIER_PX = 15.0
REPETITIONS = 10
# Labels are swapped only if that is clearly better. For a person seen from the side both labels fit equally well.
SWAP_GAIN = 0.7
# The number of frames whose median gives the position in the middle frame: 0.15 s at 60 frames per second.
MEDIAN_FRAMES = 9


@dataclass(frozen=True)
class Triangulation:
    """The result of `triangulate` for V views, F frames, J joints and P parts of the body.

    Attributes:
        points: ``(F, J, 3)`` in world metres; NaN where fewer than two views see a joint.
        swapped: ``(V, F, P)``; True where the left and right labels of a part were swapped back.
        errors: ``(V, F, J)``; pixels between the repaired keypoints and the images of the points; NaN where a view does
            not see the joint.
        weights: ``(V, F, J)``; the weight of each view, 0 to 1.
    """

    points: Array
    swapped: NDArray[np.bool_]
    errors: Array
    weights: Array


def triangulate(
    cameras: Sequence[Camera],
    keypoints: FloatArray,
    confidence: FloatArray,
    joints: JointSet,
    parts: Sequence[Sequence[int]],
) -> Triangulation:
    """Triangulate the joints of one person from V views.

    Args:
        cameras: The camera of each view.
        keypoints: ``(V, F, J, 2)`` in pixels; NaN where a joint is not seen.
        confidence: ``(V, F, J)``, 0 to 1; 0 where a joint is not seen.
        joints: The joint set.
        parts: Groups of joints whose labels a detector swaps together, such as the legs and the rest of the body. Each
            group contains both joints of a left-right pair or none of them.

    Raises:
        InputError: There are fewer than two views, a confidence is out of range, or the parts are wrong.
        ShapeError: The shapes do not fit.
    """
    pixels, trust = _checked(cameras, keypoints, confidence, joints, parts)
    views, frames = pixels.shape[:2]
    swapped = np.zeros((views, frames, len(parts)), dtype=bool)
    points, weights = np.empty((frames, joints.joints, 3)), np.empty(trust.shape)
    for number, part in enumerate(parts):
        chosen = list(part)
        mirror = [chosen.index(joints.flip_order[joint]) for joint in chosen]
        seen, sure = pixels[:, :, chosen], trust[:, :, chosen]
        swaps = find_swaps(cameras, seen, sure, mirror)
        first, _ = robust_points(cameras, _turned(seen, swaps, mirror), _turned(sure, swaps, mirror))
        # Decide again in every frame, now with the position of the person from the neighbouring frames.
        near = running_median(first)
        swaps = swaps_against(cameras, near, seen, sure, mirror)
        seen, sure = _turned(seen, swaps, mirror), _turned(sure, swaps, mirror)
        swapped[:, :, number], pixels[:, :, chosen] = swaps, seen
        points[:, chosen], weights[:, :, chosen] = robust_points(cameras, seen, sure, near)
    return Triangulation(points, swapped, reprojection_errors(cameras, points, pixels), weights)


def robust_points(
    cameras: Sequence[Camera], pixels: Array, trust: Array, near: Array | None = None
) -> tuple[Array, Array]:
    """Triangulate the joints of one part of the body. Views that disagree with the others count less and less.

    Args:
        cameras: The camera of each view.
        pixels: ``(V, F, J, 2)``.
        trust: ``(V, F, J)``; 0 where a joint is not seen.
        near: The start, ``(F, J, 3)``; None starts from the views that agree best in all joints of the part.

    Returns:
        The points ``(F, J, 3)``, NaN where fewer than two views see them, and the final weights ``(V, F, J)``.
    """
    rays = np.stack([camera.rays(view) for camera, view in zip(cameras, pixels, strict=True)])  # [V, F, J, 2]
    points = _best_start(cameras, pixels, rays, trust) if near is None else near
    weights = trust
    for _ in range(REPETITIONS):
        errors = reprojection_errors(cameras, points, pixels)
        weights = trust / (1.0 + np.nan_to_num(errors / OUTLIER_PX, nan=0.0, posinf=1e6) ** 2) ** 2
        points = linear_points(cameras, rays, weights, points)
    return points, weights


def linear_points(cameras: Sequence[Camera], rays: Array, weights: Array, near: Array | None = None) -> Array:
    """Triangulate with weighted linear least squares.

    Args:
        cameras: The camera of each view.
        rays: ``(V, F, J, 2)``.
        weights: ``(V, F, J)``.
        near: Earlier points, ``(F, J, 3)``. Their depths convert the algebraic residual into pixels.

    Returns:
        Points, ``(F, J, 3)`` in world metres; NaN where fewer than two views have a weight, or their rays are parallel.
    """
    normal = np.zeros((*rays.shape[1:3], 3, 3))
    right = np.zeros((*rays.shape[1:3], 3))
    for camera, ray, weight in zip(cameras, rays, weights, strict=True):
        focal = float(camera.focal_length.mean())
        depth = 1.0 if near is None else camera.to_camera(near)[..., 2]
        scale = np.nan_to_num(weight * (focal / depth) ** 2, nan=0.0, posinf=0.0)
        seen = np.nan_to_num(ray)
        for axis in (0, 1):
            row = seen[..., axis, None] * camera.rotation[2] - camera.rotation[axis]  # [F, J, 3]
            value = camera.translation[axis] - seen[..., axis] * camera.translation[2]
            normal += scale[..., None, None] * row[..., :, None] * row[..., None, :]
            right += (scale * value)[..., None] * row
    known = (weights > 0).sum(axis=0) >= 2
    spread = np.linalg.eigvalsh(normal)
    known &= spread[..., 0] > 1e-9 * spread[..., 2]
    points = np.full(right.shape, np.nan)
    points[known] = np.linalg.solve(normal[known], right[known][..., None])[..., 0]
    return points


def reprojection_errors(cameras: Sequence[Camera], points: Array, pixels: Array) -> Array:
    """The distance between keypoints and the images of points.

    Args:
        cameras: The camera of each view.
        points: ``(F, J, 3)`` in world metres.
        pixels: The keypoints, ``(V, F, J, 2)``.

    Returns:
        ``(V, F, J)`` in pixels; infinite for a point behind the camera.
    """
    errors = np.full(pixels.shape[:-1], np.nan)
    for view, camera in enumerate(cameras):
        local = camera.to_camera(points)
        behind = local[..., 2] <= 0
        image = camera.project(np.where(behind[..., None], np.nan, local))
        errors[view] = np.where(behind, np.inf, np.linalg.norm(image - pixels[view], axis=-1))
    return errors


def find_swaps(cameras: Sequence[Camera], pixels: Array, trust: Array, mirror: Sequence[int]) -> NDArray[np.bool_]:
    """Find views whose left and right labels are swapped in one part of the body.

    In every frame, all sets of fewer than half of the views are tried. (With half of the views swapped, it would be
    unknown which half is right.) A set counts as swapped if swapping its labels reduces the robust cost below
    `SWAP_GAIN` times the cost without. A set of more views must again reduce the cost of the best smaller set by this
    factor.

    Args:
        cameras: The camera of each view.
        pixels: ``(V, F, J, 2)``.
        trust: ``(V, F, J)``.
        mirror: For each joint, the index of its partner on the other side.

    Returns:
        ``(V, F)``; True where the labels are swapped.
    """
    views, frames = pixels.shape[:2]
    best = np.zeros((views, frames), dtype=bool)
    least = _cost(cameras, pixels, trust)
    for count in range(1, (views + 1) // 2):
        bound = SWAP_GAIN * least
        for suspects in combinations(range(views), count):
            swapped = np.zeros((views, frames), dtype=bool)
            swapped[list(suspects)] = True
            cost = _cost(cameras, _turned(pixels, swapped, mirror), _turned(trust, swapped, mirror))
            better = cost < np.minimum(bound, least)
            least = np.where(better, cost, least)
            best[:, better] = swapped[:, better]
    return best


def swaps_against(
    cameras: Sequence[Camera], points: Array, pixels: Array, trust: Array, mirror: Sequence[int]
) -> NDArray[np.bool_]:
    """Find views whose labels fit known points ``(F, J, 3)`` better if they are swapped; the result is ``(V, F)``."""
    swapped = np.zeros(pixels.shape[:2], dtype=bool)
    everywhere = np.ones((1, pixels.shape[1]), dtype=bool)
    for view, camera in enumerate(cameras):
        view_pixels, view_trust = pixels[view : view + 1], trust[view : view + 1]
        turned, turned_trust = _turned(view_pixels, everywhere, mirror), _turned(view_trust, everywhere, mirror)
        cost_swapped = _disagreement([camera], points, turned, turned_trust)
        swapped[view] = cost_swapped < SWAP_GAIN * _disagreement([camera], points, view_pixels, view_trust)
    return swapped


def running_median(points: Array, frames: int = MEDIAN_FRAMES) -> Array:
    """The median of the known points in the ``frames`` frames around each frame; NaN where none is known.

    Args:
        points: ``(F, J, 3)``; NaN where unknown.
        frames: The number of frames.

    Returns:
        ``(F, J, 3)``.
    """
    reach = frames // 2
    padded = np.pad(points, ((reach, reach), (0, 0), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)  # [F, J, 3, frames]
    known = np.isfinite(windows).any(axis=-1)
    median = np.full(points.shape, np.nan)
    median[known] = np.nanmedian(windows[known], axis=-1)
    return median


def _cost(cameras: Sequence[Camera], pixels: Array, trust: Array) -> Array:
    """The robust cost of the best points for each frame, ``(F,)``."""
    points, _ = robust_points(cameras, pixels, trust)
    return _disagreement(cameras, points, pixels, trust)


def _disagreement(cameras: Sequence[Camera], points: Array, pixels: Array, trust: Array) -> Array:
    """The sum of the robust squared errors of each frame, ``(F,)``. A view counts at most 1 for each joint."""
    errors = reprojection_errors(cameras, points, pixels) / OUTLIER_PX
    square = np.nan_to_num(errors, nan=0.0, posinf=1e6) ** 2
    total: Array = (trust * square / (1.0 + square)).sum(axis=(0, 2))
    return total


def _best_start(cameras: Sequence[Camera], pixels: Array, rays: Array, trust: Array) -> Array:
    """For each frame the points ``(F, J, 3)`` from all views or from two views, depending on the lower cost.

    Least squares from all views follows an outlier. With such a start, correct views could look like outliers.
    """
    best = linear_points(cameras, rays, trust)
    least = _disagreement(cameras, best, pixels, trust)
    for pair in combinations(range(len(cameras)), 2):
        chosen = np.zeros(len(cameras))
        chosen[list(pair)] = 1.0
        points = linear_points(cameras, rays, trust * chosen[:, None, None])
        points = np.where(np.isnan(points), best, points)  # joints that these two views do not see
        cost = _disagreement(cameras, points, pixels, trust)
        better = cost < least
        best, least = np.where(better[:, None, None], points, best), np.where(better, cost, least)
    return best


def _turned(values: Array, swapped: NDArray[np.bool_], mirror: Sequence[int]) -> Array:
    """Exchange left and right of ``(V, F, J, ...)`` where ``swapped`` ``(V, F)`` is True."""
    where = swapped.reshape(*swapped.shape, *(1,) * (values.ndim - 2))
    return np.where(where, values[:, :, list(mirror)], values)


def _checked(
    cameras: Sequence[Camera],
    keypoints: FloatArray,
    confidence: FloatArray,
    joints: JointSet,
    parts: Sequence[Sequence[int]],
) -> tuple[Array, Array]:
    """Check the arguments of `triangulate`; returns copies of pixels and confidence in float64."""
    pixels, trust = np.array(keypoints, dtype=np.float64), np.array(confidence, dtype=np.float64)
    if len(cameras) < 2:
        raise InputError(f"triangulation needs at least 2 calibrated views, got {len(cameras)}")
    expected = (len(cameras), pixels.shape[1] if pixels.ndim > 1 else 0, joints.joints)
    if pixels.shape != (*expected, 2) or trust.shape != expected:
        raise ShapeError(
            f"keypoints {pixels.shape} and confidence {trust.shape}; expected ({len(cameras)}, F, {joints.joints}, 2) "
            f"and ({len(cameras)}, F, {joints.joints})"
        )
    if sorted(joint for part in parts for joint in part) != list(range(joints.joints)):
        raise InputError(f"the parts {parts} do not hold each of the {joints.joints} joints once")
    if any(joints.flip_order[joint] not in part for part in parts for joint in part):
        raise InputError(f"the parts {parts} tear a left joint from its right one")
    unseen = np.isnan(pixels).any(axis=-1)
    trust[unseen] = 0.0
    if not ((trust >= 0) & (trust <= 1)).all():
        raise InputError("confidence must lie from 0 to 1 (NaN only where the keypoint is NaN)")
    return pixels, trust
