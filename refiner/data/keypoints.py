"""Checks of detected 2D poses, whose joints may be missing, and interpolation of the missing joints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_array
from refiner.data.gaps import LEAST_JOINTS, shows_person
from refiner.data.inputs import both, check_pose_2d, check_sequence, marked_missing
from refiner.data.swaps import exchange_sides, find_swapped_sides, swapped_sides
from refiner.errors import EmptySequenceError, ShapeError, UnitError
from refiner.lens import Lens
from refiner.reasons import Note
from refiner.skeleton import JointSet, confidence_to_h36m17, to_h36m17

# The scores of some detectors are slightly above 1. Percentages are far above 1.
LARGEST_CONFIDENCE = 10.0
# The root mean square distance of the joints from their mean, in pixels: a person of about 25 pixels.
LEAST_SPREAD_PX = 8.0
# A share of the joints outside of the image, by more than this share of its size, that no camera explains.
MOST_OUTSIDE, OUTSIDE_BY = 0.2, 0.05
# The whole body of a person fills at most this angle of a view, as seen from 70 cm away.
WIDEST_BODY_DEG = 100.0
# Joints that a frame must show for `WIDEST_BODY_DEG`.
LEAST_WHOLE = 14


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Checked 2D poses in Human3.6M's joints.

    Attributes:
        values: ``(F, 17, 3)`` float32: x and y in pixels of a lens without distortion, and the confidence. A missing
            joint is interpolated from the neighbouring frames and has confidence 0.
        missing: ``(F, 17)``, true for the missing joints.
        notes: what was found in the sequence, or done to it; there was a warning of each.
    """

    values: NDArray[np.float32] = field(repr=False)
    missing: NDArray[np.bool_] = field(repr=False)
    notes: tuple[Note, ...] = ()


def check_keypoints(
    pose_2d: ArrayLike,
    confidence: ArrayLike | None,
    lens: Lens,
    joints: JointSet,
    sides: bool = False,
    least_confidence: float = 0.0,
) -> Keypoints:
    """Check detected 2D poses and convert them to Human3.6M's joints.

    A joint is missing if a coordinate is NaN or infinite, if both coordinates are exactly 0 or exactly -1 (detectors
    mark missing joints so), if its confidence is NaN or not above ``least_confidence``, or if the lens has no ray for
    it. A joint that is computed from other joints (for example Hip, Spine and Thorax of COCO's) is missing if one of
    these joints is missing, and its confidence is the lowest of theirs.

    The function warns (`InputWarning`) about frames with fewer than 6 detected joints, about people who are too small
    in the image, and where many joints lie outside of the image.

    Args:
        pose_2d: ``(F, J, 2)`` pixels, where J is the number of joints of ``joints``.
        confidence: The detector's confidence ``(F, J)`` from 0 to 1; None if it is not known.
        lens: The lens of the camera.
        joints: The joint set of ``pose_2d``.
        sides: Exchange left and right in frames where the detector confused them (`refiner.data.swaps`), with a
            warning.
        least_confidence: See above.

    Raises:
        EmptySequenceError: No frame shows a joint.
        UnitError: Also where no person can be that wide in the view of a lens with this focal length.
        InputError: The arrays cannot be used; the subclass tells the reason.
    """
    expected = f"expected (frames, {joints.joints}, 2)"
    pixels = check_sequence(pose_2d, "pose_2d", 2, joints, finite=False).astype(np.float64)
    missing: NDArray[np.bool_] = np.asarray(~both(np.isfinite(pixels)) | marked_missing(pixels))
    score = np.ones(missing.shape) if confidence is None else _confidence(confidence, missing.shape)
    missing = np.asarray(missing | ~(score > least_confidence))
    if missing.all():
        raise EmptySequenceError(f"pose_2d shows no joint in any of its {len(pixels)} frames; {expected} of a person")
    # The check of the units must see only detected joints.
    present = np.where(missing[..., None], pixels[~missing][0], pixels)
    check_pose_2d(present, lens.image_size, joints)
    pixels[missing] = np.nan
    ideal = lens.ideal(to_h36m17(pixels, joints))
    score = confidence_to_h36m17(np.where(missing, 0.0, score), joints)
    absent: NDArray[np.bool_] = np.asarray(~both(np.isfinite(ideal)) | (score <= 0))  # [F, 17]
    if absent.all():
        raise EmptySequenceError("the camera's lens has no ray for any joint of pose_2d; did this camera record it?")
    filled = fill_in_time(np.where(absent[..., None], np.nan, ideal))
    _check_focal_length(filled, absent, lens)
    notes = []
    if sides:
        for swapped, pairs in find_swapped_sides(filled, absent):
            filled, score, absent = (exchange_sides(part, swapped, pairs) for part in (filled, score, absent))
            notes.append(swapped_sides(swapped, "pose_2d"))
    notes += _notes(filled, absent, lens)
    for note in notes:
        note.warn(stacklevel=4)
    values = np.concatenate([filled, np.where(absent, 0.0, score)[..., None]], axis=-1)
    return Keypoints(values.astype(np.float32), absent, tuple(notes))


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


