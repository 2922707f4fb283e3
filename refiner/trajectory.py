"""The root's trajectory: where a person is in front of the camera, from 2D poses, 3D poses and the lens.

A root-relative pose and the rays to its joints determine where the person stands: the size of the body in the image
tells the distance. A single camera does not see the size itself. It comes from the bones of the 3D pose, from the
height of the person, or from the floor under a camera whose height and pitch are known.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.arrays import as_array
from refiner.camera import Camera
from refiner.data.agreement import ORDERS, disagreement, refuse_wrong_order
from refiner.data.inputs import LARGEST_DISTANCE_M, check_fps, check_lengths, check_pose_3d
from refiner.data.keypoints import check_keypoints
from refiner.errors import InputError, InputWarning, ShapeError, UnitError, UsageError
from refiner.ground import LOWEST_M, Ground, one_number
from refiner.lens import check_lens
from refiner.reasons import Note
from refiner.root_fit import FloorFit, anchored_frames, fit_root
from refiner.shape import pooled_lengths
from refiner.skeleton import H36M17, joint_set, to_h36m17

Array = NDArray[np.float64]

ANKLES = tuple(H36M17.joint_names.index(name) for name in ("RFoot", "LFoot"))
# The joints whose bones a standing person stacks: shin, thigh, trunk, neck and head.
STANDING = tuple(H36M17.joint_names.index(name) for name in ("RFoot", "RKnee", "Spine", "Thorax", "Neck/Nose", "Head"))
# The distance from ankle to head joint of people who stand, divided by the sum of these bones (the spine is bent), and
# the height of the lower ankle: medians over the training people of the motion archive. The head joint is at the crown.
STRAIGHT, ANKLE_M, CROWN_M = 0.96, 0.09, 0.01
SHORTEST_M, TALLEST_M = 0.4, 2.8
# How far off the size of the body is, as a share: as a lifter guesses it, and from the height of the person.
GUESSED_SIZE, KNOWN_SIZE = 0.05, 0.02
# How far off the height of the feet over the floor is, metres, and the pitch that a user states, degrees.
FEET_M, PITCH_DEGREES = 0.03, 1.0
# A floor that makes the body larger or smaller than this is no floor of this person.
MOST_RESIZED = 2.0


@dataclass(frozen=True)
class Placement:
    """What a user knows about a person's place.

    Attributes:
        height: Metres from the sole to the crown of the person; None if it is not known.
        ground: The floor; None if it is not known.

    Raises:
        UnitError: The height is nobody's height in metres.
        UsageError: The height is no number, or the ground is no `Ground`.
    """

    height: float | None = None
    ground: Ground | None = None

    def __post_init__(self) -> None:
        if self.height is not None:
            expected = f"metres from {SHORTEST_M} to {TALLEST_M}"
            tall = one_number(self.height, "the height of the person", expected)
            if not SHORTEST_M <= tall <= TALLEST_M:
                raise UnitError(f"the height of the person is {tall:g}, expected {expected}: divide centimetres by 100")
            object.__setattr__(self, "height", tall)
        if self.ground is not None and not isinstance(self.ground, Ground):
            raise UsageError(f"ground is a {type(self.ground).__name__}; expected a refiner.ground.Ground")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where a person is in F frames.

    Attributes:
        root: ``(F, 3)`` float32, the middle of the hips in metres and camera axes.
        scale: The factor by which the body is larger than the 3D poses: 1 unless a height or a ground was given.
        guessed: ``(F,)``: the frames that show too few joints to tell the distance. Their root is interpolated.
        ground: The ground with the height of the camera over it; None where no ground was given. A height that nobody
            stated comes from the feet, and is as wrong as the size of the body is.
    """

    root: NDArray[np.float32] = field(repr=False)
    scale: float
    guessed: NDArray[np.bool_] = field(repr=False)
    ground: Ground | None = None

    def place(self, pose_3d: ArrayLike) -> NDArray[np.float32]:
        """Poses ``(F, J, 3)`` in metres, of a joint set with the root as joint 0, in their place in camera axes.

        The poses may be others than those that the trajectory was made from, for example refined ones. Raises
        ShapeError for another number of frames.
        """
        pose = np.asarray(pose_3d, dtype=np.float64)
        if pose.ndim != 3 or pose.shape[2] != 3 or len(pose) != len(self.root):
            raise ShapeError(f"pose_3d has shape {pose.shape}, expected ({len(self.root)}, joints, 3)")
        placed: NDArray[np.float32] = ((pose - pose[:, :1]) * self.scale + self.root[:, None]).astype(np.float32)
        return placed

    def level(self, points: ArrayLike) -> NDArray[np.float32]:
        """Points ``(..., 3)`` from camera axes to axes that are level with the floor; see `Ground.level`.

        Raises UsageError where no ground was given.
        """
        if self.ground is None:
            raise UsageError("no ground was given, so nobody knows where the floor is: pass ground=Ground(pitch=...)")
        return self.ground.level(points).astype(np.float32)


