"""What a user's arrays must be, checked once at the boundary; every error names what was found and expected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    UsageError,
)
from refiner.skeleton import JointSet

# A joint lies at most a metre or so from the middle of its body: ten is a unit error, a centimetre is one too.
LARGEST_BODY_M, SMALLEST_BODY_M = 10.0, 0.01
LARGEST_DISTANCE_M = 1000.0
# Joints may lie outside the image, but not this many image widths.
LARGEST_PIXEL_RATIO = 20.0
# Normalised coordinates lie within 1 or 2 of 0; no person in an image is that small.
LARGEST_NORMALISED = 2.0
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 100_000
# Resampling to the model's rate multiplies the frames: outside of this the rate is a mistake.
LOWEST_FPS, HIGHEST_FPS = 1.0, 1000.0


def check_image_size(image_size: Any) -> tuple[float, float]:
    """(width, height) in pixels. Raises InputError."""
    expected = f"expected (width, height) in pixels, both from {SMALLEST_IMAGE} to {LARGEST_IMAGE}"
    try:
        size = np.asarray(image_size, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"image_size is {image_size!r}, {expected}") from error
    if size.shape != (2,) or not ((size >= SMALLEST_IMAGE) & (size <= LARGEST_IMAGE)).all():
        raise InputError(f"image_size is {image_size!r}, {expected}")
    return float(size[0]), float(size[1])


def check_fps(fps: float | None, model_fps: float) -> float:
    """The frame rate of the input; None is the model's. Raises UsageError."""
    if fps is None:
        return model_fps
    try:
        rate = float(fps)
    except (TypeError, ValueError):
        rate = math.nan
    if not LOWEST_FPS <= rate <= HIGHEST_FPS:
        raise UsageError(f"fps is {fps!r}, expected frames per second from {LOWEST_FPS:g} to {HIGHEST_FPS:g}")
    return rate


def check_pose_2d(pose_2d: Any, image_size: tuple[float, float], joints: JointSet) -> NDArray[np.float32]:
    """``(F, J, 2)`` pixels -> a float32 copy. Raises an InputError subclass."""
    array = check_sequence(pose_2d, "pose_2d", 2, joints)
    image = f"{image_size[0]:.0f} x {image_size[1]:.0f} pixels"
    largest = float(np.abs(array).max())
    if largest > LARGEST_PIXEL_RATIO * max(image_size):
        raise UnitError(
            f"pose_2d reaches {largest:.0f} in an image of {image}; expected pixels of this image: check image_size"
        )
    if largest <= LARGEST_NORMALISED:
        raise UnitError(
            f"pose_2d lies within {largest:.2f} of 0, which looks normalised; expected pixels of an image of {image}: "
            "undo the normalisation first (refiner.camera.denormalise_screen)"
        )
    return array.astype(np.float32)


def check_pose_3d(pose_3d: Any, joints: JointSet) -> NDArray[np.float32]:
    """``(F, J, 3)`` metres, camera axes -> a float32 copy. Raises an InputError subclass."""
    array = check_sequence(pose_3d, "pose_3d", 3, joints)
    # From the middle of the joints, since not every joint set has a root; the median frame tells the unit.
    with np.errstate(over="ignore", invalid="ignore"):  # values near the end of the type's range are refused below
        size = np.abs(array - array.mean(axis=1, keepdims=True, dtype=np.float64)).max(axis=(1, 2))
    body = float(np.median(size))
    if body > LARGEST_BODY_M:
        unit, factor = ("millimetres", 1000) if body > 20 * LARGEST_BODY_M else ("centimetres", 100)
        raise UnitError(
            f"pose_3d has joints {body:,.0f} from the middle of the body; expected metres, about 1. It looks like "
            f"{unit}: divide by {factor}"
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


def check_lengths(pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> None:
    """Raises LengthError unless both have the same number of frames."""
    if len(pose_2d) != len(pose_3d):
        raise LengthError(
            f"pose_2d has {len(pose_2d)} frames and pose_3d {len(pose_3d)}; expected both of the same frames"
        )


def as_array(value: Any, name: str, expected: str) -> NDArray[Any]:
    """Lists, arrays and tensors of other libraries as a NumPy array. Raises ShapeError for ragged lists."""
    if hasattr(value, "detach"):  # a PyTorch tensor
        value = value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ShapeError(f"{name} cannot be read as an array ({error}); {expected}") from error


def check_sequence(value: Any, name: str, coordinates: int, joints: JointSet, finite: bool = True) -> NDArray[Any]:
    """An array of real numbers ``(F, J, coordinates)``, in its own type; ``finite`` refuses NaN and infinite ones.

    Raises an InputError subclass for anything else.
    """
    expected = f"expected (frames, {joints.joints}, {coordinates})"
    array = as_array(value, name, expected)
    if array.dtype.kind not in "fiu":
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
                other, hint = "pose_3d", " (a confidence is no coordinate: pose_2d[..., :2] drops it)"
            raise SwappedInputError(f"{name} has shape {array.shape}; {expected}. Was it swapped with {other}?{hint}")
        raise ShapeError(f"{name} has shape {array.shape}; {expected}")
    if array.shape[1] != joints.joints:
        raise JointCountError(
            f"{name} has {array.shape[1]} joints (shape {array.shape}), {joints.name} has {joints.joints}: {expected}; "
            "joints= names other joint sets"
        )
    there = np.isfinite(array).all(axis=(1, 2))
    if finite and not there.all():
        bad = np.flatnonzero(~there)
        raise NonFiniteError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} frames, first in frame {bad[0]}; "
            "fill or drop these frames first"
        )
    # Half precision would round pixels and overflow in sums.
    return array.astype(np.float32) if array.dtype == np.float16 or array.dtype.kind != "f" else array
