"""Whether 3D poses can be those of the 2D poses that came with them.

The poses are compared by weak perspective: in each frame the body's x and y are scaled and moved onto the pixels. Poses
in other axes, mirrored, in another joint order, or of other frames fit much better after they are put right; the
mistake is then known by its name. A body that fits and has the legs of nobody is not in metres.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputWarning
from refiner.skeleton import flip_pose, to_h36m17

Array = NDArray[np.float64]

# Frames that are compared, spread over the sequence.
MOST_FRAMES = 60
# Joints that a compared frame must show.
LEAST_SEEN = 8
# Residual of the fit, as a share of the size of the body in the image: below COHERENT the two belong together.
COHERENT = 0.25
# A mistake is named where its correction fits well, and better than the poses as they are by this factor.
GOOD_FIT, BETTER = 0.2, 0.6
# Frames by which 3D may be early or late, and the factor by which the shifted poses must fit better.
MOST_SHIFT, LEAST_SHIFT, BETTER_SHIFTED = 25, 3, 0.7
# Hip to knee to ankle of people of 0.9 to 2.3 m, metres.
SHORTEST_LEG_M, LONGEST_LEG_M = 0.45, 1.15
# Left thigh, shin, upper arm and forearm, then the right ones.
LIMBS = ((4, 5), (5, 6), (11, 12), (12, 13), (1, 2), (2, 3), (14, 15), (15, 16))
# Least and largest share of a leg's length that they have.
PROPORTIONS = np.array([[0.38, 0.38, 0.22, 0.2], [0.62, 0.62, 0.5, 0.45]])
YAWS = np.deg2rad(np.arange(0, 360, 15))


def _upright(body: Array) -> Array:
    return body * [1.0, -1.0, 1.0]


def _from_room(body: Array) -> Array:
    """Axes of a room, z upwards, as a camera sees them that looks along y."""
    return body[..., [0, 2, 1]] * [1.0, -1.0, 1.0]


def _negated(body: Array) -> Array:
    return body * [-1.0, 1.0, 1.0]


# What users do, and the correction.
MISTAKES: dict[str, Callable[[Array], Array]] = {
    "the y axis of one of them points upwards; pose_3d has camera axes (x right, y down, z away)": _upright,
    "one of them is mirrored, or the x axis of pose_3d points to the left": _negated,
    "one of them is mirrored, with left and right exchanged": flip_pose,
    "the joints of pose_3d are in the order of MPI-INF-3DHP": lambda body: to_h36m17(body, "3dhp"),
    "the joints of pose_3d are in the order of COCO": lambda body: to_h36m17(body, "coco17"),
}
UNCONVERTED = "the joints of pose_3d are in Human3.6M's order already, and joints= names another one"
TRANSPOSED = "pose_2d has y before x"
ROOM = "the z axis of pose_3d points upwards, as in a room; expected camera axes (x right, y down, z away)"


def warn_of_disagreement(
    pixels: NDArray[np.floating],
    missing: NDArray[np.bool_],
    body: NDArray[np.floating],
    unconverted: NDArray[np.floating] | None = None,
) -> None:
    """Warn where 3D poses cannot be those of the 2D poses.

    Args:
        pixels: ``(F, 17, 2)`` pixels.
        missing: ``(F, 17)``, joints that were not seen.
        body: ``(F, 17, 3)`` metres in camera axes, relative to the root.
        unconverted: the same before its joints were converted, where it has 17 of another joint set.

    Warns:
        InputWarning: names the most likely mistake.
    """
    message = disagreement(pixels, missing, body, unconverted)
    if message is not None:
        warnings.warn(message, InputWarning, stacklevel=4)


def disagreement(
    pixels: NDArray[np.floating],
    missing: NDArray[np.bool_],
    body: NDArray[np.floating],
    unconverted: NDArray[np.floating] | None = None,
) -> str | None:
    """The message of `warn_of_disagreement`, whose arguments it takes; None where nothing is wrong."""
    rows = np.unique(np.linspace(0, len(body) - 1, MOST_FRAMES).astype(int))
    seen = ~missing[rows]
    enough = seen.sum(axis=1) >= LEAST_SEEN
    rows, seen = rows[enough], seen[enough]
    if not len(rows):
        return None
    flat, pose = pixels[rows].astype(np.float64), body[rows].astype(np.float64)
    own = _residual(flat, seen, pose)
    fits = {mistake: _residual(flat, seen, right(pose)) for mistake, right in MISTAKES.items()}
    fits[ROOM] = min(_residual(flat, seen, _from_room(_turned(pose, yaw))) for yaw in YAWS)
    fits[TRANSPOSED] = _residual(flat[..., ::-1], seen, pose)
    if unconverted is not None:
        fits[UNCONVERTED] = _residual(flat, seen, unconverted[rows].astype(np.float64))
    best = min(fits, key=lambda mistake: fits[mistake])
    if fits[best] < min(GOOD_FIT, BETTER * own):
        return f"pose_3d does not fit pose_2d: {best}"
    shift, fit = _best_shift(pixels.astype(np.float64), missing, body.astype(np.float64), own)
    if fit < min(GOOD_FIT, BETTER_SHIFTED * own):
        where = "behind" if shift > 0 else "ahead of"
        return f"pose_3d does not fit pose_2d: it is {abs(shift)} frames {where} it"
    if own < COHERENT:
        leg = _leg_length(pose)
        if leg is not None and not SHORTEST_LEG_M < leg < LONGEST_LEG_M:
            return f"pose_3d has legs of {leg:.2f} m: expected metres, and the legs of adults have 0.7 to 1 m"
    return None


def _residual(pixels: Array, seen: NDArray[np.bool_], body: Array) -> float:
    """Median over the frames of the residual after the best scale and shift, as a share of the size in the image."""
    weight = seen[..., None].astype(np.float64)
    count = weight.sum(axis=1, keepdims=True)
    target, shape = (np.where(seen[..., None], values[..., :2], 0.0) for values in (pixels, body))
    target = (target - target.sum(axis=1, keepdims=True) / count) * weight
    shape = (shape - shape.sum(axis=1, keepdims=True) / count) * weight
    spread = np.maximum((shape**2).sum(axis=(1, 2)), 1e-12)
    # A negative scale would turn the body upside down.
    scale = np.maximum((target * shape).sum(axis=(1, 2)) / spread, 0.0)
    rest = ((target - scale[:, None, None] * shape) ** 2).sum(axis=(1, 2))
    size = np.maximum((target**2).sum(axis=(1, 2)), 1e-12)
    return float(np.median(np.sqrt(rest / size)))


def _turned(body: Array, yaw: float) -> Array:
    """Turned about z."""
    sine, cosine = np.sin(yaw), np.cos(yaw)
    x, y = body[..., 0], body[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, body[..., 2]], axis=-1)


def _best_shift(pixels: Array, missing: NDArray[np.bool_], body: Array, own: float) -> tuple[int, float]:
    """The number of frames by which 3D is later than 2D, and how well it fits then."""
    best = (0, own)
    for shift in range(-MOST_SHIFT, MOST_SHIFT + 1):
        frames = len(body) - abs(shift)
        if abs(shift) < LEAST_SHIFT or frames < 2 * MOST_SHIFT:
            continue
        rows = np.unique(np.linspace(0, frames - 1, MOST_FRAMES).astype(int)) + max(-shift, 0)
        rows = rows[(~missing[rows]).sum(axis=1) >= LEAST_SEEN]
        if not len(rows):
            continue
        fit = _residual(pixels[rows], ~missing[rows], body[rows + shift])
        if fit < best[1]:
            best = (shift, fit)
    return best


def _leg_length(body: Array) -> float | None:
    """Median length from hip to knee to ankle, metres; None where the body has not a person's proportions."""
    lengths = np.array([np.median(np.linalg.norm(body[:, b] - body[:, a], axis=-1)) for a, b in LIMBS])
    left, right = lengths[:4], lengths[4:]
    leg = float((left[:2].sum() + right[:2].sum()) / 2.0)
    # Thigh, shin, upper arm and forearm as shares of a leg; left like right.
    shares = (left + right) / 2.0 / max(leg, 1e-9)
    alike = np.abs(left - right) <= 0.3 * (left + right) / 2.0
    human = (shares > PROPORTIONS[0]) & (shares < PROPORTIONS[1])
    return leg if alike.all() and human.all() else None
