"""One frame as it comes from a camera: checked, in the model's joints, its missing joints guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.inputs import LARGEST_BODY_M, LARGEST_DISTANCE_M, LARGEST_PIXEL_RATIO, as_array
from refiner.errors import DTypeError, JointCountError, LengthError, ShapeError, SwappedInputError
from refiner.lens import Lens
from refiner.skeleton import H36M17, JointSet, confidence_to_h36m17, to_h36m17

Array = NDArray[np.float32]

# Fewer joints than this say too little of a body.
LEAST_JOINTS = 6
# A body that nothing is known of: standing, facing the camera, arms down; metres, camera axes.
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
    """A frame in Human3.6M's joints; what is missing is NaN. ``confidence`` ``(17,)``: 0 to 1; ``body``: None where
    a lifter makes it."""

    pixels: NDArray[np.float64]
    confidence: NDArray[np.float64]
    body: NDArray[np.float64] | None


def observe(
    pose_2d: ArrayLike,
    pose_3d: ArrayLike | None,
    confidence: ArrayLike | None,
    lens: Lens,
    joints: JointSet,
    least_confidence: float,
) -> Observation:
    """One frame ``(J, 2)`` pixels, ``(J, 3)`` metres and ``(J,)`` as NaN-marked arrays in Human3.6M's joints.

    A joint is missing where a coordinate is not finite or beyond any image or body, or where its confidence is NaN or
    not above ``least_confidence``, or where the lens has no ray for it. Pixels come out as a lens without distortion
    would have them. Raises an InputError for a wrong shape or type, which no later frame can mend.
    """
    pixels = _frame(pose_2d, "pose_2d", 2, joints)
    body = None if pose_3d is None else _frame(pose_3d, "pose_3d", 3, joints)
    with np.errstate(invalid="ignore", over="ignore"):
        far = ~(np.abs(pixels) <= LARGEST_PIXEL_RATIO * max(lens.image_size)).all(axis=-1)
        if confidence is not None:
            sure = _numbers(confidence, "confidence", f"expected ({joints.joints},)")
            if sure.shape != (joints.joints,):
                raise LengthError(f"confidence has shape {sure.shape}; expected ({joints.joints},)")
            unsure = ~(sure > least_confidence)
            far |= unsure
        else:
            sure = np.ones(joints.joints)
        pixels[far] = np.nan
        sure = np.where(far, 0.0, np.clip(sure, 0.0, 1.0))
        if body is not None:
            body[~(np.abs(body) <= LARGEST_DISTANCE_M).all(axis=-1)] = np.nan
            _drop_far_joints(body)
    if joints.name != H36M17.name:
        pixels, sure = to_h36m17(pixels, joints), confidence_to_h36m17(sure, joints)
        body = None if body is None else to_h36m17(body, joints)
    return Observation(lens.ideal(pixels), sure.astype(np.float64), body)


def _drop_far_joints(body: NDArray[np.float64]) -> None:
    """Marks joints further from the middle of the others than any body reaches, in place."""
    known = body[np.isfinite(body).all(axis=-1)]
    # The median is slow, and all joints lie close together but for the rarest frames.
    if len(known) and (known.max(axis=0) - known.min(axis=0)).max() > LARGEST_BODY_M:
        body[~(np.abs(body - np.median(known, axis=0)) <= LARGEST_BODY_M).all(axis=-1)] = np.nan


def _numbers(value: Any, name: str, expected: str) -> NDArray[Any]:
    """Real numbers as an array; None, as JSON writes a missing coordinate, becomes NaN."""
    array = as_array(value, name, expected)
    if array.dtype.kind == "O":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DTypeError(f"{name} holds something other than numbers; {expected}") from error
    if array.dtype.kind not in "fiu":
        raise DTypeError(f"{name} has type {array.dtype}; expected real numbers, such as float32")
    return array


def _frame(value: Any, name: str, coordinates: int, joints: JointSet) -> NDArray[np.float64]:
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
    """A frame without gaps: ``keypoints`` ``(17, 3)`` pixels and confidence, which is 0 where a joint was guessed,
    ``body`` ``(17, 3)`` root-relative (None: to be lifted), ``root`` ``(3,)``, and which joints were guessed."""

    keypoints: NDArray[np.float64]
    body: NDArray[np.float64] | None
    root: NDArray[np.float64]
    infilled: NDArray[np.bool_]


class Infilling:
    """Guesses missing joints of one person from the last frame: bones as they were, pixels moved with the others.

    `complete` gives None for a frame that shows too little.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the person."""
        self._pixels: NDArray[np.float64] | None = None
        self._bodies = STANDING.copy()
        self._root = np.zeros(3)

    def complete(self, seen: Observation) -> CompleteFrame | None:
        """The frame with every joint, which becomes what the next one is guessed from."""
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
        if not missing.any():
            return seen[0].copy(), seen - seen[0]
        placed = seen.copy()
        if missing[0]:
            hips = [joint for joint in HIPS if not missing[joint]]
            if len(hips) == 2:
                placed[0] = placed[hips].mean(axis=0)
            else:
                # The last body, moved to where its visible joints are now.
                placed[0] = (seen - self._bodies)[~missing].mean(axis=0)
        for parent, joint in H36M17.bones:
            if missing[joint]:
                placed[joint] = placed[parent] + self._bodies[joint] - self._bodies[parent]
        return placed[0].copy(), placed - placed[0]

    def _complete_pixels(
        self, seen: NDArray[np.float64], missing: NDArray[np.bool_], body: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        if not missing.any():
            return seen.copy()
        there = ~missing
        if self._pixels is not None:
            guess = self._pixels + (seen - self._pixels)[there].mean(axis=0)
        else:
            # Weak perspective: the body's x and y, scaled and moved onto the joints that are there.
            flat, known = body[:, :2], body[there, :2]
            centre, target = known.mean(axis=0), seen[there].mean(axis=0)
            spread = float(((known - centre) ** 2).sum())
            scale = float(((known - centre) * (seen[there] - target)).sum()) / spread if spread > 0 else 1.0
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
