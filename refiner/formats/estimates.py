"""3D poses that other programs wrote, brought to metres in camera axes.

What a file holds is found by holding it against the 2D poses that it came from:

- metres in camera axes: VideoPose3D's ``--viz-export``, and most estimators. They stay as they are.
- the axes of a room: what VideoPose3D, P-STMO, MHFormer and others draw, turned by the orientation of one of
  Human3.6M's cameras; or any other axes, as long as they are right-handed and the same in all frames. The rotation
  follows from the 2D poses.
- the image: MotionBERT's ``X3D.npy``. x and y are pixels, divided by a number that is the same in all frames, and z is
  a depth relative to the root in the same unit. With the lens they give the shape of the body in every frame; how large
  it is no such file says, so that the person's height must be given.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import median_filter

from refiner.arrays import as_array
from refiner.camera import Camera, human36m_cameras
from refiner.data.inputs import LARGEST_BODY_M, check_lengths, check_sequence, marked_missing
from refiner.data.safe_npz import load_user_array
from refiner.data.weak_perspective import misfit, one_scale, turn, turn_before_lens
from refiner.errors import InputError, ShapeError, UnitError, UsageError
from refiner.lens import Lens, check_lens
from refiner.skeleton import joint_set, to_h36m17

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["camera", "room", "image"]

# Frames that are compared, spread over the sequence, and the joints that such a frame must show.
MOST_FRAMES, LEAST_SEEN = 200, 8
# A fit is good below this share of the person's size; another reading of the poses must be better by this factor.
GOOD_FIT, BETTER = 0.2, 0.6
# x and y of the image fit the pixels up to what the estimator changed.
SAME_PIXELS = 0.12
# The least extent of a body over its largest with which the pixels determine a rotation.
LEAST_DEPTH = 0.12
# Hip to knee to ankle as a share of the height of a person (D. Winter, Biomechanics and Motor Control of Human
# Movement, after Drillis and Contini: hip at 0.530, ankle at 0.039).
LEG_OF_HEIGHT = 0.530 - 0.039
SHORTEST_M, TALLEST_M = 0.5, 2.6
LEGS, ARMS = ((1, 2, 3), (4, 5, 6)), ((11, 12, 13), (14, 15, 16))
# A root follows the pixels if these move by at least this share of the person, and it leaves this share of that.
LEAST_MOVED, SAME_PATH = 0.05, 0.3
# A number of pixels is the expected one within this share.
NEAR, PIXEL = 0.02, 0.1
# A rotation of Human3.6M's cameras is taken where it fits as well as the best one but for this.
SAME_CAMERA = 0.02
# Frames over which the size of a body in the image is a median: lengths of single frames shake.
STEADY_FRAMES = 25


@dataclass(frozen=True, eq=False)
class Estimate:
    """3D poses of another program in the form that `refiner.Refiner.refine` takes.

    Attributes:
        pose_3d: ``(F, 17, 3)`` float32, metres in camera axes, in Human3.6M's joints.
        kind: What the poses were: metres in camera axes, the axes of a room, or the image.
        note: What was done to them; empty for "camera".
    """

    pose_3d: NDArray[np.float32] = field(repr=False)
    kind: Kind
    note: str = ""


def read_estimate(
    path: str | os.PathLike[str],
    pose_2d: ArrayLike,
    image_size: tuple[float, float] | None,
    *,
    key: str | None = None,
    joints: str = "h36m17",
    joints_3d: str | None = None,
    confidence: ArrayLike | None = None,
    focal_length: ArrayLike | None = None,
    camera: Camera | None = None,
    height: float | None = None,
) -> Estimate:
    """Read 3D poses from an .npy or .npz file and bring them to metres in camera axes.

    Args:
        path: The file, with an array ``(F, J, 3)``.
        key: The name of the array, for an .npz file with several.
        pose_2d: See `to_camera_metres`, also for the other arguments and the errors.
    """
    poses = load_user_array(path, key)
    try:
        return to_camera_metres(
            poses,
            pose_2d,
            image_size,
            joints=joints,
            joints_3d=joints_3d,
            confidence=confidence,
            focal_length=focal_length,
            camera=camera,
            height=height,
        )
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def to_camera_metres(
    pose_3d: ArrayLike,
    pose_2d: ArrayLike,
    image_size: tuple[float, float] | None,
    *,
    joints: str = "h36m17",
    joints_3d: str | None = None,
    confidence: ArrayLike | None = None,
    focal_length: ArrayLike | None = None,
    camera: Camera | None = None,
    height: float | None = None,
) -> Estimate:
    """Find out what 3D poses of another program are, and bring them to metres in camera axes.

    Args:
        pose_3d: ``(F, J, 3)`` in one of the forms that `refiner.formats.estimates` lists.
        pose_2d: ``(F, J, 2)`` pixels, of the same frames; NaN for a missing joint.
        image_size: (width, height) in pixels; may be None with a ``camera``.
        joints: The joint set of ``pose_2d``.
        joints_3d: The joint set of ``pose_3d``; None for that of ``pose_2d``.
        confidence: ``(F, J)``; 0 for a missing joint.
        focal_length: Pixels, as for `refiner.Refiner.refine`.
        camera: A calibrated camera instead.
        height: The height of the person in metres, which poses of the image need.

    Returns:
        The poses. Those that are none of the other forms are taken for metres in camera axes, and `Refiner.refine`
        checks them.

    Raises:
        UnitError: The poses are those of the image, and ``height`` is missing.
        UsageError: ``height`` is no height, or the poses have metres and need none.
        InputError: The arrays do not hold such poses.
    """
    kind, kind_3d = joint_set(joints), joint_set(joints if joints_3d is None else joints_3d)
    given = check_sequence(pose_3d, "pose_3d", 3, kind_3d)
    pixels = check_sequence(pose_2d, "pose_2d", 2, kind, finite=False).astype(np.float64)
    check_lengths(pixels, given)
    if height is not None and not SHORTEST_M <= height <= TALLEST_M:
        raise UsageError(f"height is {height:g}, expected that of a person in metres, {SHORTEST_M} to {TALLEST_M}")
    lens = check_lens(image_size, focal_length, camera, quiet=True)
    seen: Mask = np.asarray(np.isfinite(pixels).all(axis=-1) & ~marked_missing(pixels))
    if confidence is not None:
        score = as_array(confidence, "confidence", f"expected {seen.shape}")
        if score.shape != seen.shape or score.dtype.kind not in "fiub":
            raise ShapeError(f"confidence is {score.dtype} of shape {score.shape}; expected numbers {seen.shape}")
        seen = seen & (score > 0)
    compared = _Compared.of(lens.ideal(to_h36m17(np.where(seen[..., None], pixels, np.nan), kind)))
    poses = to_h36m17(given, kind_3d).astype(np.float64)
    found = None
    if compared is not None:
        found = _from_image(poses, compared, lens, height) or _turned(poses, compared, lens)
    if found is None:
        found = Estimate(poses.astype(np.float32), "camera")
    if height is not None and found.kind != "image":
        raise UsageError("height belongs to poses of the image, such as MotionBERT's; pose_3d is none: leave it out")
    return found


@dataclass(frozen=True, eq=False)
class _Compared:
    """The frames that are compared: their numbers, their pixels ``(f, 17, 2)``, and the joints that they show.

    ``bounds``: the least and the largest pixel of all frames.
    """

    rows: NDArray[np.int_]
    pixels: Array
    seen: Mask
    bounds: tuple[Array, Array]

    @classmethod
    def of(cls, pixels: NDArray[np.floating]) -> _Compared | None:
        seen: Mask = np.asarray(np.isfinite(pixels).all(axis=-1))
        usable = np.flatnonzero(seen.sum(axis=1) >= LEAST_SEEN)
        if not len(usable):
            return None
        rows = usable[np.unique(np.linspace(0, len(usable) - 1, MOST_FRAMES).astype(int))]
        bounds = np.nanmin(pixels, axis=(0, 1)), np.nanmax(pixels, axis=(0, 1))
        return cls(rows, pixels[rows].astype(np.float64), seen[rows], bounds)


def _from_image(poses: Array, compared: _Compared, lens: Lens, height: float | None) -> Estimate | None:
    """Poses of the image as metres; None where the poses are something else.

    Raises:
        UnitError: Nobody states the height of the person.
    """
    body = poses[compared.rows]
    if (body[..., 2] > 0).all(axis=1).mean() > 0.5:
        return None  # before the camera, where metres are
    _refuse_pixels(compared, body)
    scale, origin, apart = one_scale(compared.pixels, compared.seen, body)
    if not (scale > 0 and apart < SAME_PIXELS and _faces_forward(body)):
        return None
    source = _image_source(compared, scale, origin, lens)
    if not source and not _follows(compared, scale * body[:, 0, :2]):
        return None
    what = f"pose_3d has the coordinates of the image, {scale:.4g} pixels a unit{source}"
    if height is None:
        raise UnitError(
            f"{what}, which say nothing about the size of the person; expected metres: give the height of the person "
            "in metres (height=, --height)"
        )
    # A joint lies on its ray. The root has the depth Z, a pixel at that depth is Z / f metres wide, and so is one of
    # the depth: with Z = f the body is as large as in the image.
    depth = scale * (poses[..., 2] - poses[:, :1, 2])
    flat = scale * poses[..., :2] + origin - 0.5 * np.asarray(lens.image_size)
    along = 1.0 + depth / lens.focal_length
    if not (along > 0).all():
        raise InputError(f"{what}: its depths reach behind the camera; is the focal length right?")
    points = np.concatenate([flat * along[..., None], (lens.focal_length * along)[..., None]], axis=-1)
    metres = LEG_OF_HEIGHT * height / median_filter(_legs(points), STEADY_FRAMES, mode="nearest")
    note = f"{what}: it was brought to metres for a person of {height:g} m"
    return Estimate((points * metres[:, None, None]).astype(np.float32), "image", note)


def _follows(compared: _Compared, root: Array) -> bool:
    """Whether a root ``(f, 2)``, in pixels, goes where the root of the 2D poses goes. Poses relative to it do not."""
    shown = compared.seen[:, 0]
    if shown.sum() < LEAST_SEEN:
        return False
    path = compared.pixels[shown, 0]
    size = float(np.median(np.nanmax(compared.pixels, axis=1) - np.nanmin(compared.pixels, axis=1), axis=0).max())
    moved, rest = (np.linalg.norm(part.std(axis=0)) for part in (path, path - root[shown]))
    return bool(moved > LEAST_MOVED * size and rest < SAME_PATH * moved)


def _image_source(compared: _Compared, scale: float, origin: Array, lens: Lens) -> str:
    """The program whose scale and origin these are; empty where they are nobody's."""
    low, high = compared.bounds
    whole = np.asarray(lens.image_size)
    known = {
        ", as in MotionBERT's X3D.npy": (0.5 * float((high - low).max()), 0.5 * (low + high)),
        ", as in MotionBERT's X3D.npy with --pixel": (1.0, np.zeros(2)),
        ", half of the image's smaller side": (0.5 * float(whole.min()), 0.5 * whole),
    }
    near = NEAR * float((high - low).max())
    for source, (pixels, place) in known.items():
        if abs(scale / pixels - 1.0) < NEAR and np.abs(origin - place).max() < near:
            return source
    return ""


