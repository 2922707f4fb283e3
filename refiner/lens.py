"""The lens that a 2D pose was seen through, as users know it: not at all, by its focal length, or calibrated."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.camera import Camera, default_focal_length
from refiner.data.inputs import check_image_size
from refiner.errors import DefaultLensWarning, InputError, UnitError, UsageError

# A focal length in units of the longer side of the image: from a fisheye's 127 degrees to a tele lens of a stadium.
SHORTEST_FOCAL, LONGEST_FOCAL = 0.25, 30.0
# The image size that a camera says may be rounded.
SIZE_TOLERANCE_PX = 2.0


@dataclass(frozen=True, eq=False)
class Lens:
    """What a camera-aware model is told of a camera. Make one with `check_lens`.

    ``image_size`` (width, height) and ``focal_length`` in pixels; ``source`` says where the latter is from. ``camera``
    undoes distortion and a principal point beside the middle; ``aspect``: horizontal over vertical focal length.
    """

    image_size: tuple[float, float]
    focal_length: float
    source: Literal["given", "camera", "default"]
    aspect: float = 1.0
    camera: Camera | None = field(default=None, repr=False)

    def row(self) -> NDArray[np.float32]:
        """Width, height and focal length ``(3,)``: the input ``camera`` of a graph."""
        return np.array([*self.image_size, self.focal_length], np.float32)

    def ideal(self, pixels: ArrayLike) -> NDArray[Any]:
        """Pixels ``(..., 2)`` -> where a lens without distortion, centred, would have put them.

        NaN stays NaN, and pixels that the camera's lens model has no ray for become NaN.
        """
        points = np.asarray(pixels)
        centre = 0.5 * np.asarray(self.image_size)
        if self.camera is not None:
            return np.asarray(self.camera.rays(points, strict=False) * self.focal_length + centre).astype(points.dtype)
        if self.aspect == 1.0:
            return points
        return np.asarray((points - centre) * np.array([1.0, self.aspect]) + centre).astype(points.dtype)


def check_lens(image_size: Any, focal_length: Any = None, camera: Camera | None = None, quiet: bool = False) -> Lens:
    """What a user says of a camera -> the lens.

    Args:
        image_size: (width, height) in pixels; may be None with a ``camera``.
        focal_length: pixels; one number, or (horizontal, vertical). None with no camera takes the default of the
            image's size (`refiner.camera.default_focal_length`), with a `DefaultLensWarning` unless ``quiet``.
        camera: a calibrated camera instead; only its lens is looked at.

    Raises InputError or UnitError for what can be no lens of such an image, UsageError for both at a time.
    """
    if camera is not None:
        if focal_length is not None:
            raise UsageError("focal_length and camera were both given; a camera has its own: leave one of the two out")
        if not isinstance(camera, Camera):
            raise UsageError(f"camera is a {type(camera).__name__}; expected a refiner.camera.Camera")
        size = check_image_size(camera.image_size)
        given = size if image_size is None else check_image_size(image_size)
        if np.abs(np.subtract(given, size)).max() > SIZE_TOLERANCE_PX:
            raise InputError(
                f"image_size is {given[0]:.0f} x {given[1]:.0f} and the camera {camera.id!r} was calibrated for "
                f"{size[0]:.0f} x {size[1]:.0f}: scale its focal length and centre to your image, or give the size of "
                "the images that the poses were found in"
            )
        _in_range(camera.focal_length, size)
        return Lens(size, float(np.mean(camera.focal_length)), "camera", camera=camera)
    size = check_image_size(image_size)
    if focal_length is None:
        default = default_focal_length(size)
        if not quiet:
            warnings.warn(
                f"no focal_length was given: {default:.0f} pixels are taken for an image of {size[0]:.0f} x "
                f"{size[1]:.0f}, the longer side. Give focal_length= or camera= where you know the lens",
                DefaultLensWarning,
                stacklevel=4,
            )
        return Lens(size, default, "default")
    try:
        values = np.asarray(focal_length, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"focal_length is {focal_length!r}; expected pixels, one number or two") from error
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
    wanted = f"expected {SHORTEST_FOCAL * longer:.0f} to {LONGEST_FOCAL * longer:.0f} pixels for {image}"
    text = ", ".join(f"{value:g}" for value in np.atleast_1d(focal))
    if not (np.isfinite(focal) & (focal > 0)).all():
        raise InputError(f"focal_length is {text}; {wanted}, or none for the default")
    if (focal < SHORTEST_FOCAL * longer).any():
        raise UnitError(
            f"focal_length is {text}; {wanted}. Millimetres? A lens of f mm (35 mm equivalent) has f / 36 x "
            f"{longer:.0f} pixels here"
        )
    if (focal > LONGEST_FOCAL * longer).any():
        raise UnitError(f"focal_length is {text}; {wanted}. Was it calibrated for a larger image?")
