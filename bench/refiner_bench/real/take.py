"""A take: detections in several views of one person, the cameras of the views, and the triangulated truth.

The bundled files are next to this module and ship in the wheel. README.md in this folder names their sources and
licences.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.data.inputs import check_image_size
from refiner.data.safe_npz import load_npz
from refiner.errors import ArchiveError
from refiner.files import atomic_path
from refiner.skeleton import COCO17, MEDIAPIPE33

Array = NDArray[np.float64]

TAKE = Path(__file__).with_name("pose2sim_take.npz")
CLIP = Path(__file__).with_name("sports2d_clip.npz")
# The stored precision: 1/16 pixel, 1/1000, and about a quarter of a millimetre. It is far finer than the detector's
# error, and coarse enough for a good compression.
PIXEL, TRUST, METRE = 1 / 16, 1 / 1000, 1 / 4096
_CAMERA_FIELDS = {
    "focal_length": (2,),
    "center": (2,),
    "radial": (3,),
    "tangential": (2,),
    "rotation": (3, 3),
    "translation": (3,),
}


@dataclass(frozen=True, eq=False)
class Detections:
    """MediaPipe's landmarks in one video. Frames without a detected person are NaN.

    Attributes:
        keypoints: ``(F, 33, 2)`` in pixels.
        confidence: ``(F, 33)``; MediaPipe's visibility, 0 to 1.
        own_3d: ``(F, 33, 3)``; MediaPipe's world landmarks in metres relative to the middle of the hips, in camera axes
            (x right, y down, z forward).
        image_size: Width and height in pixels.
        fps: Frames per second.
    """

    keypoints: Array
    confidence: Array
    own_3d: Array
    image_size: tuple[int, int]
    fps: float

    @property
    def frames(self) -> int:
        """The number of frames, F."""
        return len(self.keypoints)

    def cut(self, frames: slice) -> Detections:
        """The detections of a range of frames."""
        return Detections(
            self.keypoints[frames], self.confidence[frames], self.own_3d[frames], self.image_size, self.fps
        )


@dataclass(frozen=True, eq=False)
class View:
    """The detections of one camera.

    Attributes:
        name: The name of the view.
        detections: The detections.
        camera: The camera.
        swapped: ``(F,)``; True where the detector swapped left and right in the legs, in the rest of the body, or both.
        fitted: Whether the pose of the camera is fitted instead of published. Such a view is not used for the truth.
    """

    name: str
    detections: Detections
    camera: Camera
    swapped: NDArray[np.bool_]
    fitted: bool


@dataclass(frozen=True, eq=False)
class Take:
    """Synchronous views of one person, and the truth: COCO's joints, ``(F, 17, 3)`` in world metres."""

    views: tuple[View, ...]
    truth: Array


def load_take(path: str | os.PathLike[str] = TAKE) -> Take:
    """Read a file of `save_take`. Raises ArchiveError for another file, and for missing or wrong parts."""
    source = str(path)
    arrays = load_npz(path)
    truth = _array(arrays, "truth", (None, COCO17.joints, 3), source)
    names = sorted({name.split("/")[0] for name in arrays if "/" in name})
    if not names:
        raise ArchiveError(f"{source} holds no views; expected a file of refiner-bench real --save")
    views = []
    for name in names:
        detections = _detections(arrays, name, source, frames=len(truth))
        camera = {field: _array(arrays, f"{name}/{field}", shape, source) for field, shape in _CAMERA_FIELDS.items()}
        swapped = _array(arrays, f"{name}/swapped", (len(truth),), source) > 0
        fitted = bool(_array(arrays, f"{name}/fitted", (), source) > 0)
        width, height = detections.image_size
        views.append(View(name, detections, Camera(id=name, width=width, height=height, **camera), swapped, fitted))
    if not np.isfinite(truth).all():
        raise ArchiveError(f"{source}: the truth holds values that are not finite")
    return Take(tuple(views), truth)


