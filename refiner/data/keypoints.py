"""A sequence of 2D poses as detectors give them, with joints missing, checked and made whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.inputs import as_array, check_pose_2d, check_sequence
from refiner.data.swaps import sides_back, warn_of_sides, with_sides_back
from refiner.errors import EmptySequenceError, InputWarning, ShapeError, UnitError
from refiner.lens import Lens
from refiner.skeleton import JointSet, confidence_to_h36m17, to_h36m17

# Scores of some detectors pass 1 a little; percentages pass it by far.
LARGEST_CONFIDENCE = 10.0
# Fewer joints than this say too little of a body, offline as in a stream.
LEAST_JOINTS = 6
# Root mean square distance of the joints from their middle, pixels: a person of about 25 pixels.
LEAST_SPREAD_PX = 8.0


@dataclass(frozen=True, eq=False)
class Keypoints:
    """``values`` ``(F, 17, 3)`` float32: x and y in pixels of a lens without distortion, confidence; what is missing is
    filled in from the frames around it and has confidence 0. ``missing`` ``(F, 17)``: which joints those are."""

    values: NDArray[np.float32] = field(repr=False)
    missing: NDArray[np.bool_] = field(repr=False)


def check_keypoints(
    pose_2d: ArrayLike, confidence: ArrayLike | None, lens: Lens, joints: JointSet, sides: bool = False
) -> Keypoints:
    """2D poses ``(F, J, 2)`` in pixels, with or without the detector's confidence ``(F, J)``, in Human3.6M's joints.

    A joint is missing where a coordinate is NaN or infinite, where both are exactly 0 or exactly -1, as detectors
    write it, where its confidence is NaN or not above 0, or where the lens has no ray for it. A joint that is made up
    of others (Hip, Spine and Thorax of COCO's) is missing where one of them is, and as sure as the least sure of them.
    With ``sides``, left and right that the detector took for each other for a stretch of frames are exchanged
    (`refiner.data.swaps`), with a warning.

    Warns (`InputWarning`) of frames that show fewer than 6 joints, whose poses are guessed from the frames around them,
    and of people too small in the image. Raises an InputError for everything else that is wrong, and where no frame
    shows anybody.
    """
    expected = f"expected (frames, {joints.joints}, 2)"
    pixels = check_sequence(pose_2d, "pose_2d", 2, joints, finite=False).astype(np.float64)
    with np.errstate(invalid="ignore"):
        written = (pixels == 0).all(axis=-1) | (pixels == -1).all(axis=-1)
    missing: NDArray[np.bool_] = np.asarray(~np.isfinite(pixels).all(axis=-1) | written)
    sure = np.ones(missing.shape) if confidence is None else _confidence(confidence, missing.shape)
    missing = np.asarray(missing | ~(sure > 0))
    if missing.all():
        raise EmptySequenceError(f"pose_2d shows no joint in any of its {len(pixels)} frames; {expected} of a person")
    # Units are told by what is there.
    present = np.where(missing[..., None], pixels[~missing][0], pixels)
    check_pose_2d(present, lens.image_size, joints)
    pixels[missing] = np.nan
    ideal = lens.ideal(to_h36m17(pixels, joints))
    sure = confidence_to_h36m17(np.where(missing, 0.0, sure), joints)
    lost: NDArray[np.bool_] = np.asarray(~np.isfinite(ideal).all(axis=-1) | (sure <= 0))
    if lost.all():
        raise EmptySequenceError("the camera's lens has no ray for any joint of pose_2d; is it this camera's?")
    filled = fill_in_time(np.where(lost[..., None], np.nan, ideal))
    if sides:
        for swapped, pairs in sides_back(filled, lost):
            filled, sure, lost = (with_sides_back(part, swapped, pairs) for part in (filled, sure, lost))
            warn_of_sides(swapped, "pose_2d")
    _warn(filled, lost)
    values = np.concatenate([filled, np.where(lost, 0.0, sure)[..., None]], axis=-1)
    return Keypoints(values.astype(np.float32), lost)


def fill_in_time(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(F, J, C)`` with NaN for missing joints -> the same without: on a straight line between the frames around a
    gap, as in the nearest frame at the ends; a joint that is never there lies in the middle of the others."""
    filled = pose.copy()
    frames = np.arange(len(pose))
    seen: NDArray[np.bool_] = np.asarray(np.isfinite(pose).all(axis=-1))
    for joint in np.flatnonzero(~seen.all(axis=0) & seen.any(axis=0)):
        there = seen[:, joint]
        for axis in range(pose.shape[2]):
            filled[:, joint, axis] = np.interp(frames, frames[there], pose[there, joint, axis])
    never = ~seen.any(axis=0)
    if never.any():
        filled[:, never] = filled[:, ~never].mean(axis=1, keepdims=True)
    return filled


def _confidence(confidence: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = as_array(confidence, "confidence", f"expected {shape}")
    if array.dtype.kind not in "fiub" or array.shape != shape:
        raise ShapeError(f"confidence is {array.dtype} of shape {array.shape}; expected numbers {shape}, one a joint")
    sure = array.astype(np.float64)
    largest = float(np.nanmax(sure, initial=0.0))
    if largest > LARGEST_CONFIDENCE:
        raise UnitError(f"confidence reaches {largest:g}; expected 0 to 1: divide percentages by 100")
    return np.clip(np.nan_to_num(sure, nan=0.0), 0.0, 1.0)


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
            f"the person's joints lie within {spread:.1f} pixels of each other: too small in the image for a pose to "
            "be told with any certainty",
            InputWarning,
            stacklevel=5,
        )
