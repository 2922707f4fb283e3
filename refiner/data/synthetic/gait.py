"""Walking and running: leg angles over the gait cycle, and the root motion that keeps the foot in place."""

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

_CYCLE = 256  # places of a cycle where the root's motion is fitted
_HARMONICS = (2, 4, 6)  # of the stride; a left and a right step are alike, so odd ones vanish
_STRAIGHT = 0.999  # of a leg's length, at most
_CLEAR = 0.006  # metres within which a foot is kept from the floor
_BENT = 0.995  # of a leg's length, where the foot is held in place


@dataclass(frozen=True)
class Gait:
    """Thigh from the vertical and knee flexion in degrees by percent of a stride from foot strike.

    ``stance``: the percent of the stride in which the foot bears weight; ``heel_rise``: how far the ankle
    has risen by its end, as a share of the stature (the foot rolls over its ball); ``lag``: the percent of a
    stride by which the arm follows the opposite leg; ``landing``: the percent of a stride before foot strike
    in which the foot is led to its place.
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
    """Hip flexion, hip abduction, knee flexion ``(n, 2)`` at the stride's ``phase``; left strikes at 0."""
    both = np.stack([phase, phase + np.pi], axis=-1)
    thigh = np.radians(amplitude * Periodic(gait.thigh)(both))
    knee = np.radians(amplitude * Periodic(gait.knee)(both))
    return thigh, np.full_like(thigh, -np.radians(toe_in)), knee


def pelvis_swing(angles: Angles, phase: Array, amplitude: float) -> Array:
    """Puts the pelvis's list into ``angles`` and returns its turn: forward on the side of the leading leg."""
    angles["trunk_roll"] = angles["trunk_roll"] + np.radians(3.0 * amplitude) * np.sin(phase)
    return np.asarray(-np.radians(4.0 * amplitude) * np.cos(phase))


@dataclass(frozen=True)
class Stride:
    """The root over one stride: height and the distance gone, both functions of the stride's phase."""

    height: Array
    pace: Array  # metres per radian

    def root_height(self, phase: Array) -> Array:
        return np.asarray(harmonic_basis(phase, _HARMONICS) @ self.height)

    def distance(self, phase: Array) -> Array:
        """Metres gone at ``phase``: the integral of the pace, which a harmonic series has in closed form."""
        gone = self.pace[0] * phase
        for index, order in enumerate(_HARMONICS):
            cosine, sine = self.pace[1 + 2 * index : 3 + 2 * index]
            gone = gone + (cosine * np.sin(order * phase) - sine * np.cos(order * phase)) / order
        return np.asarray(gone)


def fit_stride(body: Body, gait: Gait, amplitude: float) -> Stride:
    """The smooth height and pace of the root that best keep the foot that bears weight where it is.

    In the flight of a run no foot says anything, and the harmonics carry on.
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
    # The legs must be long enough for the places where the feet are held: lower the root where they are not.
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
        borne = (strides - np.floor(strides)) * 100.0 < 0.7 * gait.stance
        height[0] += min(0.0, float(room[borne].min()))
    return Stride(height, pace)


@dataclass(frozen=True)
class Stance:
    """For each foot ``(n, 2)`` at n phases: its stride, how firmly it is led to its place and held there (0
    to 1), how much of that counts from where it is rather than from where it will strike, and the height of
    its ankle then."""

    index: NDArray[np.int64]
    firm: Array
    struck: Array
    height: Array


def stance(gait: Gait, body: Body, phase: Array) -> Stance:
    strides = np.stack([phase, phase + np.pi], axis=-1) / (2.0 * np.pi)
    index = np.floor(strides + 0.01 * gait.landing)
    percent = 100.0 * (strides - index)
    firm = minimum_jerk((percent + gait.landing) / gait.landing)
    firm = firm * (1.0 - minimum_jerk((percent - 0.55 * gait.stance) / (0.5 * gait.stance)))
    struck = minimum_jerk((percent + 6.0) / 8.0)
    height = body.lengths["ankle"] + _heel_rise(gait, body, percent / gait.stance)
    return Stance(index.astype(np.int64), firm, struck, height)


def stance_phases(gait: Gait, index: NDArray[np.int64], side: int) -> tuple[Array, Array, Array]:
    """Three phases of each of a foot's strides: its strike, and one early and one late in the firm part; on a
    curved path the foot is best held in the middle between its places at the latter two."""
    strike = np.asarray(2.0 * np.pi * index - np.pi * side)
    return strike, strike + 0.02 * np.pi * 0.1 * gait.stance, strike + 0.02 * np.pi * 0.6 * gait.stance


def reach_ankles(body: Body, legs: Array, ankles: Array) -> Array:
    """Legs ``(F, 2, 3, 3)`` with the same hips that reach for ``ankles``, as far as they are long."""
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
    # The knee keeps to the side of the hip-ankle line on which it was.
    middle = 0.5 * (hips + legs[:, :, 2])
    return np.stack([hips, bent_knees(body, hips, ankles, knees - middle), ankles], axis=2)


def _hip(body: Body, turn: Array, side: int) -> Array:
    reach = body.lengths["hip"] * (1.0 - 2.0 * side)
    return np.stack([-np.sin(turn) * reach, np.cos(turn) * reach], axis=-1)


def _heel_rise(gait: Gait, body: Body, inside: Array) -> Array:
    # In the second half of stance the heel leaves the floor.
    return np.asarray(gait.heel_rise * body.stature * np.clip(2.0 * inside - 1.0, 0.0, 1.0) ** 2)


class Track:
    """A closed curve on the floor about the origin, by the distance along it."""

    def __init__(self, half_length: float, half_width: float) -> None:
        turn = np.linspace(0.0, 2.0 * np.pi, 721)
        points = np.stack([half_length * np.cos(turn), half_width * np.sin(turn)], axis=-1)
        points[-1] = points[0]
        gone = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=-1))])
        self.length = float(gone[-1])
        self._curve = CubicSpline(gone, points, bc_type="periodic")

    def __call__(self, distance: Array) -> tuple[Array, Array, Array]:
        """Position ``(n, 2)``, heading and curvature (1/m, to the left positive) at ``distance`` metres."""
        along = distance % self.length
        tangent, second = self._curve(along, 1), self._curve(along, 2)
        heading = np.arctan2(tangent[:, 1], tangent[:, 0])
        curvature = tangent[:, 0] * second[:, 1] - tangent[:, 1] * second[:, 0]
        return np.asarray(self._curve(along)), heading, curvature


def on_track(joints: Array, position: Array, heading: Array, bank: Array) -> Array:
    """Joints about the point of the floor below the mid-hip, put on the floor at ``position``, turned to
    ``heading`` and leaning by ``bank`` (to the left positive) about that point."""
    turn = turn_z(heading) @ turn_x(-bank)
    placed = joints @ np.swapaxes(turn, 1, 2)
    placed[..., :2] += position[:, None]
    return placed