def _refuse_pixels(compared: _Compared, body: Array) -> None:
    """Raises UnitError for pixels relative to the root, whose place in the image is lost."""
    if np.linalg.norm(body[:, 0], axis=-1).max() > 1.0 or np.linalg.norm(np.ptp(body, axis=1)) < LARGEST_BODY_M:
        return
    scale, _, apart = one_scale(compared.pixels - compared.pixels[:, :1], compared.seen, body)
    if abs(scale - 1.0) < PIXEL and apart < SAME_PIXELS:
        raise UnitError(
            "pose_3d is in pixels, relative to the root; expected metres. With the root where pose_2d has it, and the "
            "height of the person (height=, --height), pixels become metres"
        )


def _turned(poses: Array, compared: _Compared, lens: Lens) -> Estimate | None:
    """Poses in other right-handed axes, turned to the camera's; None where the pixels show no such axes."""
    pixels, seen, body = compared.pixels, compared.seen, poses[compared.rows]
    body, poses = body - body[:, :1], poses - poses[:, :1]
    own = misfit(pixels, seen, body)
    if own < GOOD_FIT or not _faces_forward(body):
        return None
    rotation, determined = turn(pixels, seen, body)
    best = misfit(pixels, seen, body @ rotation.T)
    cameras = {camera.id: camera.rotation for camera in human36m_cameras()}
    fits = {name: misfit(pixels, seen, body @ known.T) for name, known in cameras.items()}
    nearest = min(fits, key=lambda name: fits[name])
    if fits[nearest] < min(GOOD_FIT, BETTER * own, best + SAME_CAMERA):
        # VideoPose3D and its followers draw poses in the room of S1 of Human3.6M.
        turned = poses @ cameras[nearest].T
        axes = f"a room (z up), seen by the camera {nearest} of Human3.6M, as VideoPose3D draws them"
    elif best < min(GOOD_FIT, BETTER * own) and determined > LEAST_DEPTH:
        from_centre = pixels - 0.5 * np.asarray(lens.image_size)
        turned = poses @ turn_before_lens(from_centre, seen, body, lens.focal_length, rotation).T
        axes = "a room or of another program; the rotation that fits pose_2d best was taken"
    else:
        return None
    note = f"pose_3d had the axes of {axes}. It was turned to camera axes (x right, y down, z away), root at 0"
    return Estimate(turned.astype(np.float32), "room", note)


def _legs(points: Array) -> Array:
    """``(F,)``: hip to knee to ankle, the mean of both sides."""
    total = sum(np.linalg.norm(points[:, b] - points[:, a], axis=-1) for leg in LEGS for a, b in pairwise(leg))
    return np.asarray(np.maximum(total / len(LEGS), 1e-9))


def _faces_forward(body: Array) -> bool:
    """Whether knees bend forwards and elbows backwards, as in right-handed axes: the body is no mirror image."""
    across, up = body[:, 4] - body[:, 1], body[:, 8] - body[:, 0]
    front = np.cross(across, up)
    front /= np.maximum(np.linalg.norm(front, axis=-1, keepdims=True), 1e-12)
    bent = [2.0 * body[:, knee] - body[:, hip] - body[:, ankle] for hip, knee, ankle in LEGS]
    bent += [body[:, shoulder] + body[:, wrist] - 2.0 * body[:, elbow] for shoulder, elbow, wrist in ARMS]
    return float(np.sum([(part * front).sum(axis=-1) for part in bent])) > 0.0
