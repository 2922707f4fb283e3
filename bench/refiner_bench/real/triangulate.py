"""3D points from several calibrated views of one person: linear, weighted, swapped labels repaired, outliers held down.

The linear method is Hartley and Zisserman's (Multiple View Geometry, 12.2, inhomogeneous), every equation divided by
the point's depth so that what is minimised is close to pixels. The robust weights are those of Geman and McClure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import InputError, ShapeError
from refiner.skeleton import JointSet

Array = NDArray[np.float64]

# A detector's joint is off by some pixels of a person's height of about 1,000: ten are a doubt, thirty an error.
OUTLIER_PX = 15.0
REPETITIONS = 10
# Labels are changed only where that is clearly better: of a person seen from the side both fit alike.
SWAP_GAIN = 0.7
# Frames that tell where a person is in the one in their middle: 0.15 s at 60 frames per second.
MEDIAN_FRAMES = 9


@dataclass(frozen=True)
class Triangulation:
    """What several views agree on.

    ``points`` ``(F, J, 3)`` world metres, NaN where fewer than two views see a joint; ``swapped`` ``(V, F, P)``: the
    views whose left and right labels were swapped back, for each part of the body; ``errors`` ``(V, F, J)`` pixels from
    the (repaired) keypoints to the points' images, NaN where a view sees nothing; ``weights`` ``(V, F, J)`` what each
    view counted, 0 to 1.
    """

    points: Array
    swapped: NDArray[np.bool_]
    errors: Array
    weights: Array


def triangulate(
    cameras: Sequence[Camera],
    keypoints: NDArray[Any],
    confidence: NDArray[Any],
    joints: JointSet,
    parts: Sequence[Sequence[int]],
) -> Triangulation:
    """``(V, F, J, 2)`` pixels and ``(V, F, J)`` confidence 0 to 1 of V views -> one `Triangulation`.

    NaN keypoints and confidence 0 count as not seen. ``parts`` divides the joints into groups whose labels detectors
    swap together, like legs and the rest; each has both joints of a left-right pair or none. Raises InputError for
    fewer than two views, confidences outside of 0 to 1 and other parts, ShapeError for arrays that do not fit.
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
        # A second look at every frame, from where the frames around it say that the person is.
        near = running_median(first)
        swaps = swaps_against(cameras, near, seen, sure, mirror)
        seen, sure = _turned(seen, swaps, mirror), _turned(sure, swaps, mirror)
        swapped[:, :, number], pixels[:, :, chosen] = swaps, seen
        points[:, chosen], weights[:, :, chosen] = robust_points(cameras, seen, sure, near)
    return Triangulation(points, swapped, reprojection_errors(cameras, points, pixels), weights)


def robust_points(
    cameras: Sequence[Camera], pixels: Array, trust: Array, near: Array | None = None
) -> tuple[Array, Array]:
    """Points ``(F, J, 3)`` and the final weights ``(V, F, J)``: views far off the others' point count ever less.

    ``pixels`` ``(V, F, J, 2)``, ``trust`` ``(V, F, J)``, 0 where nothing is seen. The joints are those of one part of
    the body: the start is ``near`` ``(F, J, 3)``, or made from those views that agree best in all of them. Points are
    NaN where two views do not see them.
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
    """Weighted least squares: rays ``(V, F, J, 2)``, weights ``(V, F, J)`` -> points ``(F, J, 3)`` in world metres.

    ``near``: points of before, whose depths turn the algebraic residual into pixels. NaN where fewer than two views
    have weight, or where their rays are parallel.
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
    """``(V, F, J)`` pixels from the keypoints to the images of ``points`` ``(F, J, 3)``; infinite behind a camera."""
    errors = np.full(pixels.shape[:-1], np.nan)
    for view, camera in enumerate(cameras):
        local = camera.to_camera(points)
        behind = local[..., 2] <= 0
        image = camera.project(np.where(behind[..., None], np.nan, local))
        errors[view] = np.where(behind, np.inf, np.linalg.norm(image - pixels[view], axis=-1))
    return errors