def load_clip(path: str | os.PathLike[str] = CLIP) -> Detections:
    """Read a file of `save_clip`: detections without a truth. Raises ArchiveError like `load_take`."""
    return _detections(load_npz(path), "clip", str(path))


def save_take(path: str | os.PathLike[str], take: Take) -> None:
    """Write a take. `load_take` reads the file; so does ``numpy.load`` without pickle."""
    arrays: dict[str, NDArray[Any]] = {"truth": take.truth.astype(np.float32)}
    for view in take.views:
        arrays |= _packed(view.name, view.detections)
        arrays |= {f"{view.name}/{field}": getattr(view.camera, field) for field in _CAMERA_FIELDS}
        arrays |= {f"{view.name}/swapped": view.swapped.astype(np.uint8)}
        arrays |= {f"{view.name}/fitted": np.asarray(view.fitted, dtype=np.uint8)}
    _save(path, arrays)


def save_clip(path: str | os.PathLike[str], clip: Detections) -> None:
    """Write detections without a truth. `load_clip` reads the file."""
    _save(path, _packed("clip", clip))


def read_detections(path: str | os.PathLike[str]) -> dict[str, Detections]:
    """Read the file of `detect`: rounded detections by video. Raises ArchiveError like `load_take`."""
    arrays = load_npz(path)
    names = sorted({name.split("/")[0] for name in arrays})
    videos = {name: _detections(arrays, name, str(path)) for name in names}
    return {
        name: Detections(
            _rounded(seen.keypoints, PIXEL),
            _rounded(seen.confidence, TRUST),
            _rounded(seen.own_3d, METRE),
            seen.image_size,
            seen.fps,
        )
        for name, seen in videos.items()
    }


def longest_stretch(clip: Detections) -> slice:
    """The longest run of frames with a detected person; empty if there is none."""
    seen = np.isfinite(clip.keypoints).all(axis=(1, 2)) & np.isfinite(clip.own_3d).all(axis=(1, 2))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    if not len(edges):
        return slice(0, 0)
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return slice(int(starts[longest]), int(ends[longest]))


def _packed(name: str, seen: Detections) -> dict[str, NDArray[Any]]:
    """The arrays of a file for one view or clip."""
    return {
        f"{name}/keypoints": seen.keypoints.astype(np.float32),
        f"{name}/confidence": seen.confidence.astype(np.float32),
        f"{name}/own_3d": seen.own_3d.astype(np.float32),
        f"{name}/image_size": np.asarray(seen.image_size),
        f"{name}/fps": np.asarray(seen.fps),
    }


def _save(path: str | os.PathLike[str], arrays: dict[str, NDArray[Any]]) -> None:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def _rounded(values: Array, step: float) -> Array:
    return np.round(values / step) * step


def _detections(arrays: Mapping[str, object], name: str, source: str, frames: int | None = None) -> Detections:
    keypoints = _array(arrays, f"{name}/keypoints", (frames, MEDIAPIPE33.joints, 2), source)
    shape = (len(keypoints), MEDIAPIPE33.joints)
    size = check_image_size(_array(arrays, f"{name}/image_size", (2,), source))
    return Detections(
        keypoints,
        _array(arrays, f"{name}/confidence", shape, source),
        _array(arrays, f"{name}/own_3d", (*shape, 3), source),
        (round(size[0]), round(size[1])),
        float(_array(arrays, f"{name}/fps", (), source)),
    )


def _array(arrays: Mapping[str, object], name: str, shape: tuple[int | None, ...], source: str) -> Array:
    """An array of a file as float64; None in ``shape`` stands for any length. Raises ArchiveError if it doesn't fit."""
    value = arrays.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ArchiveError(f"{source} holds no numbers {name!r}; expected a file of refiner-bench real --save")
    fits = len(shape) == value.ndim and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = tuple("F" if length is None else length for length in shape)
        raise ArchiveError(f"{source}: {name} has the shape {value.shape}, expected {wanted}")
    return value.astype(np.float64)
