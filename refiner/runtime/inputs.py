"""What a user's arrays must be, checked once at the boundary; every error names what was found and expected."""

from __future__ import annotations

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
)
from refiner.skeleton import JointSet

# A body is a metre or two from its root; a camera a few tens of metres away at most.
LARGEST_BODY_M = 10.0
LARGEST_DISTANCE_M = 1000.0
# Joints may lie outside the image, but not this many image widths.
LARGEST_PIXEL_RATIO = 20.0


def check_image_size(image_size: Any) -> tuple[float, float]:
    """(width, height) in pixels. Raises InputError."""
    try:
        size = np.asarray(image_size, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"image_size must be (width, height) in pixels, got {image_size!r}") from error
    if size.shape != (2,) or not np.isfinite(size).all() or not (size >= 8).all():
        raise InputError(f"image_size must be (width, height) in pixels, both at least 8, got {image_size!r}")
    return float(size[0]), float(size[1])


def check_pose_2d(pose_2d: Any, image_size: tuple[float, float], joints: JointSet) -> NDArray[np.float32]:
    """``(F, J, 2)`` pixels -> the same as float32. Raises an InputError subclass."""
    array = _sequence(pose_2d, "pose_2d", 2, joints)
    largest = float(np.abs(array).max())
    if largest > LARGEST_PIXEL_RATIO * max(image_size):
        raise UnitError(
            f"pose_2d reaches {largest:.0f} in an image of {image_size[0]:.0f} x {image_size[1]:.0f} pixels; "
            "expected pixels of this image: check image_size"
        )
    if largest <= 2.0:
        raise UnitError(
            f"pose_2d lies within {largest:.2f} of 0, which looks normalised; expected pixels of a "
            f"{image_size[0]:.0f} x {image_size[1]:.0f} image: multiply it out first"
        )
    return array


def check_pose_3d(pose_3d: Any, joints: JointSet) -> NDArray[np.float32]:
    """``(F, J, 3)`` metres -> the same as float32. Raises an InputError subclass."""
    array = _sequence(pose_3d, "pose_3d", 3, joints)
    body = float(np.abs(array - array[:, :1]).max())
    if body > LARGEST_BODY_M:
        raise UnitError(
            f"a joint of pose_3d lies {body:,.0f} from the root; expected metres, so this looks like millimetres: "
            "divide by 1000"
        )
    distance = float(np.abs(array).max())
    if distance > LARGEST_DISTANCE_M:
        raise UnitError(f"pose_3d lies {distance:,.0f} from the camera; expected metres: divide by 1000")
    return array


def check_lengths(pose_2d: NDArray[Any], pose_3d: NDArray[Any]) -> None:
    """Raises LengthError unless both have the same number of frames."""
    if len(pose_2d) != len(pose_3d):
        raise LengthError(
            f"pose_2d has {len(pose_2d)} frames and pose_3d {len(pose_3d)}; they must be of the same frames"
        )


def _sequence(value: Any, name: str, coordinates: int, joints: JointSet) -> NDArray[np.float32]:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    expected = f"expected (frames, {len(joints.joint_names)}, {coordinates})"
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise DTypeError(f"{name} has type {array.dtype}; expected numbers, float32")
    if array.ndim != 3:
        raise ShapeError(f"{name} has shape {array.shape}; {expected}")
    if array.shape[2] != coordinates:
        if array.shape[2] == 5 - coordinates:
            other = "pose_3d" if coordinates == 2 else "pose_2d"
            raise SwappedInputError(
                f"{name} has {array.shape[2]} coordinates, {expected}: was it swapped with {other}?"
            )
        raise ShapeError(f"{name} has shape {array.shape}; {expected}")
    if array.shape[1] != len(joints.joint_names):
        raise JointCountError(
            f"{name} has {array.shape[1]} joints, {joints.name} has {len(joints.joint_names)}: {expected}; "
            "other joint sets are named by joints="
        )
    if len(array) == 0:
        raise EmptySequenceError(f"{name} has no frames; {expected} with at least one frame")
    finite = np.isfinite(array).all(axis=(1, 2))
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteError(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(array)} frames, first in frame {bad[0]}; "
            "fill or drop these frames first"
        )
    return array.astype(np.float32)
