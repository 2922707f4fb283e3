"""The first steps of a stream for each frame: check it, convert it to the model's joints, guess missing joints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_array
from refiner.data.agreement import ORDERS, hypotheses_of
from refiner.data.gaps import LEAST_JOINTS
from refiner.data.inputs import (
    LARGEST_BODY_M,
    LARGEST_DISTANCE_M,
    LARGEST_NORMALISED,
    LARGEST_PIXEL_RATIO,
    USUAL_SHARE,
    likely_unit,
    marked_missing,
    normalised_by,
)
from refiner.data.keypoints import LEAST_SPREAD_PX, MOST_OUTSIDE, OUTSIDE_BY
from refiner.errors import DTypeError, JointCountError, LengthError, ShapeError, SwappedInputError, UnitError
from refiner.lens import Lens
from refiner.runtime.streaming.evidence import Pair, refuse_wrong_order_alone
from refiner.skeleton import H36M17, JointSet, confidence_to_h36m17, to_h36m17

Array = NDArray[np.float32]

# The body of an unknown person: standing, facing the camera, arms down; metres, camera axes.
STANDING: NDArray[np.float64] = np.array(
    [
        [0.0, 0.0, 0.0],
        [-0.13, 0.0, 0.0],
        [-0.14, 0.44, 0.0],
        [-0.15, 0.86, 0.02],
        [0.13, 0.0, 0.0],
        [0.14, 0.44, 0.0],
        [0.15, 0.86, 0.02],
        [0.0, -0.24, 0.0],
        [0.0, -0.49, 0.0],
        [0.0, -0.57, -0.07],
        [0.0, -0.69, -0.02],
        [0.15, -0.44, 0.0],
        [0.2, -0.17, 0.0],
        [0.22, 0.07, 0.0],
        [-0.15, -0.44, 0.0],
        [-0.2, -0.17, 0.0],
        [-0.22, 0.07, 0.0],
    ]
)
HIPS = (1, 4)


@dataclass(frozen=True, eq=False)
class Observation:
    """A checked frame in Human3.6M's joints. The coordinates of missing joints are NaN.

    Attributes:
        pixels: ``(17, 2)``.
        confidence: ``(17,)``, 0 to 1.
        body: ``(17, 3)`` metres in camera axes, the root anywhere; None where a lifter makes it.
        pair: 2D and 3D for their comparison; None where a lifter makes the 3D.
        outside: many joints lie outside of the image.
        small: the person has hardly any pixels.
    """

    pixels: NDArray[np.float64]
    confidence: NDArray[np.float64]
    body: NDArray[np.float64] | None
    pair: Pair | None = None
    outside: bool = False
    small: bool = False


def observe(
    pose_2d: ArrayLike,
    pose_3d: ArrayLike | None,
    confidence: ArrayLike | None,
    lens: Lens,
    joints: JointSet,
    least_confidence: float,
    joints_3d: JointSet | None = None,
) -> Observation:
    """Check one frame, convert it to Human3.6M's joints, and mark missing joints by NaN.

    A joint is missing where a coordinate is not finite or lies beyond any image or body, where both pixels are exactly
    0 or exactly -1, as detectors write it, where its confidence is NaN or not above ``least_confidence``, or where the
    lens has no ray for it.

    Args:
        pose_2d: ``(J, 2)`` pixels.
        pose_3d: ``(J, 3)`` metres in camera axes; None where a lifter makes it.
        confidence: ``(J,)``, 0 to 1; None stands for 1.
        lens: the lens of the camera. Its distortion is undone.
        joints: the joint set of the 2D.
        least_confidence: see above.
        joints_3d: the joint set of the 3D; None is that of the 2D.

    Raises:
        InputError: an array has a wrong shape, type, unit or joint order, which later frames of the stream would share.
    """
    kind_3d = joints if joints_3d is None else joints_3d
    pixels = _frame(pose_2d, "pose_2d", 2, joints)
    body = None if pose_3d is None else _frame(pose_3d, "pose_3d", 3, kind_3d)
    marked = marked_missing(pixels)
    _check_units(pixels[~marked], body)
    with np.errstate(invalid="ignore", over="ignore"):
        missing = ~(np.abs(pixels) <= LARGEST_PIXEL_RATIO * max(lens.image_size)).all(axis=-1)
        missing |= marked
        if confidence is not None:
            scores = _numbers(confidence, "confidence", f"expected ({joints.joints},)")
            if scores.shape != (joints.joints,):
                raise LengthError(f"confidence has shape {scores.shape}; expected ({joints.joints},)")
            missing |= ~(scores > least_confidence)
        else:
            scores = np.ones(joints.joints)
        pixels[missing] = np.nan
        scores = np.where(missing, 0.0, np.clip(scores, 0.0, 1.0))
        if body is not None:
            body[~(np.abs(body) <= LARGEST_DISTANCE_M).all(axis=-1)] = np.nan
            _drop_far_joints(body)
    raw_pixels, raw_body = pixels, body
    if joints.name != H36M17.name:
        pixels, scores = to_h36m17(pixels, joints), confidence_to_h36m17(scores, joints)
    if body is not None and kind_3d.name != H36M17.name:
        body = to_h36m17(body, kind_3d)
    pixels = lens.ideal(pixels)
    pair = None
    if body is not None and raw_body is not None:
        seen = ~(_missing(pixels) | _missing(body))
        compared = raw_body if kind_3d.name in ORDERS else body
        pair = Pair(pixels, compared, seen, raw_pixels if joints.name in ORDERS else None)
        refuse_wrong_order_alone(pair, hypotheses_of(joints, kind_3d), lens.row().astype(np.float64))
    outside, small = _place(pixels, lens.image_size)
    return Observation(pixels, scores.astype(np.float64), body, pair, outside, small)


def _place(pixels: NDArray[np.float64], image_size: tuple[float, float]) -> tuple[bool, bool]:
    """Whether many joints lie outside of the image, and whether the person is small in it."""
    width, height = image_size
    points = pixels[~np.isnan(pixels[:, 0])]
    if len(points) < LEAST_JOINTS:
        return False, False
    # In widths and heights, from the centre of the image.
    place = np.abs(points / (width, height) - 0.5).max(axis=1)
    outside = np.count_nonzero(place > 0.5 + OUTSIDE_BY) > MOST_OUTSIDE * len(points)
    apart = points - points.sum(axis=0) / len(points)
    return bool(outside), float(np.vdot(apart, apart)) < LEAST_SPREAD_PX**2 * len(points)


def _check_units(pixels: NDArray[np.float64], body: NDArray[np.float64] | None) -> None:
    """Raises UnitError for a frame whose 2D is a share of the image, or whose 3D is in millimetres or centimetres."""
    finite = np.abs(pixels[np.isfinite(pixels).all(axis=-1)])
    # The quantile is slow, and needed only in rare frames: usually hardly a coordinate is that small.
    small = 2 * np.count_nonzero(finite <= LARGEST_NORMALISED) >= finite.size
    if len(finite) >= LEAST_JOINTS and small and np.quantile(finite, USUAL_SHARE) <= LARGEST_NORMALISED:
        raise UnitError(f"pose_2d lies within {finite.max():.2f} of 0, which looks like {normalised_by(pixels)}")
    if body is None:
        return
    known = body[np.isfinite(body).all(axis=-1)]
    if len(known) >= LEAST_JOINTS and _reaches_far(known):
        size = float(np.median(np.abs(known - np.median(known, axis=0)).max(axis=-1)))
        if size > LARGEST_BODY_M:
            raise UnitError(
                f"half of the joints of pose_3d lie {size:,.0f} from the middle of the body; expected metres, about 1. "
                f"It looks like {likely_unit(size)}"
            )


def _reaches_far(known: NDArray[np.float64]) -> bool:
    """Whether joints ``(N, 3)`` lie further apart than any body reaches; much faster than a median."""
    return bool((known.max(axis=0) - known.min(axis=0)).max() > LARGEST_BODY_M)


def _drop_far_joints(body: NDArray[np.float64]) -> None:
    """Mark joints by NaN, in place, that lie further from the median joint than any body reaches."""
    known = body[np.isfinite(body).all(axis=-1)]
    # The median is slow, and needed only in rare frames: usually all joints lie close together.
    if len(known) and _reaches_far(known):
        body[~(np.abs(body - np.median(known, axis=0)) <= LARGEST_BODY_M).all(axis=-1)] = np.nan


def _numbers(value: ArrayLike, name: str, expected: str) -> NDArray[Any]:
    """Convert to an array of real numbers. None becomes NaN: JSON writes null for a missing coordinate."""
    array = as_array(value, name, expected)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DTypeError(f"{name} holds something other than numbers; {expected}") from error
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{name} has type {array.dtype}; expected real numbers, such as float32")
    return array


def _frame(value: ArrayLike, name: str, coordinates: int, joints: JointSet) -> NDArray[np.float64]:
    """Check the pose ``(J, coordinates)`` of one frame, and return a copy."""
    expected = f"expected one frame ({joints.joints}, {coordinates})"
    array = _numbers(value, name, expected)
    if array.ndim != 2:
        hint = "; push takes one frame at a time" if array.ndim == 3 else ""
        raise ShapeError(f"{name} has shape {array.shape}; {expected}{hint}")
    if array.shape[1] != coordinates:
        if array.shape[1] == 5 - coordinates:
            hint = " (a confidence goes to confidence=)" if coordinates == 2 else ""
            other = "pose_2d" if coordinates == 3 else "pose_3d"
            raise SwappedInputError(f"{name} has shape {array.shape}; {expected}. Was it swapped with {other}?{hint}")
        raise ShapeError(f"{name} has shape {array.shape}; {expected}")
    if array.shape[0] != joints.joints:
        raise JointCountError(f"{name} has {array.shape[0]} joints, {joints.name} has {joints.joints}: {expected}")
    return array.astype(np.float64)  # a copy


@dataclass(frozen=True, eq=False)
class CompleteFrame:
    """A frame whose missing joints were guessed.

    Attributes:
        keypoints: ``(17, 3)`` pixels and confidence, which is 0 where the 2D joint was guessed.
        body: ``(17, 3)`` metres relative to the root; None where a lifter makes it.
        root: ``(3,)`` metres in camera axes; zeros where a lifter makes the body.
        infilled: ``(17,)``, the joints that were guessed in 2D or 3D.
    """

    keypoints: NDArray[np.float64]
    body: NDArray[np.float64] | None
    root: NDArray[np.float64]
    infilled: NDArray[np.bool_]


class Infilling:
    """Guesses the missing joints of one person from the last frame.

    In 3D, bones keep the direction and length of the last frame. In 2D, missing joints move as the visible ones do on
    average; in the first frame they come from the body, projected by weak perspective.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the person."""
        self._pixels: NDArray[np.float64] | None = None
        self._bodies = STANDING.copy()
        self._root = np.zeros(3)

    def complete(self, seen: Observation) -> CompleteFrame | None:
        """Guess the missing joints of a frame. The result is kept for the guesses of the next frame.

        Returns:
            The frame; None where fewer than `LEAST_JOINTS` joints were seen.
        """
        missing_2d = _missing(seen.pixels)
        if np.count_nonzero(~missing_2d) < LEAST_JOINTS:
            return None
        if seen.body is None:
            pixels = self._complete_pixels(seen.pixels, missing_2d, self._bodies)
            self._pixels = pixels
            return CompleteFrame(_keypoints(pixels, seen, missing_2d), None, np.zeros(3), missing_2d)
        missing_3d = _missing(seen.body)
        if np.count_nonzero(~missing_3d) < LEAST_JOINTS:
            return None
        root, body = self._complete_body(seen.body, missing_3d)
        pixels = self._complete_pixels(seen.pixels, missing_2d, body)
        self._pixels, self._bodies, self._root = pixels, body, root
        return CompleteFrame(_keypoints(pixels, seen, missing_2d), body, root, missing_2d | missing_3d)

    def _complete_body(
        self, seen: NDArray[np.float64], missing: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The root ``(3,)`` and the body ``(17, 3)`` relative to it."""
        if not missing.any():
            return seen[0].copy(), seen - seen[0]
        completed = seen.copy()
        if missing[0]:
            hips = [joint for joint in HIPS if not missing[joint]]
            if len(hips) == 2:
                completed[0] = completed[hips].mean(axis=0)
            else:
                # The root of the last body, after its visible joints are moved to their new positions.
                completed[0] = (seen - self._bodies)[~missing].mean(axis=0)
        for parent, joint in H36M17.bones:
            if missing[joint]:
                completed[joint] = completed[parent] + self._bodies[joint] - self._bodies[parent]
        return completed[0].copy(), completed - completed[0]

    def _complete_pixels(
        self, seen: NDArray[np.float64], missing: NDArray[np.bool_], body: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The pixels ``(17, 2)``, with the missing ones guessed."""
        if not missing.any():
            return seen.copy()
        visible = ~missing
        if self._pixels is not None:
            guess = self._pixels + (seen - self._pixels)[visible].mean(axis=0)
        else:
            # Weak perspective: the body's x and y are scaled and moved onto the visible joints.
            flat, known = body[:, :2], body[visible, :2]
            centre, target = known.mean(axis=0), seen[visible].mean(axis=0)
            spread = float(((known - centre) ** 2).sum())
            scale = float(((known - centre) * (seen[visible] - target)).sum()) / spread if spread > 0 else 1.0
            guess = target + scale * (flat - centre)
        filled = seen.copy()
        filled[missing] = guess[missing]
        return filled


def _keypoints(
    pixels: NDArray[np.float64], seen: Observation, missing: NDArray[np.bool_]
) -> NDArray[np.float64]:  # (17, 3)
    return np.column_stack([pixels, np.where(missing, 0.0, seen.confidence)])


def _missing(pose: NDArray[np.float64]) -> NDArray[np.bool_]:  # (17, 2 or 3) -> (17,)
    return np.asarray(np.isnan(pose).any(axis=-1))
