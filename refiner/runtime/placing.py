"""The trajectory of a person of a detector's file, who may be out of sight for a while."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data.keypoints import check_keypoints
from refiner.errors import InputWarning
from refiner.formats.tracking import Track
from refiner.lens import check_lens
from refiner.runtime.window_model import FocalLength
from refiner.skeleton import H36M17, JointSet, confidence_to_h36m17, to_h36m17
from refiner.trajectory import Placement, Trajectory, place_body


def trajectory_of(
    track: Track,
    joints: JointSet,
    pose_3d: NDArray[np.float32],
    fps: float,
    image_size: tuple[float, float],
    focal_length: FocalLength | None,
    placement: Placement,
) -> Trajectory:
    """Find where a person is.

    All frames are placed together, so that the person keeps one size and one floor. Where there is no pose, the root
    goes on from one stretch to the next.

    Args:
        track: the person's 2D poses in F frames.
        joints: their joint set.
        pose_3d: ``(F, 17, 3)`` metres in camera axes; NaN in frames without a pose.
        fps: frames/s.
        image_size: (width, height) in pixels.
        focal_length: in pixels; None is the default.
        placement: what the user knows.

    Raises:
        InputError: as `refiner.trajectory.root_trajectory`.
    """
    known = _has_pose(pose_3d)
    confidence = np.where(known[:, None], confidence_to_h36m17(track.confidence, joints), 0.0)
    with warnings.catch_warnings():
        # The lifter has warned about the same keypoints and the same lens.
        warnings.simplefilter("ignore", InputWarning)
        lens = check_lens(image_size, focal_length)
        seen = check_keypoints(to_h36m17(track.keypoints, joints), confidence, lens, H36M17, sides=True)
    body = np.where(known[:, None, None], pose_3d - pose_3d[:, :1], 0.0).astype(np.float32)
    return place_body(seen.values, lens.row(), body, fps, placement)


def trajectory_arrays(found: Trajectory, pose_3d: NDArray[np.float32]) -> dict[str, Any]:
    """What a file says of a trajectory, by the names of its arrays.

    ``root`` ``(F, 3)``, ``root_guessed`` ``(F,)`` and ``body_scale``, and with a ground ``camera_ground`` (pitch and
    roll in degrees, height in metres) and ``level_pose_3d``, the poses in level axes (`refiner.ground.Ground.level`).
    Frames without a pose have a root of NaN.

    Args:
        found: the trajectory.
        pose_3d: ``(F, 17, 3)``, the poses in their place.
    """
    missing = ~_has_pose(pose_3d)
    arrays: dict[str, Any] = {"root": np.where(missing[:, None], np.float32(np.nan), found.root)}
    arrays |= {"root_guessed": found.guessed & ~missing, "body_scale": found.scale}
    if found.ground is not None:
        ground = found.ground
        arrays |= {"camera_ground": np.array([ground.pitch, ground.roll, ground.height], np.float64)}
        arrays |= {"level_pose_3d": found.level(pose_3d)}
    return arrays


def _has_pose(pose_3d: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The frames ``(F,)`` of poses ``(F, 17, 3)`` without NaN."""
    return np.asarray(np.isfinite(pose_3d).all(axis=(1, 2)))
