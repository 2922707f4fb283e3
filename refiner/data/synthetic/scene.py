"""One motion in the making: a person's style, the angles so far, and feet that stand on the floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.synthetic.body import (
    Angles,
    Body,
    assemble,
    limited,
    planted_legs,
    rest_angles,
    trunk_frame,
    upper_joints,
)
from refiner.data.synthetic.signals import Keys, smooth_noise

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How one person does one action: factors of tempo and of amplitude, lean in degrees, the side that
    leads (0 left, 1 right), and how restless the body is (degrees of slow sway)."""

    tempo: float
    amplitude: float
    arm_swing: float
    lean: float
    side: int
    toe_out: float
    width: float
    restless: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Style:
        return cls(
            tempo=float(rng.uniform(0.88, 1.12)),
            amplitude=float(rng.uniform(0.85, 1.12)),
            arm_swing=float(rng.uniform(0.6, 1.3)),
            lean=float(rng.uniform(-2.0, 6.0)),
            side=int(rng.integers(2)),
            toe_out=float(np.radians(rng.uniform(3.0, 18.0))),
            width=float(rng.uniform(0.95, 1.35)),
            restless=float(rng.uniform(0.6, 1.4)),
        )


class Scene:
    """One motion in the making: its times, its person and style, and the angles so far."""

    def __init__(self, body: Body, times: Array, rng: np.random.Generator) -> None:
        self.body, self.times, self.rng = body, times, rng
        self.style = Style.draw(rng)
        self.angles: Angles = rest_angles(len(times))
        self.add("spine_flexion", self.style.lean + self.noise(1.5))
        self.add("spine_side", self.noise(1.2))
        self.add("spine_twist", self.noise(2.0))
        self.add("neck_flexion", 3.0 - 0.5 * self.style.lean + self.noise(4.0))
        self.add("neck_side", self.noise(2.0))
        self.add("neck_twist", self.noise(8.0))
        for side in (0, 1):
            self.add("girdle", self.noise(1.0), side)
            self.add("shoulder_flexion", 2.0 + self.noise(2.5), side)
            self.add("shoulder_abduction", 9.0 + self.noise(1.5), side)
            self.add("shoulder_rotation", 20.0 + self.noise(4.0), side)
            self.add("elbow", 17.0 + self.noise(4.0), side)

    def noise(self, scale: float, rate: float = 0.35) -> Array:
        """Slow sway, `scale` times the person's restlessness."""
        return smooth_noise(self.rng, self.times, scale * self.style.restless, rate)

    def add(self, name: str, degrees: ArrayLike, side: int | None = None) -> None:
        """Adds degrees to an angle; of both sides where ``side`` is None."""
        change = np.radians(np.asarray(degrees, np.float64))
        if self.angles[name].ndim == 1:
            self.angles[name] = self.angles[name] + change
        elif side is None:
            self.angles[name] = self.angles[name] + change.reshape(-1, 1)
        else:
            self.angles[name][:, side] += change

    def blend(self, amount: Array, side: int | None = None, **degrees: ArrayLike) -> None:
        """Draws angles of the arms to ``degrees`` by ``amount`` (0: as they are, 1: there)."""
        for name, value in degrees.items():
            target = np.radians(np.asarray(value, np.float64))
            for index in (0, 1) if side is None else (side,):
                own = self.angles[name][:, index]
                self.angles[name][:, index] = own + amount * (target - own)

    def keys(self, move: tuple[float, float], rest: tuple[float, float], first: float = 1.0) -> Keys:
        """Seeded rests and moves, faster or slower by the person's tempo."""
        tempo = self.style.tempo
        return Keys(
            self.rng,
            self.times,
            (move[0] / tempo, move[1] / tempo),
            (rest[0] / tempo, rest[1] / tempo),
            first,
        )

    def feet(self, forward: float = 0.0) -> tuple[Array, Array]:
        """Feet side by side, a seeded width apart, the leading one ``forward`` m ahead: ankles
        ``(F, 2, 3)`` and the feet's headings ``(F, 2)``."""
        frames = len(self.times)
        half = self.style.width * (self.body.lengths["hip"] + 0.02)
        ankles = np.zeros((frames, 2, 3))
        ankles[:, 0, 1], ankles[:, 1, 1] = half, -half
        ankles[:, self.style.side, 0] += forward / 2.0
        ankles[:, 1 - self.style.side, 0] -= forward / 2.0
        ankles[..., 2] = self.body.lengths["ankle"]
        return ankles, np.tile([self.style.toe_out, -self.style.toe_out], (frames, 1))

    def on_feet(
        self,
        ankles: Array,
        toes: Array,
        shift: ArrayLike = 0.0,
        aside: ArrayLike = 0.0,
        drop: ArrayLike = 0.0,
        heading: ArrayLike = 0.0,
    ) -> Array:
        """The motion of a body whose feet are given; the mid-hip is ``shift`` m ahead and ``aside`` m to the
        left of their middle (in its ``heading``), and ``drop`` m lower than standing."""
        frames = len(self.times)
        turn = np.broadcast_to(np.asarray(heading, np.float64), frames)
        ahead = np.asarray(shift, np.float64) + self.noise(0.006, 0.3)
        left = np.asarray(aside, np.float64) + self.noise(0.008, 0.25)
        middle = ankles[..., :2].mean(axis=1)
        position = middle + np.stack(
            [np.cos(turn) * ahead - np.sin(turn) * left, np.sin(turn) * ahead + np.cos(turn) * left], axis=-1
        )
        angles = limited(self.angles)
        pelvis = trunk_frame(angles, turn)
        drops = np.broadcast_to(np.asarray(drop, np.float64), frames)
        root, legs = planted_legs(self.body, pelvis, position, ankles, toes, drops)
        return assemble(root, legs, root[:, None] + upper_joints(self.body, pelvis, angles))
