"""Pinhole cameras with lens distortion, and the normalised image coordinates that lifters are trained with.

The camera axes are Human3.6M's: x right, y down, z forward. A camera point is ``R @ world + t``. The projection is
VideoPose3D's, which later lifters also use: its tangential term lacks the factor 2 of the usual distortion model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arguments import shown
from refiner.errors import InputError, ShapeError
from refiner.json_text import other_than_number, parse_json
from refiner.ranges import Between

Array = NDArray[Any]
# A NumPy array or a PyTorch tensor.
PoseT = TypeVar("PoseT")
_BUNDLED = Path(__file__).parent / "data" / "human36m_cameras.json"
_ROTATION_TOLERANCE = 1e-5
# A fixed-point iteration inverts the lens distortion. After this many iterations the error is below a billionth of the
# focal length everywhere in the image that the lens was calibrated for.
_LENS_ITERATIONS, _LENS_TOLERANCE = 50, 1e-9


# Pixels, metres or coefficients of a lens.
LARGEST_VALUE = 1e7
IMAGE_SIDES = Between(1, 100_000, whole=True)
CAMERA_NUMBERS = ("res_w", "res_h", "focal_length", "center", "radial_distortion", "tangential_distortion", "R", "t")


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated camera.

    Attributes:
        id: The name of the camera.
        width: The image width in pixels.
        height: The image height in pixels.
        focal_length: ``(2,)``, horizontal and vertical, in pixels.
        center: The principal point ``(2,)`` in pixels.
        radial: The radial distortion coefficients ``(3,)``.
        tangential: The tangential distortion coefficients ``(2,)``.
        rotation: The matrix R ``(3, 3)`` from world axes to camera axes.
        translation: The vector t ``(3,)`` in metres, in camera axes.

    Raises:
        ShapeError: A field has another shape.
        InputError: A value is not finite, the image size or the focal length is out of range, or R is not a rotation
            matrix.
    """

    id: str
    width: int
    height: int
    focal_length: Array = field(repr=False)
    center: Array = field(repr=False)
    radial: Array = field(repr=False)
    tangential: Array = field(repr=False)
    rotation: Array = field(repr=False)
    translation: Array = field(repr=False)

    def __post_init__(self) -> None:
        shapes = {
            "focal_length": (2,),
            "center": (2,),
            "radial": (3,),
            "tangential": (2,),
            "rotation": (3, 3),
            "translation": (3,),
        }
        for name, shape in shapes.items():
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.shape != shape:
                raise ShapeError(f"camera {self.id!r}: {name} has shape {values.shape}, expected {shape}")
            if not np.isfinite(values).all():
                raise InputError(f"camera {self.id!r}: {name} holds values that are not finite")
            if np.abs(values).max() > LARGEST_VALUE:
                raise InputError(
                    f"camera {self.id!r}: {name} holds {np.abs(values).max():.3g}, more than any camera has"
                )
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        for side in (self.width, self.height):
            if not IMAGE_SIDES.holds(side):
                raise InputError(f"camera {self.id!r}: a side of the image has {side} pixels, expected {IMAGE_SIDES}")
        if not (self.focal_length > 0).all():
            raise InputError(f"camera {self.id!r}: the focal length is {self.focal_length}, expected pixels, above 0")
        deviation = np.abs(self.rotation @ self.rotation.T - np.eye(3)).max()
        if deviation > _ROTATION_TOLERANCE or np.linalg.det(self.rotation) < 0:
            raise InputError(f"camera {self.id!r}: the matrix R is not a rotation (R R^T off by {deviation:.2g})")

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def position(self) -> NDArray[np.float64]:
        """The camera centre in world metres, ``(3,)``."""
        return np.asarray(-self.rotation.T @ self.translation)

    def to_camera(self, world: ArrayLike) -> Array:
        """Transform world points ``(..., 3)`` in metres to camera points ``(..., 3)`` in metres, same float type."""
        points = _floating(world, 3)
        rotation, translation = self.rotation.astype(points.dtype), self.translation.astype(points.dtype)
        return np.asarray(points @ rotation.T + translation)

    def project(self, camera_points: ArrayLike) -> Array:
        """Project camera points to pixels.

        ``x = clip(X.xy / X.z, -1, 1)``, ``uv = f (x (1 + k1 r2 + k2 r2^2 + k3 r2^3 + p.x) + p r2) + c``.
        The clip is part of VideoPose3D's formula. It keeps the polynomial inside the range in which it was fitted.

        Args:
            camera_points: ``(..., 3)`` in metres, in camera axes. NaN stays NaN.

        Returns:
            Pixels ``(..., 2)`` of the same float type.

        Raises:
            InputError: A point does not lie in front of the camera.
        """
        points = _floating(camera_points, 3)
        depth = points[..., 2:]
        if (depth <= 0).any():
            raise InputError(
                f"camera {self.id!r}: {int((depth <= 0).sum())} points lie on or behind the camera plane "
                "(z <= 0) and have no image; are these camera coordinates, z forward, not root-relative ones?"
            )
        dtype = points.dtype
        x = np.clip(points[..., :2] / depth, -1, 1)
        tangential = self.tangential.astype(dtype)
        r2 = (x * x).sum(axis=-1, keepdims=True)
        factor = self._distortion(x, r2)
        distorted = x * factor + tangential * r2
        return np.asarray(self.focal_length.astype(dtype) * distorted + self.center.astype(dtype))

    def rays(self, pixels: ArrayLike, strict: bool = True) -> NDArray[np.float64]:
        """Compute the viewing ray of each pixel. This is the inverse of `project`.

        Args:
            pixels: ``(..., 2)``. NaN stays NaN.
            strict: Raise an error for a pixel without a ray. If false, such a pixel becomes NaN.

        Returns:
            X.xy / X.z of the points that project to these pixels: ``(..., 2)`` float64.

        Raises:
            InputError: A pixel lies so far outside the image that the lens model is not defined there.
        """
        points = _floating(pixels, 2).astype(np.float64)
        distorted = (points - self.center) / self.focal_length
        x = before = distorted
        for _ in range(_LENS_ITERATIONS):
            r2 = (x * x).sum(axis=-1, keepdims=True)
            before, x = x, np.clip((distorted - self.tangential * r2) / self._distortion(x, r2), -1, 1)
        # `project` clips at 1, so that many points project to a pixel there, and it has no single ray.
        no_ray: NDArray[np.bool_] = np.asarray(((np.abs(x - before) > _LENS_TOLERANCE) | (np.abs(x) >= 1)).any(axis=-1))
        if no_ray.any() and not strict:
            return np.where(no_ray[..., None], np.nan, x)
        if no_ray.any():
            raise InputError(
                f"camera {self.id!r}: the lens has no single point at {int(no_ray.sum())} of the pixels, for example "
                f"{points[no_ray][0].tolist()}; the image is {self.width} x {self.height} pixels"
            )
        return x

    def _distortion(self, x: Array, r2: Array) -> Array:
        """The distortion factor at ``x`` ``(..., 2)``, whose squared norm is ``r2`` ``(..., 1)``."""
        k1, k2, k3 = self.radial.astype(x.dtype)
        tilt = (self.tangential.astype(x.dtype) * x).sum(axis=-1, keepdims=True)
        return np.asarray(1 + r2 * (k1 + r2 * (k2 + r2 * k3)) + tilt)


