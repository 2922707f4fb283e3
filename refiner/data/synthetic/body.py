"""A synthetic person: segment lengths, joint limits, and the kinematics from angles to 17 joints.

Axes of the body: x forward, y left, z up. Angles in radians, flexion positive; in the tables in degrees.
Pairs have a last axis (left, right).
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
# Segment length / stature. Drillis and Contini (1966), as in Winter's Biomechanics and Motor Control of Human
# Movement, where the segment is theirs; "joint" marks those moved from the skin to the joint centre, or that
# Human3.6M's markers define (proportions as in its skeletons and CMU's).
SEGMENT_RATIOS = {
    "hip": 0.054,  # joint: Winter's 0.0955 is half the breadth at the skin
    "thigh": 0.245,
    "shank": 0.246,
    "ankle": 0.043,  # height of the joint; Winter's 0.039 is to the malleolus
    "spine": 0.147,  # joint: mid-hip to the middle of the trunk
    "thorax": 0.170,  # joint: from there to the base of the neck
    "neck": 0.074,  # joint: base of the neck to the nose's height
    "head": 0.070,  # joint: from there to the crown
    "shoulder": 0.110,  # joint: base of the neck to the shoulder joint; Winter's 0.129 is to the acromion
    "upper_arm": 0.163,  # joint: Winter's 0.186 less 0.023 from acromion to joint centre
    "forearm": 0.146,
}
_RATIO_SPREAD = 0.03  # relative standard deviation, cut at twice that

# Limits of active motion in adults, degrees: American Academy of Orthopaedic Surgeons, Joint Motion (1965),
# rounded inwards to 5 degrees; the spine's are the sum over its parts. "trunk" angles are those of the
# pelvis, which is free in space and held here to what standing, sitting and bending people do.
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
_LEG_REACH = 0.991  # of a straight leg: a knee bent by 15 degrees, where the solution is well conditioned
_LIMIT_WIDTH = float(np.radians(4.0))


@dataclass(frozen=True)
class Body:
    """Stature and segment lengths of one person in metres; left and right are alike."""

    stature: float
    lengths: Mapping[str, float]

    @classmethod
    def from_seed(cls, seed: int | list[int]) -> Body:
        """An adult of ``STATURE_M``, segments spread by 3 % around ``SEGMENT_RATIOS``."""
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
        """Hip to ankle with a straight knee."""
        return self.lengths["thigh"] + self.lengths["shank"]


def rest_angles(frames: int) -> Angles:
    """All angles of `JOINT_LIMITS_DEG` at zero: ``(frames,)``, or ``(frames, 2)`` for pairs."""
    return {name: np.zeros((frames, 2) if name in PAIRED else frames) for name in JOINT_LIMITS_DEG}


def limited(angles: Angles) -> Angles:
    """The angles, kept within the limits without kinks."""
    result = {}
    for name, values in angles.items():
        low, high = np.radians(JOINT_LIMITS_DEG[name])
        result[name] = soft_clip(values, float(low), float(high), _LIMIT_WIDTH)
    return result


def turn_x(angle: ArrayLike) -> Array:
    """Rotation matrices ``(..., 3, 3)`` about x: y towards z."""
    return _turn(angle, 1, 2)


def turn_y(angle: ArrayLike) -> Array:
    """Rotation matrices ``(..., 3, 3)`` about y: z towards x, that is, up leans forward."""
    return _turn(angle, 2, 0)


def turn_z(angle: ArrayLike) -> Array:
    """Rotation matrices ``(..., 3, 3)`` about z: x towards y, that is, to the left."""
    return _turn(angle, 0, 1)


def trunk_frame(angles: Angles, heading: ArrayLike = 0.0) -> Array:
    """Orientation of the pelvis ``(F, 3, 3)``: heading, then pitch, then roll to the right."""
    return np.asarray(turn_z(heading) @ turn_y(angles["trunk_pitch"]) @ turn_x(angles["trunk_roll"]))


def leg_joints(body: Body, pelvis: Array, angles: Angles) -> Array:
    """Hips, knees, ankles from the joint angles, relative to the mid-hip: ``(F, 2 sides, 3 joints, 3)``."""
    hips = _hips(body, pelvis)
    thigh = pelvis[:, None] @ turn_y(-angles["hip_flexion"]) @ turn_x(_SIDES * angles["hip_abduction"])
    shank = thigh @ turn_y(angles["knee"])
    knees = hips - body.lengths["thigh"] * thigh[..., 2]
    return np.stack([hips, knees, knees - body.lengths["shank"] * shank[..., 2]], axis=2)


def planted_legs(
    body: Body, pelvis: Array, position: Array, ankles: Array, toes: Array, drop: Array
) -> tuple[Array, Array]:
    """The mid-hip's height and the legs, for feet that are where they are.

    ``position`` ``(F, 2)``: where the mid-hip is over the floor; ``ankles`` ``(F, 2, 3)``; ``toes``
    ``(F, 2)``: the heading of the feet, to which the knees point; ``drop`` ``(F,)``: by how much the mid-hip
    is lower than nearly straight legs allow. Returns the mid-hip ``(F, 3)`` and hips, knees, ankles
    ``(F, 2, 3, 3)``, both in the axes of ``ankles``.
    """
    hips = _hips(body, pelvis)
    aside = hips[..., :2] + position[:, None] - ankles[..., :2]
    straight = (_LEG_REACH * body.leg) ** 2 - (aside**2).sum(axis=-1)
    # A foot further aside than a leg is long would have no solution; actions stay far from that.
    highest = ankles[..., 2] + np.sqrt(np.maximum(straight, 1e-4)) - hips[..., 2]
    root = np.concatenate([position, (soft_min(highest, 0.008) - drop)[:, None]], axis=-1)
    hips = hips + root[:, None]
    ahead = np.stack([np.cos(toes), np.sin(toes), np.full_like(toes, 0.25)], axis=-1)
    return root, np.stack([hips, bent_knees(body, hips, ankles, ahead), ankles], axis=2)


def bent_knees(body: Body, hips: Array, ankles: Array, ahead: Array) -> Array:
    """Where the knees ``(..., 3)`` are between hips and ankles no further apart than a leg is long; they
    point ``ahead`` (any vector that is not along the leg)."""
    axis = ankles - hips
    distance = np.linalg.norm(axis, axis=-1, keepdims=True)
    axis = axis / distance
    thigh, shank = body.lengths["thigh"], body.lengths["shank"]
    along = (distance**2 + thigh**2 - shank**2) / (2.0 * distance)
    out = np.sqrt(np.maximum(thigh**2 - along**2, 0.0))
    ahead = _unit(ahead - (ahead * axis).sum(axis=-1, keepdims=True) * axis)
    return np.asarray(hips + along * axis + out * ahead)


def upper_joints(body: Body, pelvis: Array, angles: Angles) -> Array:
    """Spine, thorax, neck/nose, head, then shoulder, elbow, wrist of the left and the right arm, relative to
    the mid-hip: ``(F, 10, 3)``."""
    length = body.lengths
    bend = turn_z(angles["spine_twist"]), turn_y(angles["spine_flexion"]), turn_x(angles["spine_side"])
    chest = pelvis @ bend[0] @ bend[1] @ bend[2]
    # A third of the bend happens below the middle of the trunk.
    lower = pelvis @ turn_y(angles["spine_flexion"] / 3.0) @ turn_x(angles["spine_side"] / 3.0)
    spine = lower @ (length["spine"] * np.array([0.0, 0.0, 1.0]))
    thorax = spine + chest @ (length["thorax"] * _direction(-0.03, 0.0, 1.0))
    head = chest @ turn_z(angles["neck_twist"]) @ turn_y(angles["neck_flexion"]) @ turn_x(angles["neck_side"])
    half = chest @ turn_z(angles["neck_twist"] / 2) @ turn_y(angles["neck_flexion"] / 2)
    # The nose lies in front of the neck and turns with the head, the neck below it only half as much.
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
    """Human3.6M's 17 joints ``(F, 17, 3)`` from the mid-hip ``(F, 3)``, the legs ``(F, 2, 3, 3)`` and the
    upper body ``(F, 10, 3)``, all in the same axes and about the same origin."""
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
