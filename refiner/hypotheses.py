"""Several hypotheses of a pose as one, without ground truth: NumPy arrays, metres and pixels.

Hypotheses are ``(H, F, J, 3)``, root-relative, in camera axes. The published joint-wise aggregation (D3DP's JPMA)
projects them with the true position of the root; here that position is estimated from the poses themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera
from refiner.errors import InputError, NonFiniteError, ShapeError

Array = NDArray[np.float64]

# Each solution weighs the next one's equations by its depths; the depth changes by under 1e-6 after three.
ITERATIONS = 5
# Smallest singular value of the equations of a frame, per joint: below it the 2D joints lie (almost) on one point.
LEAST_SPREAD = 1e-4


def mean_pose(hypotheses: ArrayLike) -> NDArray[Any]:
    """The mean of the hypotheses (P-Agg): ``(H, F, J, 3)`` -> ``(F, J, 3)``."""
    poses = np.asarray(hypotheses)
    _check_hypotheses(poses)
    return np.asarray(poses.mean(axis=0, dtype=np.float64).astype(poses.dtype))


def root_positions(pose_3d: ArrayLike, pose_2d: ArrayLike, camera: Camera) -> Array:
    """Where the root must be for a root-relative pose to look as it was detected: ``(F, J, 3)``, ``(F, J, 2)`` pixels
    -> ``(F, 3)`` metres in camera axes.

    Least squares of the distance on the image plane at unit depth; exact for exact poses. Of ``camera`` the lens alone
    matters. Raises InputError for frames whose 2D joints (almost) coincide, which say nothing of the depth, and for
    those that come out behind the camera.
    """
    body, pixels = _check_pair(pose_3d, pose_2d)
    rays = camera.rays(pixels)
    # A joint at (x, y) + z ray: t_x - u t_z = u z - x, and the same for y.
    system = np.zeros((*rays.shape, 3))
    system[..., 0, 0] = system[..., 1, 1] = 1.0
    system[..., 2] = -rays
    wanted = rays * body[..., 2:] - body[..., :2]
    spread = np.linalg.svd(system.reshape(len(body), -1, 3), compute_uv=False)[:, -1] / np.sqrt(body.shape[1])
    _refuse(spread < LEAST_SPREAD, "the 2D joints lie on one point: their depth cannot be told")
    weight = np.ones(body.shape[:2])
    for _ in range(ITERATIONS):
        squared = np.square(weight)
        normal = np.einsum("fj,fjki,fjkl->fil", squared, system, system)
        position = np.linalg.solve(normal, np.einsum("fj,fjki,fjk->fi", squared, system, wanted)[..., None])[..., 0]
        depth = body[..., 2] + position[:, 2:]
        _refuse(
            np.asarray((depth <= 0).any(axis=1)),
            "joints come out behind the camera: do the 2D and 3D poses belong together?",
        )
        weight = 1.0 / depth
    return np.asarray(position)


def joints_by_reprojection(
    hypotheses: ArrayLike, pose_2d: ArrayLike, camera: Camera, root: ArrayLike | None = None
) -> NDArray[Any]:
    """Of every joint the hypothesis that is projected nearest to its detection (JPMA): ``(H, F, J, 3)`` and
    ``(F, J, 2)`` pixels -> ``(F, J, 3)``.

    ``root`` ``(F, 3)``: its positions in metres, where they are known; by default `root_positions` of the mean pose,
    the same for all hypotheses. Raises as `root_positions`.
    """
    poses = np.asarray(hypotheses)
    _check_hypotheses(poses)
    body, pixels = _check_pair(mean_pose(poses), pose_2d)
    place = root_positions(body, pixels, camera) if root is None else np.asarray(root, dtype=np.float64)
    if place.shape != (len(body), 3):
        raise ShapeError(f"root has shape {place.shape}, expected ({len(body)}, 3)")
    distance = np.linalg.norm(camera.project(poses.astype(np.float64) + place[:, None]) - pixels, axis=-1)
    return take_joints(poses, distance.argmin(axis=0))


def take_joints(hypotheses: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
    """``(H, F, J, 3)`` and which hypothesis ``(F, J)`` -> ``(F, J, 3)``."""
    return np.asarray(np.take_along_axis(hypotheses, chosen[None, ..., None], axis=0)[0])


def _check_hypotheses(poses: NDArray[Any]) -> None:
    if poses.ndim != 4 or poses.shape[-1] != 3 or 0 in poses.shape:
        raise ShapeError(f"hypotheses have shape {poses.shape}, expected (hypotheses, frames, joints, 3)")


def _check_pair(pose_3d: ArrayLike, pose_2d: ArrayLike) -> tuple[Array, Array]:
    body, pixels = np.asarray(pose_3d, dtype=np.float64), np.asarray(pose_2d, dtype=np.float64)
    if body.ndim != 3 or body.shape[-1] != 3 or pixels.shape != (*body.shape[:2], 2):
        raise ShapeError(
            f"the poses have shapes {body.shape} and {pixels.shape}, expected (frames, joints, 3) and "
            "(frames, joints, 2)"
        )
    if not (np.isfinite(body).all() and np.isfinite(pixels).all()):
        raise NonFiniteError("the poses hold NaN or infinite values; fill in or leave out those frames first")
    return body, pixels


def _refuse(frames: NDArray[np.bool_], why: str) -> None:
    if frames.any():
        raise InputError(f"in {int(frames.sum())} of {len(frames)} frames, the first {int(np.argmax(frames))}, {why}")
