"""Published calibrations of real cameras: Qualisys' file, the camera of a resized video, a pose that is fitted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import InputError, ShapeError
from refiner_bench.real.triangulate import OUTLIER_PX

# Qualisys counts 64 units to the pixel, and millimetres.
SUBPIXELS, MILLIMETRES = 64.0, 1000.0
# Its camera looks along its negative z axis with y up; ours along z with y down: half a turn about x.
HALF_TURN = np.diag([1.0, -1.0, -1.0])


def read_qualisys(path: str | os.PathLike[str]) -> dict[str, Camera]:
    """The cameras of a Qualisys calibration (``.qca.txt``, XML) by their serial names.

    Our `Camera` has one tangential term where OpenCV's, which the file's coefficients are of, has two: with these
    lenses (0.001 at most) that is below half a pixel. Raises InputError for another file or an incomplete camera.
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
        found = element.find(part)
        attributes: Mapping[str, str] = {} if found is None else found.attrib
        try:
            return np.array([float(attributes[field]) for field in fields])
        except KeyError as error:
            raise InputError(f"{path}: camera {name} has no {error.args[0]} in <{part}>") from error
        except ValueError as error:
            raise InputError(f"{path}: camera {name} has a field in <{part}> that is no number: {error}") from error

    left, right, top, bottom = numbers("fov_video", "left", "right", "top", "bottom")
    rotation = numbers("transform", *(f"r{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3))).reshape(3, 3)
    position = numbers("transform", "x", "y", "z") / MILLIMETRES
    # The file writes "tangental"; in our form the terms of x and y come the other way round than OpenCV's p1 and p2.
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
    """The camera for a video that shows its image scaled to the video's width, cut or continued above and below alike.

    Two of the take's four videos are 1080 pixels wide instead of the calibration's 1088 and show 7 rows more at the top
    and at the bottom: found by matching their background with the calibration's own pictures. A video of the
    calibration's size leaves the camera as it is. Raises InputError for a size without pixels.
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


def fit_pose(camera: Camera, points: NDArray[Any], pixels: NDArray[Any], weights: NDArray[Any]) -> Camera:
    """The camera turned and moved so that it sees world points ``(N, 3)`` where ``pixels`` ``(N, 2)`` say.

    Least squares from the published pose, weights ``(N,)``, points further off than `OUTLIER_PX` counting less. Raises
    ShapeError for arrays that do not fit and InputError for fewer than 6 points with weight.
    """
    if points.shape != (len(points), 3) or pixels.shape != (len(points), 2) or weights.shape != (len(points),):
        raise ShapeError(f"expected (N, 3), (N, 2), (N,); got {points.shape}, {pixels.shape}, {weights.shape}")
    used = (weights > 0) & np.isfinite(points).all(axis=-1) & np.isfinite(pixels).all(axis=-1)
    if used.sum() < 6:
        raise InputError(f"camera {camera.id!r}: {int(used.sum())} points to fit its pose to, expected at least 6")
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

    known, seen, root = points[used], pixels[used], np.sqrt(weights[used])[:, None]

    def moved(change: NDArray[np.float64]) -> Camera:
        turn = Rotation.from_rotvec(change[:3]).as_matrix()
        return replace(camera, rotation=turn @ camera.rotation, translation=turn @ camera.translation + change[3:])

    def residual(change: NDArray[np.float64]) -> NDArray[np.float64]:
        there = moved(change)
        off: NDArray[np.float64] = (root * (there.project(there.to_camera(known)) - seen)).ravel()
        return off

    return moved(least_squares(residual, np.zeros(6), loss="soft_l1", f_scale=OUTLIER_PX).x)
