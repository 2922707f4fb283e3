"""Fits of 3D poses to 2D poses, which need no metres and no root.

By weak perspective the body's x and y are scaled and moved in each frame. All functions take the same frames: pixels
``(F, J, 2)``, ``seen`` ``(F, J)``, which joints the 2D poses show, and a body ``(F, J, 3)`` in any unit. Pixels of
joints that are not seen are not read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_ROUNDS = 20
_TINY = 1e-12


def misfit(pixels: Array, seen: Mask, body: Array) -> float:
    """The median over the frames of what a frame's best scale and shift leave, as a share of its size in the image."""
    target, shape = _centred(pixels, seen), _centred(body[..., :2], seen)
    rest = target - _scales(target, shape)[:, None, None] * shape
    size = np.maximum(np.sqrt((target**2).sum(axis=(1, 2))), _TINY)
    return float(np.median(np.sqrt((rest**2).sum(axis=(1, 2))) / size))


def turn(pixels: Array, seen: Mask, body: Array) -> tuple[Array, float]:
    """The one rotation that fits a body in unknown axes to the pixels of all frames.

    The first two rows of the rotation are found by least squares, and the third follows from them, since axes are
    right-handed.

    Returns:
        The matrix R ``(3, 3)``, where ``body @ R.T`` is in the axes of the camera; and how well the pixels determine
        it: the body's least extent over its largest, for all frames together. Near 0 the body is flat, and its depth
        is not known.
    """
    target, shape = _centred(pixels, seen), _centred(body, seen)
    size = np.maximum(np.sqrt((target**2).sum(axis=(1, 2))), _TINY)
    target = target / size[:, None, None]
    extent = np.linalg.svd(shape.reshape(-1, 3), compute_uv=False)
    scale = 1.0 / np.maximum(np.sqrt((shape**2).sum(axis=(1, 2))), _TINY)
    rows = np.eye(2, 3)
    for _ in range(_ROUNDS):
        known = (scale[:, None, None] * shape).reshape(-1, 3)
        affine = np.linalg.lstsq(known, target.reshape(-1, 2), rcond=None)[0].T
        left, _, right = np.linalg.svd(affine, full_matrices=False)
        rows = left @ right
        scale = _scales(target, shape @ rows.T)
    return np.vstack([rows, np.cross(rows[0], rows[1])]), float(extent[-1] / max(extent[0], _TINY))


def turn_before_lens(pixels: Array, seen: Mask, body: Array, focal_length: float, rotation: Array) -> Array:
    """The rotation of `turn` for a lens: a person aside of the optical axis is seen from another side.

    Args:
        pixels: Relative to the principal point.
        seen: See the module.
        body: See the module.
        focal_length: In pixels.
        rotation: The rotation to start from, ``(3, 3)``.

    Returns:
        The rotation ``(3, 3)`` with the least squared distance between the pixels and the body, which stands in each
        frame where it fits best.
    """
    weight = seen[..., None].astype(np.float64)
    flat = np.where(seen[..., None], pixels, 0.0)
    size = np.sqrt((_centred(pixels, seen) ** 2).sum(axis=(1, 2)))

    def apart(turned_by: Array) -> Array:
        placed = body @ (Rotation.from_rotvec(turned_by).as_matrix() @ rotation).T
        # focal_length * (x + tx) = u * (z + tz), and the same for y, is linear in the place (tx, ty, tz).
        rows = np.zeros((*flat.shape, 3))
        rows[..., 0, 0] = rows[..., 1, 1] = focal_length
        rows[..., 2] = -flat
        wanted = flat * placed[..., 2:] - focal_length * placed[..., :2]
        rows, wanted = rows * weight[..., None], wanted * weight
        flattened, right = rows.reshape(len(rows), -1, 3), wanted.reshape(len(rows), -1)
        normal = np.einsum("fij,fik->fjk", flattened, flattened) + _TINY * np.eye(3)
        place = np.linalg.solve(normal, np.einsum("fij,fi->fj", flattened, right)[..., None])
        points = placed + np.swapaxes(place, -1, -2)
        depth = np.where(points[..., 2:] > _TINY, points[..., 2:], np.inf)
        rest = (focal_length * points[..., :2] / depth - flat) * weight
        return np.asarray((rest / np.maximum(size, _TINY)[:, None, None]).ravel())

    found = least_squares(apart, np.zeros(3), max_nfev=_ROUNDS)
    return np.asarray(Rotation.from_rotvec(found.x).as_matrix() @ rotation)


def one_scale(pixels: Array, seen: Mask, body: Array) -> tuple[float, Array, float]:
    """The scale and the shift that bring the body's x and y to the pixels in all frames alike.

    Returns:
        The pixels of one unit of the body; the pixel of the body's origin ``(2,)``; and the median distance that is
        left, as a share of the size of the person.
    """
    flat, points = pixels[seen], body[..., :2][seen]
    middle, centre = points.mean(axis=0), flat.mean(axis=0)
    spread = max(float(((points - middle) ** 2).sum()), _TINY)
    scale = float(((points - middle) * (flat - centre)).sum()) / spread
    origin = centre - scale * middle
    with np.errstate(invalid="ignore"):
        apart = np.linalg.norm(scale * body[..., :2] + origin - pixels, axis=-1)
    target = _centred(pixels, seen)
    size = np.sqrt((target**2).sum(axis=(1, 2)) / np.maximum(seen.sum(axis=1), 1))
    share = np.where(seen, apart, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1) / np.maximum(size, _TINY)
    return scale, origin, float(np.median(share))


def _centred(values: Array, seen: Mask) -> Array:
    """Relative to the mean of the joints that are seen; 0 for the others."""
    weight = seen[..., None]
    kept = np.where(weight, values, 0.0)
    mean = kept.sum(axis=1, keepdims=True) / np.maximum(weight.sum(axis=1, keepdims=True), 1)
    return np.where(weight, kept - mean, 0.0)


def _scales(target: Array, shape: Array) -> Array:
    """The best scale of each frame; a negative one would turn the body upside down."""
    spread = np.maximum((shape**2).sum(axis=(1, 2)), _TINY)
    return np.asarray(np.maximum((target * shape).sum(axis=(1, 2)) / spread, 0.0))
