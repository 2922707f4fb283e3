"""Checks of a caller's arrays and options. Every error message names the actual and the expected value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.arguments import check_number, shown
from refiner.arrays import REAL, as_array, as_numbers
from refiner.errors import (
    DTypeError,
    EmptySequenceError,
    InputError,
    JointCountError,
    LengthError,
    NonFiniteError,
    ShapeError,
    SwappedInputError,
    UnitError,
)
from refiner.skeleton import JointSet

# A joint lies about a metre or less from the middle of the body. A distance above 10 m or below 1 cm is a unit error.
LARGEST_BODY_M, SMALLEST_BODY_M = 10.0, 0.01
LARGEST_DISTANCE_M = 1000.0
# Joints may lie outside the image, but their coordinates stay below this multiple of the longer side of the image.
LARGEST_PIXEL_RATIO = 20.0
# Normalised coordinates are at most 1 or 2 in magnitude. In pixels, no person is that small.
# The share of coordinates that must look like a unit.
USUAL_SHARE = 0.9
LARGEST_NORMALISED = 2.0
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 100_000
# A frame rate outside this range is a mistake, and resampling to the model's rate would multiply the frames.
LOWEST_FPS, HIGHEST_FPS = 1.0, 1000.0


def check_image_size(image_size: object) -> tuple[float, float]:
    """Check (width, height) in pixels. Raises InputError if the size is not plausible."""
    expected = f"expected (width, height) in pixels, both from {SMALLEST_IMAGE} to {LARGEST_IMAGE}"
    try:
        size = as_numbers(image_size, "image_size", expected)
    except InputError as error:
        raise InputError(f"image_size is {shown(image_size)}, {expected}") from error
    if size.shape != (2,) or not ((size >= SMALLEST_IMAGE) & (size <= LARGEST_IMAGE)).all():
        raise InputError(f"image_size is {shown(image_size)}, {expected}")
    return float(size[0]), float(size[1])


def check_fps(fps: float | None, model_fps: float) -> float:
    """Check the frame rate of an input, frames/s; None means the model's rate. Raises UsageError for another value."""
    if fps is None:
        return model_fps
    return check_number(fps, "fps", LOWEST_FPS, HIGHEST_FPS, "frames per second")


def check_pose_2d(pose_2d: object, image_size: tuple[float, float], joints: JointSet) -> NDArray[np.float32]:
    """Check 2D poses and return a float32 copy.

    Args:
        pose_2d: ``(F, J, 2)`` pixels.
        image_size: (width, height) in pixels.
        joints: The joint set of the poses.

    Returns:
        ``(F, J, 2)`` float32.

    Raises:
        InputError: The array cannot be used. The subclass tells the reason, for example `UnitError`.
    """
    array = check_sequence(pose_2d, "pose_2d", 2, joints)
    image = f"{image_size[0]:.0f} x {image_size[1]:.0f} pixels"
    largest = float(np.abs(array).max())
    if largest > LARGEST_PIXEL_RATIO * max(image_size):
        raise UnitError(
            f"pose_2d reaches {largest:.0f} in an image of {image}; expected pixels of this image: check image_size"
        )
    # Single joints outside of the image go further than the rest.
    usual = float(np.quantile(np.abs(array), USUAL_SHARE))
    if usual <= LARGEST_NORMALISED:
        raise UnitError(
            f"pose_2d lies within {usual:.2f} of 0, which looks like {normalised_by(array)} (an image of {image})"
        )
    return array.astype(np.float32)


def check_pose_3d(pose_3d: object, joints: JointSet) -> NDArray[np.float32]:
    """Check 3D poses and return a float32 copy.

    Args:
        pose_3d: ``(F, J, 3)`` metres, in camera axes.
        joints: The joint set of the poses.

    Returns:
        ``(F, J, 3)`` float32.

    Raises:
        InputError: The array cannot be used. The subclass tells the reason, for example `UnitError`.
    """
    array = check_sequence(pose_3d, "pose_3d", 3, joints)
    # The distances are taken from the mean of the joints, because not every joint set has a root. The median over the
    # frames shows the unit.
    with np.errstate(over="ignore", invalid="ignore"):  # values near the limit of the type are refused below
        size = np.abs(array - array.mean(axis=1, keepdims=True, dtype=np.float64)).max(axis=(1, 2))
    body = float(np.median(size))
    if body > LARGEST_BODY_M:
        raise UnitError(
            f"pose_3d has joints {body:,.0f} from the middle of the body; expected metres, about 1. It looks like "
            f"{likely_unit(body)}"
        )
    if body < SMALLEST_BODY_M:
        raise UnitError(f"pose_3d has all joints within {body:.2g} of the middle of the body; expected metres, about 1")
    worst = int(size.argmax())
    if size[worst] > LARGEST_BODY_M:
        raise UnitError(
            f"frame {worst} of pose_3d has a joint {size[worst]:,.0f} m from the middle of the body, the median frame "
            f"{body:.1f} m; expected metres: fill or drop such frames first"
        )
    distance = float(np.abs(array).max())
    if distance > LARGEST_DISTANCE_M:
        raise UnitError(
            f"pose_3d lies up to {distance:,.0f} m from the camera, expected at most {LARGEST_DISTANCE_M:,.0f} m: is "
            "its root in millimetres?"
        )
    return array.astype(np.float32)