def find_swaps(cameras: Sequence[Camera], pixels: Array, trust: Array, mirror: Sequence[int]) -> NDArray[np.bool_]:
    """``(V, F)``: the views whose left and right labels, all swapped, agree better with the other views.

    ``pixels`` ``(V, F, J, 2)`` and ``trust`` ``(V, F, J)`` of one part of the body; ``mirror`` is, for each joint, its
    partner on the other side. Every set of fewer than half of the views is tried in every frame (if half of them were
    swapped nobody could tell which half), and taken where it lowers the robust cost below `SWAP_GAIN` of what it is
    without; more views than one only where they lower it again as much.
    """
    views, frames = pixels.shape[:2]
    best = np.zeros((views, frames), dtype=bool)
    least = _cost(cameras, pixels, trust)
    for count in range(1, (views + 1) // 2):
        bound = SWAP_GAIN * least
        for blamed in combinations(range(views), count):
            swapped = np.zeros((views, frames), dtype=bool)
            swapped[list(blamed)] = True
            tried = _cost(cameras, _turned(pixels, swapped, mirror), _turned(trust, swapped, mirror))
            better = tried < np.minimum(bound, least)
            least = np.where(better, tried, least)
            best[:, better] = swapped[:, better]
    return best


def swaps_against(
    cameras: Sequence[Camera], points: Array, pixels: Array, trust: Array, mirror: Sequence[int]
) -> NDArray[np.bool_]:
    """``(V, F)``: the views whose labels fit known points ``(F, J, 3)`` better when they are swapped."""
    swapped = np.zeros(pixels.shape[:2], dtype=bool)
    everywhere = np.ones((1, pixels.shape[1]), dtype=bool)
    for view, camera in enumerate(cameras):
        given, sure = pixels[view : view + 1], trust[view : view + 1]
        turned, turned_sure = _turned(given, everywhere, mirror), _turned(sure, everywhere, mirror)
        tried = _disagreement([camera], points, turned, turned_sure)
        swapped[view] = tried < SWAP_GAIN * _disagreement([camera], points, given, sure)
    return swapped


def running_median(points: Array, frames: int = MEDIAN_FRAMES) -> Array:
    """``(F, J, 3)`` -> the median of the ``frames`` around each that are known; NaN where none is."""
    reach = frames // 2
    padded = np.pad(points, ((reach, reach), (0, 0), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)  # [F, J, 3, frames]
    known = np.isfinite(windows).any(axis=-1)
    median = np.full(points.shape, np.nan)
    median[known] = np.nanmedian(windows[known], axis=-1)
    return median


def _cost(cameras: Sequence[Camera], pixels: Array, trust: Array) -> Array:
    """``(F,)``: what the views disagree by about all joints."""
    points, _ = robust_points(cameras, pixels, trust)
    return _disagreement(cameras, points, pixels, trust)


def _disagreement(cameras: Sequence[Camera], points: Array, pixels: Array, trust: Array) -> Array:
    """``(F,)``: squared errors, those of a view that is far off counting for no more than 1 in each joint."""
    errors = reprojection_errors(cameras, points, pixels) / OUTLIER_PX
    square = np.nan_to_num(errors, nan=0.0, posinf=1e6) ** 2
    total: Array = (trust * square / (1.0 + square)).sum(axis=(0, 2))
    return total


def _best_start(cameras: Sequence[Camera], pixels: Array, rays: Array, trust: Array) -> Array:
    """For each frame the points from all views or from two, whichever most agree with: ``(F, J, 3)``.

    Least squares from all views follows an outlier, and the views near it would then be taken for the outliers.
    """
    best = linear_points(cameras, rays, trust)
    least = _disagreement(cameras, best, pixels, trust)
    for pair in combinations(range(len(cameras)), 2):
        chosen = np.zeros(len(cameras))
        chosen[list(pair)] = 1.0
        points = linear_points(cameras, rays, trust * chosen[:, None, None])
        points = np.where(np.isnan(points), best, points)  # a joint that these two do not see
        cost = _disagreement(cameras, points, pixels, trust)
        better = cost < least
        best, least = np.where(better[:, None, None], points, best), np.where(better, cost, least)
    return best


def _turned(values: Array, swapped: NDArray[np.bool_], mirror: Sequence[int]) -> Array:
    """``(V, F, J, ...)`` with left and right exchanged where ``swapped`` ``(V, F)``."""
    where = swapped.reshape(*swapped.shape, *(1,) * (values.ndim - 2))
    return np.where(where, values[:, :, list(mirror)], values)


def _checked(
    cameras: Sequence[Camera],
    keypoints: NDArray[Any],
    confidence: NDArray[Any],
    joints: JointSet,
    parts: Sequence[Sequence[int]],
) -> tuple[Array, Array]:
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
