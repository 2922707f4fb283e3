"""The lens of the camera that recorded a 2D pose: unknown, known by its focal length, or calibrated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_numbers
from refiner.camera import Camera, default_focal_length
from refiner.data.inputs import check_image_size
from refiner.errors import DefaultLensWarning, InputError, UnitError, UsageError
from refiner.reasons import Note

# The accepted focal lengths, divided by the longer side of the image: from a fisheye lens (127 degrees) to a telephoto
# lens in a stadium.
SHORTEST_FOCAL, LONGEST_FOCAL = 0.25, 30.0
# The image size in a camera calibration may be rounded.
SIZE_TOLERANCE_PX = 2.0


@dataclass(frozen=True, eq=False)
class Lens:
    """The camera input of a camera-aware model. Use `check_lens` to make one.

    Attributes:
        image_size: (width, height) in pixels.
        focal_length: The horizontal focal length in pixels; with a ``camera``, the mean of its two focal lengths.
        source: Where the focal length comes from: the caller ("given"), the calibrated camera or the default.
        aspect: The horizontal focal length divided by the vertical focal length.
        camera: The calibrated camera, which removes distortion and moves the principal point to the image centre.
    """

    image_size: tuple[float, float]
    focal_length: float
    source: Literal["given", "camera", "default"]
    aspect: float = 1.0
    camera: Camera | None = field(default=None, repr=False)

    @property
    def notes(self) -> tuple[Note, ...]:
        """A note where nobody stated the focal length."""
        if self.source != "default":
            return ()
        return (Note("lens assumed", f"no focal_length was given: {self.focal_length:.0f} pixels are taken"),)

    def row(self) -> NDArray[np.float32]:
        """Return width, height and focal length in pixels, ``(3,)``: the input ``camera`` of an exported graph."""
        return np.array([*self.image_size, self.focal_length], np.float32)

    def ideal(self, pixels: ArrayLike) -> NDArray[Any]:
        """Convert pixels to the pixels of an ideal lens: no distortion, principal point at the image centre.

        Args:
            pixels: ``(..., 2)``. NaN stays NaN.

        Returns:
            ``(..., 2)`` of the same type. A pixel for which the lens model of the camera has no ray becomes NaN.
        """
        points = np.asarray(pixels)
        centre = 0.5 * np.asarray(self.image_size)
        if self.camera is not None:
            return np.asarray(self.camera.rays(points, strict=False) * self.focal_length + centre).astype(points.dtype)
        if self.aspect == 1.0:
            return points
        return np.asarray((points - centre) * np.array([1.0, self.aspect]) + centre).astype(points.dtype)


def check_lens(
    image_size: ArrayLike | None,
    focal_length: ArrayLike | None = None,
    camera: Camera | None = None,
    quiet: bool = False,
) -> Lens:
    """Check a user's description of a camera and make a lens from it.

    Args:
        image_size: (width, height) in pixels. It may be None if ``camera`` is given.
        focal_length: Pixels; one number, or (horizontal, vertical). If both this and ``camera`` are None, the lens has
            the default focal length for the image size (`refiner.camera.default_focal_length`).
        camera: A calibrated camera instead of a focal length; only its lens is used, not its pose.
        quiet: Do not warn about a default focal length.

    Returns:
        The lens. A default focal length causes a `DefaultLensWarning` unless ``quiet``.

    Raises:
        InputError: The values do not describe a lens, or the image size differs from the size of the camera.
        UnitError: The focal length is far too short or too long for the image size.
        UsageError: Both a focal length and a camera were given, or ``camera`` is not a `Camera`.
    """
    if camera is not None:
        if focal_length is not None:
            raise UsageError("focal_length and camera were both given; a camera has a focal length: leave one out")
        if not isinstance(camera, Camera):
            raise UsageError(f"camera is a {type(camera).__name__}; expected a refiner.camera.Camera")
        size = check_image_size(camera.image_size)
        stated_size = size if image_size is None else check_image_size(image_size)
        if np.abs(np.subtract(stated_size, size)).max() > SIZE_TOLERANCE_PX:
            raise InputError(
                f"image_size is {stated_size[0]:.0f} x {stated_size[1]:.0f}, but the camera {camera.id!r} was "
                f"calibrated for {size[0]:.0f} x {size[1]:.0f}: scale its focal length and centre to your image, or "
                "pass the size of the images that the 2D poses were detected in"
            )
        _in_range(camera.focal_length, size)
        return Lens(size, float(np.mean(camera.focal_length)), "camera", camera=camera)
    size = check_image_size(image_size)
    if focal_length is None:
        default = default_focal_length(size)
        if not quiet:
            warnings.warn(
                f"no focal_length was given: {default:.0f} pixels are taken, the longer side of an image of "
                f"{size[0]:.0f} x {size[1]:.0f}. Pass focal_length= or camera= if you know the lens",
                DefaultLensWarning,
                stacklevel=4,
            )
        return Lens(size, default, "default")
    values = as_numbers(focal_length, "focal_length", "expected pixels, one number or two")
    if values.shape not in ((), (2,)):
        raise InputError(
            f"focal_length has shape {values.shape}; expected pixels, one number or (horizontal, vertical)"
        )
    _in_range(values, size)
    if values.shape == ():
        return Lens(size, float(values), "given")
    horizontal, vertical = values.tolist()
    return Lens(size, horizontal, "given", aspect=horizontal / vertical)


def _in_range(focal: NDArray[np.float64], size: tuple[float, float]) -> None:
    longer = max(size)
    image = f"an image of {size[0]:.0f} x {size[1]:.0f} pixels"
    expected = f"expected {SHORTEST_FOCAL * longer:.0f} to {LONGEST_FOCAL * longer:.0f} pixels for {image}"
    text = ", ".join(f"{value:g}" for value in np.atleast_1d(focal))
    if not (np.isfinite(focal) & (focal > 0)).all():
        raise InputError(f"focal_length is {text}; {expected}, or None for the default")
    if (focal < SHORTEST_FOCAL * longer).any():
        raise UnitError(
            f"focal_length is {text}; {expected}. Millimetres? A lens of f mm (35 mm equivalent) has f / 36 x "
            f"{longer:.0f} pixels here"
        )
    if (focal > LONGEST_FOCAL * longer).any():
        raise UnitError(f"focal_length is {text}; {expected}. Was it calibrated for a larger image?")