def _check_focal_length(pixels: NDArray[np.float64], missing: NDArray[np.bool_], lens: Lens) -> None:
    """Raises UnitError where whole bodies would fill a wider view than a person does who stands right at the camera."""
    whole = (~missing).sum(axis=1) >= LEAST_WHOLE
    if lens.source != "given" or not whole.any():
        return
    centre = 0.5 * np.asarray(lens.image_size)
    rays = np.concatenate([(pixels[whole] - centre) / lens.focal_length, np.ones((int(whole.sum()), 17, 1))], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    middle = rays.mean(axis=1, keepdims=True)
    cosine = (rays * (middle / np.linalg.norm(middle, axis=-1, keepdims=True))).sum(axis=-1)
    widest = float(np.median(2.0 * np.rad2deg(np.arccos(np.clip(cosine.min(axis=1), -1.0, 1.0)))))
    if widest > WIDEST_BODY_DEG:
        raise UnitError(
            f"focal_length is {lens.focal_length:g}: the person would fill {widest:.0f} degrees of the view, as from "
            f"less than 70 cm away; expected pixels. Millimetres? A lens of f mm (35 mm equivalent) has "
            f"f / 36 x {max(lens.image_size):.0f} pixels here"
        )


def _notes(pixels: NDArray[np.float64], missing: NDArray[np.bool_], lens: Lens) -> list[Note]:
    notes = []
    empty = ~shows_person(~missing)
    if empty.any():
        message = (
            f"{int(empty.sum())} of {len(missing)} frames show fewer than {LEAST_JOINTS} joints, first frame "
            f"{int(np.argmax(empty))}: their poses are guessed from the frames around them, and long gaps have no pose"
        )
        notes.append(Note("too few joints", message, empty))
    offset = np.where(missing[..., None], np.nan, pixels - pixels.mean(axis=1, keepdims=True))
    spread = float(np.sqrt(np.nanmean((offset**2).sum(axis=-1))))
    if spread < LEAST_SPREAD_PX:
        message = (
            f"the person's joints lie about {spread:.1f} pixels from their mean: too small in the image for a "
            "reliable pose"
        )
        notes.append(Note("small in the image", message))
    note = outside_note(pixels, missing, lens.image_size)
    return notes if note is None else [*notes, note]


def outside_note(
    pixels: NDArray[np.floating], missing: NDArray[np.bool_], image_size: tuple[float, float]
) -> Note | None:
    """A note where many of the joints ``(F, 17, 2)`` lie outside of the image, as where its size is wrong."""
    share = _outside(pixels, missing, image_size)
    if share <= MOST_OUTSIDE:
        return None
    width, height = image_size
    hint = "check image_size"
    reason: Literal["outside the image", "image size"] = "outside the image"
    if _outside(pixels, missing, (height, width)) < 0.25 * MOST_OUTSIDE:
        reason, hint = "image size", f"they lie inside of {height:.0f} x {width:.0f}: are width and height swapped?"
    where = f"outside of an image of {width:.0f} x {height:.0f} pixels"
    message = f"{100 * share:.0f} % of the joints of pose_2d lie {where}: {hint}"
    return Note(reason, message)


def _outside(pixels: NDArray[np.floating], missing: NDArray[np.bool_], image_size: tuple[float, float]) -> float:
    """The share of the seen joints outside of the image; 0 where none is seen."""
    size = np.asarray(image_size, dtype=np.float64)
    outside = ((pixels < -OUTSIDE_BY * size) | (pixels > (1.0 + OUTSIDE_BY) * size)).any(axis=-1)
    return float((outside & ~missing).sum() / max((~missing).sum(), 1))