def look_at_camera(
    position: ArrayLike,
    target: ArrayLike,
    focal_length: float | Sequence[float],
    width: int,
    height: int,
    *,
    center: ArrayLike | None = None,
    radial: ArrayLike = (0.0, 0.0, 0.0),
    tangential: ArrayLike = (0.0, 0.0),
    roll: float = 0.0,
    id: str = "virtual",
) -> Camera:
    """Make a camera at ``position`` that looks at ``target``.

    Args:
        position: The camera centre ``(3,)`` in world metres, z up.
        target: The point ``(3,)`` on the optical axis, in world metres.
        focal_length: Pixels, one number or one per axis.
        width: The image width in pixels.
        height: The image height in pixels.
        center: The principal point ``(2,)`` in pixels. None: the middle of the image.
        radial: The radial distortion coefficients ``(3,)``.
        tangential: The tangential distortion coefficients ``(2,)``.
        roll: The rotation about the optical axis, in radians.
        id: The name of the camera.

    Raises:
        InputError: The two points coincide, or the camera looks straight up or down.
        ShapeError: A point or a lens field has another shape.
    """
    eye, aim = np.asarray(position, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if eye.shape != (3,) or aim.shape != (3,):
        raise ShapeError(f"position and target have shapes {eye.shape} and {aim.shape}, expected (3,) for both")
    forward = aim - eye
    right = np.cross(forward, (0.0, 0.0, 1.0))
    distance, sideways = float(np.linalg.norm(forward)), float(np.linalg.norm(right))
    if not sideways > 1e-6 * max(distance, 1e-6):
        raise InputError(
            f"a camera at {eye.tolist()} cannot look at {aim.tolist()}: the points coincide or the view is vertical"
        )
    forward, right = forward / distance, right / sideways
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    rotation = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    return Camera(
        id=id,
        width=width,
        height=height,
        focal_length=np.broadcast_to(np.asarray(focal_length, dtype=np.float64), (2,)),
        center=np.array([width / 2, height / 2]) if center is None else np.asarray(center),
        radial=np.asarray(radial),
        tangential=np.asarray(tangential),
        rotation=rotation,
        translation=-rotation @ eye,
    )


def load_cameras(path: str | os.PathLike[str]) -> list[Camera] | dict[str, list[Camera]]:
    """Read cameras from a JSON file.

    The file holds a list of cameras, or ``{"cameras": [...]}``, for all subjects. Alternatively it holds
    ``{subject: [...]}``, if every subject has other extrinsics, as in Human3.6M. A camera has the fields ``id``,
    ``res_w``, ``res_h``, ``focal_length``, ``center``, ``radial_distortion``, ``tangential_distortion``, ``R`` and
    ``t`` (metres; X_cam = R X + t).

    Returns:
        One list of cameras for all subjects, or one list per subject.

    Raises:
        InputError: The file cannot be read or has another layout.
    """
    try:
        content = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the cameras of {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return _parse_cameras(content, str(path))


def human36m_cameras(subject: str = "S1") -> list[Camera]:
    """Return the four cameras of Human3.6M for one subject, from the published calibration (bundled).

    Human3.6M's authors set the cameras up again for every subject: the lenses are the same, the extrinsics differ.
    Raises InputError for a subject other than S1, S5, S6, S7, S8, S9 and S11.
    """
    subjects = _bundled_cameras()
    if subject not in subjects:
        raise InputError(f"Human3.6M's cameras of {subject!r} are not known; there are those of {', '.join(subjects)}")
    return list(subjects[subject])


@lru_cache(maxsize=1)
def _bundled_cameras() -> dict[str, tuple[Camera, ...]]:
    content = parse_json(_BUNDLED.read_bytes())
    first = content["cameras"]
    subjects = {"S1": first}
    for subject, rows in content["extrinsics"].items():
        subjects[subject] = [{**camera, **extrinsics} for camera, extrinsics in zip(first, rows, strict=True)]
    return {name: tuple(_parse_camera(row, _BUNDLED.name) for row in rows) for name, rows in subjects.items()}


def default_focal_length(image_size: tuple[float, float]) -> float:
    """Return the default focal length in pixels for an unknown camera: the longer side of its image.

    This is a horizontal field of view of 53 degrees. Webcams have 55 to 78 degrees, phones 60 to 70, and Human3.6M's
    cameras 47.
    """
    return float(max(image_size))


def normalise_screen(pose_2d: PoseT, image_size: object) -> PoseT:
    """Normalise pixels to VideoPose3D's image coordinates: ``x / w * 2 - [1, h / w]``, so that x lies in [-1, 1].

    Args:
        pose_2d: Pixels ``(..., 2)``, a NumPy array or a PyTorch tensor.
        image_size: (width, height) in pixels, or ``(B, 2)`` with one size for each entry of the first axis.

    Returns:
        ``(..., 2)`` of the same kind and float type as ``pose_2d``.

    Raises:
        InputError: The image size is not positive and finite.
        ShapeError: The last axis of ``pose_2d`` has another length.
    """
    pose, size = _pose_and_size(pose_2d, image_size)
    normalised: PoseT = screen_coordinates(pose, size)
    return normalised


def screen_coordinates(pose_2d: PoseT, size: Any) -> PoseT:
    """`normalise_screen` without its checks, for sizes that broadcast with the pixels ``(..., 2)``."""
    width = size[..., :1]
    normalised: PoseT = pose_2d / width * 2 - size / width
    return normalised


def denormalise_screen(pose_2d: PoseT, image_size: object) -> PoseT:
    """Convert normalised image coordinates to pixels. This is the inverse of `normalise_screen`, with its arguments."""
    pose, size = _pose_and_size(pose_2d, image_size)
    width = size[..., :1]
    pixels: PoseT = (pose + size / width) * width / 2
    return pixels


def _pose_and_size(pose_2d: Any, image_size: Any) -> tuple[Any, Any]:
    # The method `new_tensor` identifies a PyTorch tensor, so that this module does not import PyTorch.
    if hasattr(pose_2d, "new_tensor"):
        pose = pose_2d
        size = image_size if hasattr(image_size, "new_tensor") else pose.new_tensor(np.asarray(image_size).tolist())
        size = size.to(dtype=pose.dtype, device=pose.device)
    else:
        pose = _floating(pose_2d, 2)
        size = np.asarray(image_size, dtype=pose.dtype)
        if size.shape[-1:] != (2,) or not (np.isfinite(size) & (size > 0)).all():
            raise InputError(f"image_size is {image_size!r}, expected (width, height) in pixels, both positive")
    if size.ndim > 1:
        size = size.reshape(*size.shape[:-1], *(1,) * (pose.ndim - size.ndim), 2)
    return pose, size


def _floating(values: ArrayLike, last: int) -> Array:
    array = np.asarray(values)
    if array.ndim == 0 or array.shape[-1] != last:
        raise ShapeError(f"found points of shape {array.shape}, expected (..., {last})")
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _parse_cameras(content: object, source: str) -> list[Camera] | dict[str, list[Camera]]:
    if isinstance(content, Mapping) and "cameras" in content:
        content = content["cameras"]
    if isinstance(content, Mapping):
        people = {str(name): rows for name, rows in content.items() if isinstance(rows, list)}
        if people:
            return {name: [_parse_camera(row, f"{source}, {name}") for row in rows] for name, rows in people.items()}
    elif isinstance(content, list) and content:
        return [_parse_camera(row, source) for row in content]
    raise InputError(f"{source} holds no cameras: expected a list of cameras, or a list per subject")


def _parse_camera(row: object, source: str) -> Camera:
    if not isinstance(row, Mapping):
        raise InputError(f"{source}: a camera is a {type(row).__name__}, expected an object with R, t, center ...")
    wrong = other_than_number([value for name, value in row.items() if name in CAMERA_NUMBERS])
    if wrong is not None:
        raise InputError(f"{source}: camera {row.get('id')!r} has a field that is no number: {shown(wrong)}")
    try:
        return Camera(
            id=str(row["id"]),
            width=_whole(row["res_w"]),
            height=_whole(row["res_h"]),
            focal_length=row["focal_length"],
            center=row["center"],
            radial=row["radial_distortion"],
            tangential=row["tangential_distortion"],
            rotation=row["R"],
            translation=row["t"],
        )
    except KeyError as error:
        raise InputError(f"{source}: camera {row.get('id')!r} has no field {error.args[0]!r}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: camera {row.get('id')!r} has a field that is no number: {error}") from error


def _whole(value: float) -> int:
    if int(value) != value:
        raise ValueError(f"{value} is no number of pixels")
    return int(value)