def root_trajectory(
    pose_2d: ArrayLike,
    pose_3d: ArrayLike,
    image_size: tuple[float, float] | None,
    fps: float,
    joints: str = "h36m17",
    *,
    confidence: ArrayLike | None = None,
    focal_length: ArrayLike | None = None,
    camera: Camera | None = None,
    height: float | None = None,
    ground: Ground | None = None,
) -> Trajectory:
    """Find where a person is in front of the camera.

    The result is smooth over time and uses earlier and later frames. One frame alone is possible too.

    Args:
        pose_2d: ``(F, J, 2)`` pixels; NaN marks a missing joint.
        pose_3d: ``(F, J, 3)`` metres in camera axes. The position of the root has no influence.
        image_size: (width, height) in pixels; may be None with a ``camera``.
        fps: The frame rate, frames/s.
        joints: The joint set of both inputs.
        confidence: ``(F, J)``, the detector's confidence from 0 to 1; 0 where a joint is missing.
        focal_length: See `refiner.Lifter.lift`. The distance is proportional to it.
        camera: A calibrated camera instead. Only its lens is used; `Ground.of_camera` makes a ground from its pose.
        height: Metres from the sole to the crown of the person, who is then as large as that.
        ground: The floor, on which the lower foot stands most of the time. With the height of the camera it also
            corrects the size of the body, and with the pitch alone only the distance.

    Raises:
        InputError: Something is wrong with the inputs, or the floor and the person do not fit; the message says what.
        UsageError: The joint set, the frame rate or an option is wrong.
    """
    placement = Placement(height, ground)
    kind = joint_set(joints)
    if fps is None:
        raise UsageError("fps is None, expected frames per second: the smoothing needs the frame rate")
    rate = check_fps(fps, fps)
    lens = check_lens(image_size, focal_length, camera)
    seen = check_keypoints(pose_2d, confidence, lens, kind, sides=True)
    checked = check_pose_3d(pose_3d, kind)
    check_lengths(seen.values, checked)
    pose = to_h36m17(checked, joints)
    body = pose - pose[:, :1]
    raw = as_array(pose_2d, "pose_2d", "an array") if kind.name in ORDERS else None
    compared = checked if kind.name in ORDERS else body
    wrong = disagreement(seen.values[..., :2], seen.missing, compared, lens.row(), kind, kind, raw)
    # A stated height sets the size.
    if wrong is not None and not (wrong.kind == "unusual size" and height is not None):
        Note(wrong.kind, refuse_wrong_order(wrong).message).warn(stacklevel=2)
    return place_body(seen.values, lens.row(), body, rate, placement)


def place_body(
    keypoints: NDArray[np.float32],
    image: NDArray[np.float32],
    body: NDArray[np.float32],
    fps: float,
    placement: Placement,
) -> Trajectory:
    """Do the same as `root_trajectory`, for inputs that have been checked.

    Args:
        keypoints: ``(F, 17, 3)``: pixels of a lens without distortion, and the confidence; see `check_keypoints`.
        image: ``(3,)``: width, height and focal length in pixels; see `refiner.lens.Lens.row`.
        body: ``(F, 17, 3)`` metres in camera axes, relative to the root.
        fps: The frame rate, frames/s.
        placement: What the user knows.
    """
    height, ground = placement.height, placement.ground
    rays = (keypoints[..., :2].astype(np.float64) - 0.5 * image[:2].astype(np.float64)) / float(image[2])
    weights = keypoints[..., 2].astype(np.float64)
    shape = body.astype(np.float64)
    anchors = anchored_frames(weights)
    scale = 1.0 if height is None else _scale_of_height(shape[anchors], height)
    root = fit_root(rays, weights, scale * shape, fps)
    if ground is not None:
        sure = GUESSED_SIZE if height is None else KNOWN_SIZE
        floor, resize = _floor(root, weights, scale * shape, anchors, ground, sure)
        if floor is not None:
            scale *= resize
            root = fit_root(rays, weights, scale * shape, fps, floor)
            if floor.distance + ANKLE_M >= LOWEST_M:
                ground = replace(ground, height=floor.distance + ANKLE_M)
    farthest = float(np.linalg.norm(root, axis=1).max())
    if farthest > LARGEST_DISTANCE_M:
        raise UnitError(
            f"the person would be {farthest:,.0f} m away, expected at most {LARGEST_DISTANCE_M:,.0f} m: is the focal "
            "length in pixels of this image?"
        )
    return Trajectory(root.astype(np.float32), scale, ~anchors, ground)


