"""Calibrations of real cameras: reading Qualisys' files, adapting a camera to a resized video, fitting its pose."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import InputError, ShapeError
from refiner_bench.arrays import FloatArray
from refiner_bench.real.triangulate import OUTLIER_PX

# Qualisys' units: 64 per pixel, and millimetres.
SUBPIXELS, MILLIMETRES = 64.0, 1000.0
# Qualisys' camera looks along its negative z axis, with y up. Ours looks along z, with y down. The difference is half a
# turn about x.
HALF_TURN = np.diag([1.0, -1.0, -1.0])


def read_qualisys(path: str | os.PathLike[str]) -> dict[str, Camera]:
    """Read a Qualisys calibration (``.qca.txt``, XML).

    The distortion coefficients of the file follow OpenCV's model, which has two tangential terms where our `Camera` has
    one. For these lenses (coefficients up to 0.001) the difference is below half a pixel.

    Args:
        path: The file.

    Returns:
        The cameras by their serial names.

    Raises:
        InputError: The file is no Qualisys calibration, or a camera is incomplete.
    """
    try:
        root = ElementTree.parse(Path(path)).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no Qualisys calibration: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read the calibration {path}: {error.strerror}") from error
    cameras = {}
    for number, element in enumerate(root.iter("camera"), start=1):
        name = element.get("serial") or f"camera {number}"
        if name in cameras:
            raise InputError(f"{path} holds the camera {name} twice")
        cameras[name] = _camera(name, element, str(path))
    if not cameras:
        raise InputError(f"{path} holds no cameras; expected a Qualisys calibration with <camera> elements")
    return cameras


def _camera(name: str, element: ElementTree.Element, path: str) -> Camera:
    def numbers(part: str, *fields: str) -> NDArray[np.float64]:
        child = element.find(part)
        attributes: Mapping[str, str] = {} if child is None else child.attrib
        try:
            return np.array([float(attributes[field]) for field in fields])
        except KeyError as error:
            raise InputError(f"{path}: camera {name} has no {error.args[0]} in <{part}>") from error
        except ValueError as error:
            raise InputError(f"{path}: camera {name} has a field in <{part}> that is no number: {error}") from error

    left, right, top, bottom = numbers("fov_video", "left", "right", "top", "bottom")
    rotation = numbers("transform", *(f"r{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3))).reshape(3, 3)
    position = numbers("transform", "x", "y", "z") / MILLIMETRES
    # The file spells it "tangental". Our camera has the terms in the opposite order of OpenCV's p1 and p2.
    p1, p2 = numbers("intrinsic", "tangentalDistortion1", "tangentalDistortion2")
    world_to_camera = HALF_TURN @ rotation
    return Camera(
        id=name,
        width=round(right - left + 1),
        height=round(bottom - top + 1),
        focal_length=numbers("intrinsic", "focalLengthU", "focalLengthV") / SUBPIXELS,
        center=numbers("intrinsic", "centerPointU", "centerPointV") / SUBPIXELS,
        radial=numbers("intrinsic", *(f"radialDistortion{order}" for order in (1, 2, 3))),
        tangential=np.array([p2, p1]),
        rotation=world_to_camera,
        translation=-world_to_camera @ position,
    )


def for_video(camera: Camera, image_size: tuple[int, int]) -> Camera:
    """Adapt a camera to a video of another size.

    The video shows the camera's image scaled to the width of the video. It is cut or extended equally at the top and at
    the bottom. Two of the take's four videos are 1080 pixels wide instead of the 1088 of the calibration, and show 7
    more rows at the top and at the bottom. A comparison of their background with pictures of the calibration shows
    this.

    Args:
        camera: The camera of the calibration.
        image_size: Width and height of the video in pixels.

    Returns:
        The camera of the video; for the size of the calibration an equal camera.

    Raises:
        InputError: The size has no pixels.
    """
    width, height = image_size
    if min(image_size) < 1:
        raise InputError(f"camera {camera.id!r}: the video is {width} x {height} pixels")
    scale = camera.width / width
    above = (camera.height - scale * height) / 2
    return replace(
        camera,
        width=width,
        height=height,
        focal_length=camera.focal_length / scale,
        center=(camera.center - [0.0, above]) / scale,
    )


def fit_pose(camera: Camera, points: FloatArray, pixels: FloatArray, weights: FloatArray) -> Camera:
    """Fit the rotation and translation of a camera to known points, with robust least squares from its present pose.

    Points that are further off than `OUTLIER_PX` count less.

    Args:
        camera: The camera.
        points: World points, ``(N, 3)`` in metres.
        pixels: Their keypoints, ``(N, 2)`` in pixels.
        weights: Their weights, ``(N,)``.

    Returns:
        The camera with another pose.

    Raises:
        ShapeError: The shapes do not fit.
        InputError: Fewer than 6 points have a weight.
    """
    if points.shape != (len(points), 3) or pixels.shape != (len(points), 2) or weights.shape != (len(points),):
        raise ShapeError(f"expected (N, 3), (N, 2), (N,); got {points.shape}, {pixels.shape}, {weights.shape}")
    used = (weights > 0) & np.isfinite(points).all(axis=-1) & np.isfinite(pixels).all(axis=-1)
    if used.sum() < 6:
        raise InputError(f"camera {camera.id!r}: {int(used.sum())} points to fit its pose to, expected at least 6")
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    used_points, used_pixels, root_weights = points[used], pixels[used], np.sqrt(weights[used])[:, None]

    def moved(change: NDArray[np.float64]) -> Camera:
        turn = Rotation.from_rotvec(change[:3]).as_matrix()
        return replace(camera, rotation=turn @ camera.rotation, translation=turn @ camera.translation + change[3:])

    def residual(change: NDArray[np.float64]) -> NDArray[np.float64]:
        candidate = moved(change)
        image = candidate.project(candidate.to_camera(used_points))
        weighted: NDArray[np.float64] = (root_weights * (image - used_pixels)).ravel().astype(np.float64)
        return weighted

    return moved(least_squares(residual, np.zeros(6), loss="soft_l1", f_scale=OUTLIER_PX).x)
