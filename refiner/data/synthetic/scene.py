"""The construction of one motion: the style of a person, the joint angles, and the feet on the floor."""

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
    """The individual style of one person in one action.

    Attributes:
        tempo: A factor for the speed.
        amplitude: A factor for the size of the movements.
        arm_swing: A factor for the swing of the arms.
        lean: The forward lean in degrees.
        side: The leading side; 0 is left, 1 is right.
        toe_out: The outward rotation of the feet in radians.
        width: A factor for the distance between the feet.
        restless: A factor for the slow sway of the body.
    """

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
        """Draw a random style."""
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
    """One motion under construction.

    Attributes:
        body: The body of the person.
        times: The times of the frames in seconds, ``(F,)``.
        rng: The random generator of the motion.
        style: The style of the person.
        angles: The joint angles so far, in radians; actions change them with `add` and `blend`.
    """

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
        """Return a slow sway ``(F,)`` with standard deviation ``scale`` times the restlessness of the person."""
        return smooth_noise(self.rng, self.times, scale * self.style.restless, rate)

    def add(self, name: str, degrees: ArrayLike, side: int | None = None) -> None:
        """Add degrees to an angle. If ``side`` is None, the angles of both sides change."""
        change = np.radians(np.asarray(degrees, np.float64))
        if self.angles[name].ndim == 1:
            self.angles[name] = self.angles[name] + change
        elif side is None:
            self.angles[name] = self.angles[name] + change.reshape(-1, 1)
        else:
            self.angles[name][:, side] += change

    def blend(self, amount: Array, side: int | None = None, **degrees: ArrayLike) -> None:
        """Move angles of the arms towards target angles.

        Args:
            amount: ``(F,)``; 0 leaves the angles unchanged, 1 sets them to the target.
            side: 0 for left, 1 for right, None for both.
            degrees: The target of each angle, by its name.
        """
        for name, value in degrees.items():
            target = np.radians(np.asarray(value, np.float64))
            for index in (0, 1) if side is None else (side,):
                current = self.angles[name][:, index]
                self.angles[name][:, index] = current + amount * (target - current)

    def keys(self, move: tuple[float, float], rest: tuple[float, float], first: float = 1.0) -> Keys:
        """Draw rests and moves, whose lengths are divided by the tempo of the person; see `Keys`."""
        tempo = self.style.tempo
        return Keys(
            self.rng,
            self.times,
            (move[0] / tempo, move[1] / tempo),
            (rest[0] / tempo, rest[1] / tempo),
            first,
        )

    def feet(self, forward: float = 0.0) -> tuple[Array, Array]:
        """Place the feet side by side, with the leading foot ``forward`` metres ahead.

        Returns:
            The ankles ``(F, 2, 3)`` in metres, and the headings of the feet ``(F, 2)`` in radians.
        """
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
        """Compute the motion of a body from the positions of its feet and the joint angles of the upper body.

        Args:
            ankles: ``(F, 2, 3)`` metres.
            toes: The headings of the feet, ``(F, 2)`` radians.
            shift: The distance of the mid-hip ahead of the point midway between the feet, in metres.
            aside: The distance of the mid-hip to the left of this point, in metres.
            drop: The distance of the mid-hip below its standing height, in metres.
            heading: The heading of the body, in radians.

        Returns:
            Human3.6M's 17 joints, ``(F, 17, 3)`` metres.
        """
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
