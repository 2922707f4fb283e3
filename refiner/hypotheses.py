"""Aggregation of several pose hypotheses into one pose, without ground truth.

Hypotheses are NumPy arrays ``(H, F, J, 3)`` in metres, root-relative, in camera axes. The published joint-wise
aggregation (D3DP's JPMA) projects them with the true position of the root. This module estimates the position of the
root from the poses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera
from refiner.errors import InputError, NonFiniteError, ShapeError

Array = NDArray[np.float64]

# The number of least-squares solutions. The depths of one solution weight the equations of the next solution. After
# three iterations the depth changes by less than 1e-6.
ITERATIONS = 5
# The limit for the smallest singular value of a frame's equations, divided by the square root of the number of joints.
# Below it, the 2D joints (almost) coincide.
LEAST_SPREAD = 1e-4


def mean_pose(hypotheses: ArrayLike) -> NDArray[Any]:
    """Average the hypotheses (P-Agg): ``(H, F, J, 3)`` -> ``(F, J, 3)``."""
    poses = np.asarray(hypotheses)
    _check_hypotheses(poses)
    return np.asarray(poses.mean(axis=0, dtype=np.float64).astype(poses.dtype))


def root_positions(pose_3d: ArrayLike, pose_2d: ArrayLike, camera: Camera) -> Array:
    """Estimate the position of the root, so that the projected 3D pose fits the detected 2D pose.

    The function minimises the squared distance on the image plane at unit depth. The result is exact for exact poses.

    Args:
        pose_3d: ``(F, J, 3)`` metres, root-relative, in camera axes.
        pose_2d: ``(F, J, 2)`` pixels.
        camera: The camera of ``pose_2d``; only its lens is used.

    Returns:
        ``(F, 3)`` metres, in camera axes.

    Raises:
        InputError: The 2D joints of a frame (almost) coincide, so that the depth is undetermined, or the estimated
            joints lie behind the camera.
        ShapeError: An array has another shape.
        NonFiniteError: An array holds NaN or infinite values.
    """
    body, pixels = _check_pair(pose_3d, pose_2d)
    rays = camera.rays(pixels)
    # A joint at (x, y) + z ray: t_x - u t_z = u z - x, and the same for y.
    system = np.zeros((*rays.shape, 3))
    system[..., 0, 0] = system[..., 1, 1] = 1.0
    system[..., 2] = -rays
    right_side = rays * body[..., 2:] - body[..., :2]
    spread = np.linalg.svd(system.reshape(len(body), -1, 3), compute_uv=False)[:, -1] / np.sqrt(body.shape[1])
    _refuse(spread < LEAST_SPREAD, "the 2D joints lie on one point, so that their depth is unknown")
    weight = np.ones(body.shape[:2])
    for _ in range(ITERATIONS):
        squared = np.square(weight)
        normal = np.einsum("fj,fjki,fjkl->fil", squared, system, system)
        position = np.linalg.solve(normal, np.einsum("fj,fjki,fjk->fi", squared, system, right_side)[..., None])[..., 0]
        depth = body[..., 2] + position[:, 2:]
        _refuse(
            np.asarray((depth <= 0).any(axis=1)),
            "the estimated joints lie behind the camera: do the 2D and 3D poses belong together?",
        )
        weight = 1.0 / depth
    return np.asarray(position)


def joints_by_reprojection(
    hypotheses: ArrayLike, pose_2d: ArrayLike, camera: Camera, root: ArrayLike | None = None
) -> NDArray[Any]:
    """Choose, for every joint, the hypothesis whose projection is nearest to the detected joint (JPMA).

    Args:
        hypotheses: ``(H, F, J, 3)`` metres, root-relative, in camera axes.
        pose_2d: ``(F, J, 2)`` pixels.
        camera: The camera of ``pose_2d``; only its lens is used.
        root: The positions of the root, ``(F, 3)`` metres, if they are known. None: `root_positions` of the mean pose.
            All hypotheses share these positions.

    Returns:
        ``(F, J, 3)`` metres.

    Raises:
        InputError: See `root_positions`.

    Reference:
        Shan et al., Diffusion-Based 3D Human Pose Estimation with Multi-Hypothesis Aggregation (D3DP), ICCV 2023.
    """
    poses = np.asarray(hypotheses)
    _check_hypotheses(poses)
    body, pixels = _check_pair(mean_pose(poses), pose_2d)
    position = root_positions(body, pixels, camera) if root is None else np.asarray(root, dtype=np.float64)
    if position.shape != (len(body), 3):
        raise ShapeError(f"root has shape {position.shape}, expected ({len(body)}, 3)")
    distance = np.linalg.norm(camera.project(poses.astype(np.float64) + position[:, None]) - pixels, axis=-1)
    return take_joints(poses, distance.argmin(axis=0))


def take_joints(hypotheses: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
    """Take joint j of frame f from hypothesis ``chosen[f, j]``: ``(H, F, J, 3)`` and ``(F, J)`` -> ``(F, J, 3)``."""
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
        raise NonFiniteError("the poses hold NaN or infinite values; fill in or remove those frames first")
    return body, pixels


def _refuse(frames: NDArray[np.bool_], why: str) -> None:
    if frames.any():
        raise InputError(f"in {int(frames.sum())} of {len(frames)} frames, the first {int(np.argmax(frames))}, {why}")
