"""The floor below a camera: where down is in the camera's axes, and axes that are level with the floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera
from refiner.errors import InputError, ShapeError, UsageError

Array = NDArray[np.float64]

# A camera that looks straight down or up has no direction that is level and forward.
STEEPEST_DEGREES = 89.0
LOWEST_M, HIGHEST_M = 0.05, 100.0


@dataclass(frozen=True)
class Ground:
    """A level floor, and how the camera is placed over it.

    Attributes:
        pitch: Degrees by which the camera looks down; negative where it looks up.
        height: Metres of the lens above the floor; None if it is not known.
        roll: Degrees by which the camera is turned clockwise about its optical axis, as seen from behind it.

    Raises:
        UsageError: A value is not a number.
        InputError: A value is out of range.
    """

    pitch: float
    height: float | None = None
    roll: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "pitch": (-STEEPEST_DEGREES, STEEPEST_DEGREES, "degrees downwards"),
            "roll": (-180.0, 180.0, "degrees clockwise"),
            "height": (LOWEST_M, HIGHEST_M, "metres above the floor"),
        }
        for name, (least, most, unit) in limits.items():
            value = getattr(self, name)
            if name == "height" and value is None:
                continue
            number = one_number(value, f"the camera's {name}", f"{least:g} to {most:g} {unit}")
            if not least <= number <= most:
                raise InputError(f"the camera's {name} is {number:g}, expected {least:g} to {most:g} {unit}")
            object.__setattr__(self, name, number)

    @classmethod
    def of_camera(cls, camera: Camera) -> Ground:
        """The ground of a calibrated camera whose world has z up and the floor at z = 0. Raises InputError."""
        down = -camera.rotation[:, 2]
        pitch = np.degrees(np.arcsin(np.clip(down[2], -1.0, 1.0)))
        roll = np.degrees(np.arctan2(down[0], down[1]))
        return cls(float(pitch), float(camera.position[2]), float(roll))

    @property
    def down(self) -> Array:
        """The direction of gravity in camera axes, a unit vector ``(3,)``."""
        pitch, roll = np.radians(self.pitch), np.radians(self.roll)
        return np.array([np.sin(roll) * np.cos(pitch), np.cos(roll) * np.cos(pitch), np.sin(pitch)])

    @property
    def rotation(self) -> Array:
        """The matrix ``(3, 3)`` from camera axes to level axes: x right, y straight down, z forward and level."""
        down = self.down
        forward = np.array([0.0, 0.0, 1.0]) - down[2] * down
        forward /= np.linalg.norm(forward)
        return np.stack([np.cross(down, forward), down, forward])

    def level(self, points: ArrayLike, height: float | None = None) -> NDArray[Any]:
        """Transform points from camera axes to level axes.

        The origin is the point of the floor below the lens. y points down, so that points above the floor have a
        negative y.

        Args:
            points: ``(..., 3)`` metres in camera axes. NaN stays NaN.
            height: Metres of the lens above the floor; None takes that of this ground.

        Returns:
            ``(..., 3)`` metres of the same float type.

        Raises:
            UsageError: Nobody states the height.
            ShapeError: The points have another shape.
        """
        array = np.asarray(points)
        if array.ndim == 0 or array.shape[-1] != 3:
            raise ShapeError(f"found points of shape {array.shape}, expected (..., 3)")
        above = self.height if height is None else height
        if above is None:
            raise UsageError("the height of the camera above the floor is not known")
        moved = array.astype(np.float64) @ self.rotation.T - np.array([0.0, above, 0.0])
        return np.asarray(moved.astype(array.dtype if array.dtype.kind == "f" else np.float64))


def one_number(value: object, name: str, expected: str) -> float:
    """A caller's value as one finite number. Raises UsageError for anything else."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if isinstance(value, (bool, str, bytes)) or array.shape != () or not np.isfinite(array):
        raise UsageError(f"{name} is {value!r}, expected {expected}")
    return float(array)
