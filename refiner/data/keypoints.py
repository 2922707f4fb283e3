"""Checks of detected 2D poses, whose joints may be missing, and interpolation of the missing joints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_array
from refiner.data.inputs import check_pose_2d, check_sequence, marked_missing
from refiner.data.swaps import exchange_sides, find_swapped_sides, warn_of_swapped_sides
from refiner.errors import EmptySequenceError, InputWarning, ShapeError, UnitError
from refiner.lens import Lens
from refiner.skeleton import JointSet, confidence_to_h36m17, to_h36m17

# The scores of some detectors are slightly above 1. Percentages are far above 1.
LARGEST_CONFIDENCE = 10.0
# A frame with fewer detected joints does not determine a pose. The limit is the same offline and in a stream.
LEAST_JOINTS = 6
# The root mean square distance of the joints from their mean, in pixels: a person of about 25 pixels.
LEAST_SPREAD_PX = 8.0


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Checked 2D poses in Human3.6M's joints.

    Attributes:
        values: ``(F, 17, 3)`` float32: x and y in pixels of a lens without distortion, and the confidence. A missing
            joint is interpolated from the neighbouring frames and has confidence 0.
        missing: ``(F, 17)``, true for the missing joints.
    """

    values: NDArray[np.float32] = field(repr=False)
    missing: NDArray[np.bool_] = field(repr=False)


def check_keypoints(
    pose_2d: ArrayLike, confidence: ArrayLike | None, lens: Lens, joints: JointSet, sides: bool = False
) -> Keypoints:
    """Check detected 2D poses and convert them to Human3.6M's joints.

    A joint is missing if a coordinate is NaN or infinite, if both coordinates are exactly 0 or exactly -1 (detectors
    mark missing joints so), if its confidence is NaN or not above 0, or if the lens has no ray for it. A joint that is
    computed from other joints (for example Hip, Spine and Thorax of COCO's) is missing if one of these joints is
    missing, and its confidence is the lowest of theirs.

    The function warns (`InputWarning`) about frames with fewer than 6 detected joints, whose poses are guessed from the
    neighbouring frames, and about people who are too small in the image.

    Args:
        pose_2d: ``(F, J, 2)`` pixels, where J is the number of joints of ``joints``.
        confidence: The detector's confidence ``(F, J)`` from 0 to 1; None if it is not known.
        lens: The lens of the camera.
        joints: The joint set of ``pose_2d``.
        sides: Exchange left and right in frames where the detector confused them (`refiner.data.swaps`), with a
            warning.

    Raises:
        EmptySequenceError: No frame shows a joint.
        InputError: The arrays cannot be used; the subclass tells the reason.
    """
    expected = f"expected (frames, {joints.joints}, 2)"
    pixels = check_sequence(pose_2d, "pose_2d", 2, joints, finite=False).astype(np.float64)
    missing: NDArray[np.bool_] = np.asarray(~np.isfinite(pixels).all(axis=-1) | marked_missing(pixels))
    score = np.ones(missing.shape) if confidence is None else _confidence(confidence, missing.shape)
    missing = np.asarray(missing | ~(score > 0))
    if missing.all():
        raise EmptySequenceError(f"pose_2d shows no joint in any of its {len(pixels)} frames; {expected} of a person")
    # The check of the units must see only detected joints.
    present = np.where(missing[..., None], pixels[~missing][0], pixels)
    check_pose_2d(present, lens.image_size, joints)
    pixels[missing] = np.nan
    ideal = lens.ideal(to_h36m17(pixels, joints))
    score = confidence_to_h36m17(np.where(missing, 0.0, score), joints)
    absent: NDArray[np.bool_] = np.asarray(~np.isfinite(ideal).all(axis=-1) | (score <= 0))  # [F, 17]
    if absent.all():
        raise EmptySequenceError("the camera's lens has no ray for any joint of pose_2d; did this camera record it?")
    filled = fill_in_time(np.where(absent[..., None], np.nan, ideal))
    if sides:
        for swapped, pairs in find_swapped_sides(filled, absent):
            filled, score, absent = (exchange_sides(part, swapped, pairs) for part in (filled, score, absent))
            warn_of_swapped_sides(swapped, "pose_2d")
    _warn(filled, absent)
    values = np.concatenate([filled, np.where(absent, 0.0, score)[..., None]], axis=-1)
    return Keypoints(values.astype(np.float32), absent)


def fill_in_time(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate missing joints over time.

    A gap is interpolated linearly between the frames around it. At the ends, the nearest frame is repeated. A joint
    that is missing in all frames gets the mean of the other joints.

    Args:
        pose: ``(F, J, C)``, NaN for missing joints.

    Returns:
        ``(F, J, C)`` without NaN.
    """
    filled = pose.copy()
    frames = np.arange(len(pose))
    detected: NDArray[np.bool_] = np.asarray(np.isfinite(pose).all(axis=-1))
    for joint in np.flatnonzero(~detected.all(axis=0) & detected.any(axis=0)):
        known = detected[:, joint]
        for axis in range(pose.shape[2]):
            filled[:, joint, axis] = np.interp(frames, frames[known], pose[known, joint, axis])
    never = ~detected.any(axis=0)
    if never.any():
        filled[:, never] = filled[:, ~never].mean(axis=1, keepdims=True)
    return filled


def _confidence(confidence: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = as_array(confidence, "confidence", f"expected {shape}")
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise ShapeError(f"confidence is {array.dtype} of shape {array.shape}; expected numbers {shape}, one a joint")
    score = array.astype(np.float64)
    largest = float(np.nanmax(score, initial=0.0))
    if largest > LARGEST_CONFIDENCE:
        raise UnitError(f"confidence reaches {largest:g}; expected 0 to 1: divide percentages by 100")
    return np.clip(np.nan_to_num(score, nan=0.0), 0.0, 1.0)


def _warn(pixels: NDArray[np.float64], missing: NDArray[np.bool_]) -> None:
    empty = np.flatnonzero((~missing).sum(axis=1) < LEAST_JOINTS)
    if len(empty):
        warnings.warn(
            f"{len(empty)} of {len(missing)} frames show fewer than {LEAST_JOINTS} joints, first frame {empty[0]}: "
            "their poses are guessed from the frames around them",
            InputWarning,
            stacklevel=5,
        )
    offset = np.where(missing[..., None], np.nan, pixels - pixels.mean(axis=1, keepdims=True))
    spread = float(np.sqrt(np.nanmean((offset**2).sum(axis=-1))))
    if spread < LEAST_SPREAD_PX:
        warnings.warn(
            f"the person's joints lie about {spread:.1f} pixels from their mean: too small in the image for a "
            "reliable pose",
            InputWarning,
            stacklevel=5,
        )