def marked_missing(pixels: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which joints of ``(..., 2)`` pixels are exactly (0, 0) or (-1, -1), as detectors mark missing joints."""
    with np.errstate(invalid="ignore"):
        return both(pixels == 0) | both(pixels == -1)


def both(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether both of ``(..., 2)`` hold, ``(...)``. NumPy is slow with reductions over short axes."""
    return np.asarray(mask[..., 0] & mask[..., 1])


def normalised_by(pixels: NDArray[np.floating]) -> str:
    """How coordinates ``(..., 2)`` near 0 were made of pixels, and the remedy, for messages."""
    if np.nanquantile(pixels, 1.0 - USUAL_SHARE) < 0.0:
        return (
            "coordinates that are normalised to -1 to 1; expected pixels: undo the normalisation first "
            "(refiner.camera.denormalise_screen)"
        )
    return "shares of the image; expected pixels: multiply by the image's width and height"


def likely_unit(body_size: float) -> str:
    """The unit of a body that is too large for metres, and what to divide by."""
    return "millimetres: divide by 1000" if body_size > 20 * LARGEST_BODY_M else "centimetres: divide by 100"


def check_lengths(pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> None:
    """Check that both sequences have the same number of frames. Raises LengthError otherwise."""
    if len(pose_2d) != len(pose_3d):
        raise LengthError(
            f"pose_2d has {len(pose_2d)} frames and pose_3d {len(pose_3d)}; expected the same frames in both"
        )


def check_sequence(value: object, name: str, coordinates: int, joints: JointSet, finite: bool = True) -> NDArray[Any]:
    """Check that a value is a sequence of poses.

    Args:
        value: ``(F, J, coordinates)``, real numbers.
        name: The name of the argument, for messages.
        coordinates: 2 or 3.
        joints: The joint set of the poses.
        finite: Refuse NaN and infinite values.

    Returns:
        ``(F, J, coordinates)``. Integers and float16 become float32; other float types stay.

    Raises:
        DTypeError: The array does not hold real numbers.
        ShapeError: The array has another shape. There are subclasses for another number of joints and for swapped
            arguments.
        EmptySequenceError: The sequence has no frames.
        NonFiniteError: The array holds NaN or infinite values.
    """
    expected = f"expected (frames, {joints.joints}, {coordinates})"
    array = as_array(value, name, expected)
    if array.dtype.kind not in REAL:
        raise DTypeError(f"{name} has type {array.dtype}; expected real numbers, such as float32")
    if array.ndim > 0 and len(array) == 0:
        raise EmptySequenceError(f"{name} has no frames (shape {array.shape}); {expected} with at least one frame")
    if array.ndim != 3:
        hint = "; one frame alone is pose[None]" if array.shape == (joints.joints, coordinates) else ""
        hint = "; pass one person at a time" if array.ndim == 4 else hint
        raise ShapeError(f"{name} has shape {array.shape}; {expected}{hint}")
    if array.shape[2] != coordinates:
        if array.shape[2] == 5 - coordinates:
            other, hint = "pose_2d", ""
            if coordinates == 2:
                other, hint = "pose_3d", " (a confidence is not a coordinate: pose_2d[..., :2] drops it)"
            raise SwappedInputError(f"{name} has shape {array.shape}; {expected}. Was it swapped with {other}?{hint}")
        raise ShapeError(f"{name} has shape {array.shape}; {expected}")
    if array.shape[1] != joints.joints:
        raise JointCountError(
            f"{name} has {array.shape[1]} joints (shape {array.shape}), {joints.name} has {joints.joints}: {expected}; "
            "pass joints= for another joint set"
        )
    usable = np.isfinite(array).all(axis=(1, 2))
    if finite and not usable.all():
        bad = np.flatnonzero(~usable)
        raise NonFiniteError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} frames, first in frame {bad[0]}; "
            "fill or drop these frames first"
        )
    # Half precision would round pixels, and sums would overflow.
    return array.astype(np.float32) if array.dtype == np.float16 or array.dtype.kind != "f" else array