def standing_height(body: ArrayLike) -> float:
    """The height in metres, from sole to crown, of the person of poses ``(F, 17, 3)`` in metres."""
    return STRAIGHT * float(pooled_lengths(body)[list(STANDING)].sum()) + ANKLE_M + CROWN_M


def _scale_of_height(body: Array, height: float) -> float:
    """The factor on a body ``(F, 17, 3)`` that makes the person as tall as the user says."""
    covered = ANKLE_M + CROWN_M
    return (height - covered) / (standing_height(body) - covered)


def _floor(
    root: Array, weights: Array, body: Array, anchors: NDArray[np.bool_], ground: Ground, sure: float
) -> tuple[FloorFit | None, float]:
    """The floor under the feet, and the factor on the body that the height of the camera asks for.

    The size of the body and the height of the camera tell the same thing twice. Each counts by how sure it is: a pitch
    that is off by one degree moves the feet of somebody 6 m away by 0.1 m.

    Args:
        root: ``(F, 3)`` as fitted without the floor.
        weights: ``(F, 17)``, the confidence.
        body: ``(F, 17, 3)`` relative to the root.
        anchors: ``(F,)``, the frames that show enough joints.
        ground: What the user knows.
        sure: The standard deviation of the size of the body, as a share.

    Returns:
        The floor, or None where no frame shows a foot and the height of the camera is known; and the factor.
    """
    feet, down = body[:, ANKLES], ground.down
    lower = (feet @ down).argmax(axis=1)
    frames = np.arange(len(feet))
    ankle, weight = feet[frames, lower], weights[:, ANKLES][frames, lower]
    used = anchors & (weight > 0)
    if not used.any():
        if ground.height is None:
            raise InputError("no frame shows a foot, so nobody knows where the floor is; give the camera's height")
        warnings.warn("no frame shows a foot: the ground has no influence on the trajectory", InputWarning, 4)
        return None, 1.0
    below = float(np.median((root + ankle)[used] @ down))
    distance = float(np.median(root[used, 2]))
    if ground.height is None:
        if below + ANKLE_M < LOWEST_M:
            raise InputError(_misfit(ground, below + ANKLE_M))
        return FloorFit(down, below, ankle, weight), 1.0
    wanted = ground.height - ANKLE_M
    deviation = np.hypot(FEET_M, np.radians(PITCH_DEGREES) * distance)
    if below <= 0.0 or wanted <= 0.0:
        # A camera near the floor, which tells nothing about the size.
        if abs(below - wanted) > 3.0 * deviation:
            raise InputError(_misfit(ground, below + ANKLE_M))
        return FloorFit(down, below, ankle, weight), 1.0
    resize, doubt = np.log(wanted / below), deviation / wanted
    if abs(resize) > max(np.log(MOST_RESIZED), 3.0 * float(np.hypot(sure, doubt))):
        raise InputError(_misfit(ground, below + ANKLE_M))
    factor = float(np.exp(resize * sure**2 / (sure**2 + doubt**2)))
    return FloorFit(down, factor * below, factor * ankle, weight), factor


def _misfit(ground: Ground, found: float) -> str:
    stated = "" if ground.height is None else f", which is said to stand {ground.height:g} m above the floor"
    return (
        f"a pitch of {ground.pitch:g} degrees puts the feet {found:.2f} m below the camera{stated}: expected metres, "
        "and a positive pitch where the camera looks down"
    )
