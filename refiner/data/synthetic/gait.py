"""Walking and running: leg angles over the gait cycle, and a root motion for which the standing foot does not slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from refiner.data.synthetic.body import (
    Angles,
    Body,
    bent_knees,
    leg_joints,
    rest_angles,
    trunk_frame,
    turn_x,
    turn_z,
)
from refiner.data.synthetic.signals import Periodic, fit_harmonics, harmonic_basis, minimum_jerk, soft_clip

Array = NDArray[np.float64]

_CYCLE = 256  # number of phases of a cycle at which the motion of the root is fitted
_HARMONICS = (2, 4, 6)  # harmonics of the stride; left and right steps are equal, so odd harmonics vanish
_STRAIGHT = 0.999  # largest hip-ankle distance, as a fraction of the leg's length
_CLEAR = 0.006  # smooth transition in metres that keeps a foot above the floor
_BENT = 0.995  # largest hip-ankle distance of a standing leg, as a fraction of the leg's length


@dataclass(frozen=True)
class Gait:
    """The leg angles of a gait over one stride, and its timing. Percentages are of the stride, from foot strike on.

    Attributes:
        thigh: Pairs (percent, angle of the thigh from the vertical in degrees).
        knee: Pairs (percent, knee flexion in degrees).
        stance: The percentage of the stride in which the foot bears weight.
        heel_rise: The rise of the ankle at the end of the stance, divided by the stature (the foot rolls over its
            ball).
        lag: The percentage of a stride by which the arm follows the opposite leg.
        landing: The percentage of a stride before foot strike in which the foot moves to its foothold.
        hold: The strength with which a foot is pulled to its foothold along x, y and z, from 0 to 1.
    """

    thigh: tuple[tuple[float, float], ...]
    knee: tuple[tuple[float, float], ...]
    stance: float
    heel_rise: float
    lag: float
    landing: float
    hold: tuple[float, float, float]


# Rounded from the normal curves of level walking at a natural pace (Winter 1991, Perry 1992).
WALK = Gait(
    thigh=((0, 22), (12, 17), (30, 0), (50, -18), (62, -9), (75, 14), (88, 25)),
    knee=((0, 6), (14, 18), (38, 7), (50, 14), (62, 42), (73, 61), (85, 33), (95, 5)),
    stance=58.0,
    heel_rise=0.035,
    lag=3.0,
    landing=20.0,
    hold=(1.0, 1.0, 0.6),
)
# Rounded from the curves of slow running (Novacheck, Gait and Posture 7, 1998).
RUN = Gait(
    thigh=((0, 28), (15, 17), (38, -20), (50, -12), (68, 24), (82, 40), (93, 35)),
    knee=((0, 18), (15, 42), (36, 22), (52, 66), (66, 92), (80, 66), (93, 20)),
    stance=36.0,
    heel_rise=0.05,
    lag=2.0,
    landing=24.0,
    hold=(0.7, 0.7, 0.4),
)


def leg_angles(gait: Gait, phase: Array, amplitude: float, toe_in: float = 2.0) -> tuple[Array, Array, Array]:
    """Return hip flexion, hip abduction and knee flexion, each ``(n, 2)`` radians, at a phase of the stride ``(n,)``.

    The left foot strikes at phase 0.
    """
    both = np.stack([phase, phase + np.pi], axis=-1)
    thigh = np.radians(amplitude * Periodic(gait.thigh)(both))
    knee = np.radians(amplitude * Periodic(gait.knee)(both))
    return thigh, np.full_like(thigh, -np.radians(toe_in)), knee


def pelvis_swing(angles: Angles, phase: Array, amplitude: float) -> Array:
    """Add the roll of the pelvis to ``angles`` and return its rotation, forward on the side of the leading leg."""
    angles["trunk_roll"] = angles["trunk_roll"] + np.radians(3.0 * amplitude) * np.sin(phase)
    return np.asarray(-np.radians(4.0 * amplitude) * np.cos(phase))


@dataclass(frozen=True)
class Stride:
    """The motion of the root over one stride, as functions of the phase.

    Attributes:
        height: The coefficients of the height of the root in metres.
        pace: The coefficients of the speed of the root in metres per radian.
    """

    height: Array
    pace: Array

    def root_height(self, phase: Array) -> Array:
        """Return the height of the root in metres."""
        return np.asarray(harmonic_basis(phase, _HARMONICS) @ self.height)

    def distance(self, phase: Array) -> Array:
        """Return the travelled distance in metres: the integral of the pace, in closed form."""
        travelled = self.pace[0] * phase
        for index, order in enumerate(_HARMONICS):
            cosine, sine = self.pace[1 + 2 * index : 3 + 2 * index]
            travelled = travelled + (cosine * np.sin(order * phase) - sine * np.cos(order * phase)) / order
        return np.asarray(travelled)


def fit_stride(body: Body, gait: Gait, amplitude: float) -> Stride:
    """Fit a smooth height and pace of the root for which the standing foot slides as little as possible.

    During the flight of a run no foot constrains the root, and the harmonics interpolate.
    """
    phase = np.linspace(0.0, 2.0 * np.pi, _CYCLE, endpoint=False)
    angles = rest_angles(_CYCLE)
    angles["hip_flexion"], angles["hip_abduction"], angles["knee"] = leg_angles(gait, phase, amplitude)
    turn = pelvis_swing(angles, phase, amplitude)
    ankles = leg_joints(body, trunk_frame(angles, turn), angles)[:, :, 2]
    percent = np.stack([phase, phase + np.pi], axis=-1) / (2.0 * np.pi) * 100.0 % 100.0
    inside = np.clip(percent / gait.stance, 0.0, 1.0)
    weight = np.sin(np.pi * inside) ** 2
    heights = body.lengths["ankle"] + _heel_rise(gait, body, inside) - ankles[..., 2]
    step = 2.0 * np.pi / _CYCLE
    speeds = -(np.roll(ankles[..., 0], -1, axis=0) - np.roll(ankles[..., 0], 1, axis=0)) / (2.0 * step)
    phases = np.concatenate([phase, phase])
    weights = np.concatenate([weight[:, 0], weight[:, 1]])
    height = fit_harmonics(phases, heights.T.ravel(), weights, _HARMONICS)
    pace = fit_harmonics(phases, speeds.T.ravel(), weights, _HARMONICS)
    stride = Stride(height, pace)
    # The legs must reach the footholds. If they are too short, lower the root.
    feet = stance(gait, body, phase)
    for side in (0, 1):
        middle = np.mean(stance_phases(gait, feet.index[:, side], side)[1:], axis=0)
        spot = np.interp(middle, phase, ankles[:, side, 0], period=2.0 * np.pi)
        hips = _hip(body, turn, side)
        ahead = spot - (stride.distance(phase) - stride.distance(middle)) - hips[:, 0]
        aside = ankles[:, side, 1] - hips[:, 1]
        up = np.sqrt(np.maximum((_BENT * body.leg) ** 2 - ahead**2 - aside**2, 0.0))
        room = feet.height[:, side] + up - stride.root_height(phase)
        strides = phase / (2.0 * np.pi) + 0.5 * side
        standing = (strides - np.floor(strides)) * 100.0 < 0.7 * gait.stance
        height[0] += min(0.0, float(room[standing].min()))
    return Stride(height, pace)


@dataclass(frozen=True)
class Stance:
    """The contact of both feet with the floor at n phases. Each array is ``(n, 2)``.

    Attributes:
        index: The number of the stride.
        firm: The strength with which the foot is pulled to its foothold, from 0 to 1.
        struck: The weight, from 0 to 1, of the foot's current position in the pull; the rest is the weight of the
            position at foot strike.
        height: The height of the ankle in metres.
    """

    index: NDArray[np.int64]
    firm: Array
    struck: Array
    height: Array


def stance(gait: Gait, body: Body, phase: Array) -> Stance:
    """Compute the contact of both feet with the floor at each phase ``(n,)`` of the stride."""
    strides = np.stack([phase, phase + np.pi], axis=-1) / (2.0 * np.pi)
    index = np.floor(strides + 0.01 * gait.landing)
    percent = 100.0 * (strides - index)
    firm = minimum_jerk((percent + gait.landing) / gait.landing)
    firm = firm * (1.0 - minimum_jerk((percent - 0.55 * gait.stance) / (0.5 * gait.stance)))
    struck = minimum_jerk((percent + 6.0) / 8.0)
    height = body.lengths["ankle"] + _heel_rise(gait, body, percent / gait.stance)
    return Stance(index.astype(np.int64), firm, struck, height)


def stance_phases(gait: Gait, index: NDArray[np.int64], side: int) -> tuple[Array, Array, Array]:
    """Return three phases for each stride of a foot: its strike, an early phase and a late phase of the firm contact.

    On a curved path, the best foothold is midway between the positions at the early and the late phase.
    """
    strike = np.asarray(2.0 * np.pi * index - np.pi * side)
    return strike, strike + 0.02 * np.pi * 0.1 * gait.stance, strike + 0.02 * np.pi * 0.6 * gait.stance


def reach_ankles(body: Body, legs: Array, ankles: Array) -> Array:
    """Move the ankles of the legs ``(F, 2, 3, 3)`` to ``ankles`` ``(F, 2, 3)``, as far as the legs reach.

    The hips do not move, and an ankle stays above the floor.
    """
    hips, knees = legs[:, :, 0], legs[:, :, 1]
    ground = 0.9 * body.lengths["ankle"]
    ankles = np.concatenate(
        [ankles[..., :2], ground + _CLEAR * np.logaddexp(0.0, (ankles[..., 2:] - ground) / _CLEAR)], axis=-1
    )
    apart = ankles - hips
    distance = np.linalg.norm(apart, axis=-1)
    longest = _STRAIGHT * body.leg
    allowed = soft_clip(distance, 0.3 * longest, longest, 0.004 * longest)
    ankles = hips + apart * (allowed / distance)[..., None]
    # The knee stays on the same side of the hip-ankle line.
    middle = 0.5 * (hips + legs[:, :, 2])
    return np.stack([hips, bent_knees(body, hips, ankles, knees - middle), ankles], axis=2)


def _hip(body: Body, turn: Array, side: int) -> Array:
    reach = body.lengths["hip"] * (1.0 - 2.0 * side)
    return np.stack([-np.sin(turn) * reach, np.cos(turn) * reach], axis=-1)


def _heel_rise(gait: Gait, body: Body, inside: Array) -> Array:
    # The heel leaves the floor in the second half of the stance.
    return np.asarray(gait.heel_rise * body.stature * np.clip(2.0 * inside - 1.0, 0.0, 1.0) ** 2)


class Track:
    """An ellipse on the floor about the origin, parametrised by the distance along it."""

    def __init__(self, half_length: float, half_width: float) -> None:
        turn = np.linspace(0.0, 2.0 * np.pi, 721)
        points = np.stack([half_length * np.cos(turn), half_width * np.sin(turn)], axis=-1)
        points[-1] = points[0]
        distances = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=-1))])
        self.length = float(distances[-1])
        self._curve = CubicSpline(distances, points, bc_type="periodic")

    def __call__(self, distance: Array) -> tuple[Array, Array, Array]:
        """Return the position ``(n, 2)``, the heading and the curvature (1/m, left is positive) at ``distance``."""
        along = distance % self.length
        tangent, second = self._curve(along, 1), self._curve(along, 2)
        heading = np.arctan2(tangent[:, 1], tangent[:, 0])
        curvature = tangent[:, 0] * second[:, 1] - tangent[:, 1] * second[:, 0]
        return np.asarray(self._curve(along)), heading, curvature


def on_track(joints: Array, position: Array, heading: Array, bank: Array) -> Array:
    """Place a body on a track.

    Args:
        joints: ``(F, J, 3)`` metres; the origin is the point on the floor below the mid-hip.
        position: The position of this point on the floor, ``(F, 2)`` metres.
        heading: ``(F,)`` radians.
        bank: The lean about this point, ``(F,)`` radians; left is positive.

    Returns:
        ``(F, J, 3)`` metres in world axes.
    """
    turn = turn_z(heading) @ turn_x(-bank)
    moved = joints @ np.swapaxes(turn, 1, 2)
    moved[..., :2] += position[:, None]
    return moved
