"""The body of a synthetic person: segment lengths, joint limits, and forward kinematics to 17 joints.

The axes of the body are x forward, y left, z up. Angles are in radians, and flexion is positive; the tables are in
degrees. The last axis of paired values is (left, right).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.synthetic.signals import soft_clip, soft_min

Array = NDArray[np.float64]
Angles = dict[str, Array]

STATURE_M = (1.50, 1.95)
# Segment lengths divided by stature, from Drillis and Contini (1966), as printed in Winter's Biomechanics and Motor
# Control of Human Movement. The comment "joint" marks lengths that were moved from the skin to the joint centre, or
# that Human3.6M's markers define (with the proportions of its skeletons and CMU's).
SEGMENT_RATIOS = {
    "hip": 0.054,  # joint: Winter's 0.0955 is half the breadth at the skin
    "thigh": 0.245,
    "shank": 0.246,
    "ankle": 0.043,  # height of the joint; Winter's 0.039 is to the malleolus
    "spine": 0.147,  # joint: mid-hip to the middle of the trunk
    "thorax": 0.170,  # joint: middle of the trunk to the base of the neck
    "neck": 0.074,  # joint: base of the neck to the height of the nose
    "head": 0.070,  # joint: height of the nose to the crown
    "shoulder": 0.110,  # joint: base of the neck to the shoulder joint; Winter's 0.129 is to the acromion
    "upper_arm": 0.163,  # joint: Winter's 0.186 less 0.023 from acromion to joint centre
    "forearm": 0.146,
}
_RATIO_SPREAD = 0.03  # relative standard deviation, truncated at two standard deviations

# The limits of active motion of adults in degrees, from American Academy of Orthopaedic Surgeons, Joint Motion (1965),
# rounded inwards to 5 degrees. The limits of the spine are sums over its parts. "trunk" angles are the orientation of
# the pelvis; their limits are the range of people who stand, sit and bend.
JOINT_LIMITS_DEG: dict[str, tuple[float, float]] = {
    "trunk_pitch": (-20.0, 60.0),
    "trunk_roll": (-20.0, 20.0),
    "spine_flexion": (-25.0, 70.0),
    "spine_side": (-30.0, 30.0),
    "spine_twist": (-45.0, 45.0),
    "neck_flexion": (-45.0, 45.0),
    "neck_side": (-40.0, 40.0),
    "neck_twist": (-70.0, 70.0),
    "girdle": (-10.0, 35.0),  # the shoulder blade lifts the shoulder
    "shoulder_flexion": (-55.0, 170.0),
    "shoulder_abduction": (-20.0, 170.0),
    "shoulder_rotation": (-80.0, 65.0),  # internal is positive
    "elbow": (3.0, 145.0),
    "hip_flexion": (-25.0, 115.0),
    "hip_abduction": (-25.0, 40.0),
    "knee": (2.0, 135.0),
}
PAIRED = (
    "girdle",
    "shoulder_flexion",
    "shoulder_abduction",
    "shoulder_rotation",
    "elbow",
    "hip_flexion",
    "hip_abduction",
    "knee",
)
_SIDES = np.array([1.0, -1.0])  # left is +y
_LEG_REACH = 0.991  # fraction of a straight leg: a knee angle of 15 degrees, where the solution is well conditioned
_LIMIT_WIDTH = float(np.radians(4.0))


@dataclass(frozen=True)
class Body:
    """The stature and the segment lengths of one person in metres. Left and right are equal."""

    stature: float
    lengths: Mapping[str, float]

    @classmethod
    def from_seed(cls, seed: int | list[int]) -> Body:
        """Draw an adult with a stature within `STATURE_M` and segments that differ by 3 % from `SEGMENT_RATIOS`."""
        rng = np.random.default_rng(seed)
        stature = float(rng.uniform(*STATURE_M))
        spread = np.clip(rng.normal(0.0, 1.0, len(SEGMENT_RATIOS)), -2.0, 2.0) * _RATIO_SPREAD
        return cls(
            stature,
            {
                name: stature * ratio * (1.0 + float(change))
                for (name, ratio), change in zip(SEGMENT_RATIOS.items(), spread, strict=True)
            },
        )

    @property
    def leg(self) -> float:
        """The distance from hip to ankle with a straight knee."""
        return self.lengths["thigh"] + self.lengths["shank"]


def rest_angles(frames: int) -> Angles:
    """Return all angles of `JOINT_LIMITS_DEG` as zeros: ``(frames,)``, or ``(frames, 2)`` for pairs."""
    return {name: np.zeros((frames, 2) if name in PAIRED else frames) for name in JOINT_LIMITS_DEG}


def limited(angles: Angles) -> Angles:
    """Limit the angles to `JOINT_LIMITS_DEG`, with smooth transitions."""
    result = {}
    for name, values in angles.items():
        low, high = np.radians(JOINT_LIMITS_DEG[name])
        result[name] = soft_clip(values, float(low), float(high), _LIMIT_WIDTH)
    return result


def turn_x(angle: ArrayLike) -> Array:
    """Return rotation matrices ``(..., 3, 3)`` about x, which turn y towards z."""
    return _turn(angle, 1, 2)


def turn_y(angle: ArrayLike) -> Array:
    """Return rotation matrices ``(..., 3, 3)`` about y, which turn z towards x (the body leans forward)."""
    return _turn(angle, 2, 0)


def turn_z(angle: ArrayLike) -> Array:
    """Return rotation matrices ``(..., 3, 3)`` about z, which turn x towards y (to the left)."""
    return _turn(angle, 0, 1)


def trunk_frame(angles: Angles, heading: ArrayLike = 0.0) -> Array:
    """Return the orientation of the pelvis ``(F, 3, 3)``: heading, then pitch, then roll to the right."""
    return np.asarray(turn_z(heading) @ turn_y(angles["trunk_pitch"]) @ turn_x(angles["trunk_roll"]))


def leg_joints(body: Body, pelvis: Array, angles: Angles) -> Array:
    """Compute hips, knees and ankles from the joint angles, relative to the mid-hip.

    Args:
        body: The segment lengths.
        pelvis: The orientation of the pelvis, ``(F, 3, 3)``.
        angles: The joint angles in radians, ``(F, 2)`` each.

    Returns:
        ``(F, 2 sides, 3 joints, 3)`` metres.
    """
    hips = _hips(body, pelvis)
    thigh = pelvis[:, None] @ turn_y(-angles["hip_flexion"]) @ turn_x(_SIDES * angles["hip_abduction"])
    shank = thigh @ turn_y(angles["knee"])
    knees = hips - body.lengths["thigh"] * thigh[..., 2]
    return np.stack([hips, knees, knees - body.lengths["shank"] * shank[..., 2]], axis=2)


def planted_legs(
    body: Body, pelvis: Array, position: Array, ankles: Array, toes: Array, drop: Array
) -> tuple[Array, Array]:
    """Compute the height of the mid-hip and the legs from the positions of the feet (inverse kinematics).

    Args:
        body: The segment lengths.
        pelvis: The orientation of the pelvis, ``(F, 3, 3)``.
        position: The horizontal position of the mid-hip, ``(F, 2)`` metres.
        ankles: ``(F, 2, 3)`` metres.
        toes: The headings of the feet, ``(F, 2)`` radians; the knees point in this direction.
        drop: The distance of the mid-hip below the height for nearly straight legs, ``(F,)`` metres.

    Returns:
        The mid-hip ``(F, 3)``, and the hips, knees and ankles ``(F, 2, 3, 3)``, in the axes of ``ankles``.
    """
    hips = _hips(body, pelvis)
    aside = hips[..., :2] + position[:, None] - ankles[..., :2]
    straight = (_LEG_REACH * body.leg) ** 2 - (aside**2).sum(axis=-1)
    # There is no solution if a foot is further aside than the length of a leg. The actions stay far from this limit.
    highest = ankles[..., 2] + np.sqrt(np.maximum(straight, 1e-4)) - hips[..., 2]
    root = np.concatenate([position, (soft_min(highest, 0.008) - drop)[:, None]], axis=-1)
    hips = hips + root[:, None]
    ahead = np.stack([np.cos(toes), np.sin(toes), np.full_like(toes, 0.25)], axis=-1)
    return root, np.stack([hips, bent_knees(body, hips, ankles, ahead), ankles], axis=2)


def bent_knees(body: Body, hips: Array, ankles: Array, ahead: Array) -> Array:
    """Compute the knees ``(..., 3)`` from the hips and ankles, whose distance is at most the length of a leg.

    The knees point in the direction ``ahead``, a vector that is not parallel to the leg.
    """
    axis = ankles - hips
    distance = np.linalg.norm(axis, axis=-1, keepdims=True)
    axis = axis / distance
    thigh, shank = body.lengths["thigh"], body.lengths["shank"]
    along = (distance**2 + thigh**2 - shank**2) / (2.0 * distance)
    out = np.sqrt(np.maximum(thigh**2 - along**2, 0.0))
    ahead = _unit(ahead - (ahead * axis).sum(axis=-1, keepdims=True) * axis)
    return np.asarray(hips + along * axis + out * ahead)


def upper_joints(body: Body, pelvis: Array, angles: Angles) -> Array:
    """Compute the joints of the upper body, relative to the mid-hip.

    Args:
        body: The segment lengths.
        pelvis: The orientation of the pelvis, ``(F, 3, 3)``.
        angles: The joint angles in radians, ``(F,)`` or ``(F, 2)`` each.

    Returns:
        ``(F, 10, 3)`` metres: spine, thorax, neck/nose and head, then shoulder, elbow and wrist of the left arm and of
        the right arm.
    """
    length = body.lengths
    bend = turn_z(angles["spine_twist"]), turn_y(angles["spine_flexion"]), turn_x(angles["spine_side"])
    chest = pelvis @ bend[0] @ bend[1] @ bend[2]
    # One third of the bend lies below the middle of the trunk.
    lower = pelvis @ turn_y(angles["spine_flexion"] / 3.0) @ turn_x(angles["spine_side"] / 3.0)
    spine = lower @ (length["spine"] * np.array([0.0, 0.0, 1.0]))
    thorax = spine + chest @ (length["thorax"] * _direction(-0.03, 0.0, 1.0))
    head = chest @ turn_z(angles["neck_twist"]) @ turn_y(angles["neck_flexion"]) @ turn_x(angles["neck_side"])
    half = chest @ turn_z(angles["neck_twist"] / 2) @ turn_y(angles["neck_flexion"] / 2)
    # The nose lies in front of the neck and turns with the head. The neck turns by half the angle.
    neck = half @ np.array([0.1, 0.0, 0.65]) + head @ np.array([0.3, 0.0, 0.27])
    nose = thorax + length["neck"] * _unit(neck)
    crown = nose + head @ (length["head"] * _direction(-0.28, 0.0, 1.0))
    lift = turn_x(_SIDES * angles["girdle"])
    offset = length["shoulder"] * np.stack([_direction(-0.1, side * 0.93, -0.34) for side in _SIDES])
    shoulders = thorax[:, None] + (chest[:, None] @ lift @ offset[..., None])[..., 0]
    arm = (
        chest[:, None]
        @ turn_y(-angles["shoulder_flexion"])
        @ turn_x(_SIDES * angles["shoulder_abduction"])
        @ turn_z(-_SIDES * angles["shoulder_rotation"])
    )
    forearm = arm @ turn_y(-angles["elbow"])
    elbows = shoulders - length["upper_arm"] * arm[..., 2]
    wrists = elbows - length["forearm"] * forearm[..., 2]
    arms = np.stack([shoulders, elbows, wrists], axis=2).reshape(-1, 6, 3)
    return np.concatenate([np.stack([spine, thorax, nose, crown], axis=1), arms], axis=1)


def assemble(root: Array, legs: Array, upper: Array) -> Array:
    """Assemble Human3.6M's 17 joints from the parts of the body, which have the same axes and origin.

    Args:
        root: The mid-hip, ``(F, 3)``.
        legs: The hips, knees and ankles of the left and the right leg, ``(F, 2, 3, 3)``.
        upper: The upper body of `upper_joints`, ``(F, 10, 3)``.

    Returns:
        ``(F, 17, 3)``.
    """
    return np.concatenate([root[:, None], legs[:, 1], legs[:, 0], upper], axis=1)


def _hips(body: Body, pelvis: Array) -> Array:
    return np.asarray(pelvis[:, None, :, 1] * (_SIDES * body.lengths["hip"])[:, None])


def _turn(angle: ArrayLike, first: int, second: int) -> Array:
    angle = np.asarray(angle, np.float64)
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., 3 - first - second, 3 - first - second] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = np.cos(angle)
    matrix[..., second, first] = np.sin(angle)
    matrix[..., first, second] = -np.sin(angle)
    return matrix


def _direction(*vector: float) -> Array:
    return np.asarray(_unit(np.array(vector)))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector, axis=-1, keepdims=True))
