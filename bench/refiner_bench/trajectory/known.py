"""What a user may know about the camera and the person, as the rows of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refiner.camera import Camera
from refiner.ground import Ground
from refiner.trajectory import ANKLES, CROWN_M
from refiner_bench.arrays import FloatArray

HEAD = 10
# People stand upright in some of their frames, on the floor or on a step, and with a foot on the floor in others: the
# height of a person is this quantile of the head's height over the lower ankle, and the opposite one of the ankle's.
UPRIGHT = 0.95
DEGREES_OFF = 1.0


@dataclass(frozen=True)
class Known:
    """One row of the report.

    Attributes:
        name: The key of the row in the JSON report.
        title: What is known, in words.
        height: Whether the height of the person is known.
        pitch: Whether the pitch of the camera is known.
        camera_height: Whether its height over the floor is known.
        degrees_off: By how much the stated pitch is wrong, in every other view too large and otherwise too small.
        smooth: False places each frame alone.
    """

    name: str
    title: str
    height: bool = False
    pitch: bool = False
    camera_height: bool = False
    degrees_off: float = 0.0
    smooth: bool = True

    def ground(self, true: Ground, number: int) -> Ground | None:
        """The ground that the user states for view ``number``. Nobody states the roll of an upright camera."""
        if not self.pitch:
            return None
        off = self.degrees_off * (1 if number % 2 else -1)
        return Ground(true.pitch + off, true.height if self.camera_height else None)


ROWS = (
    Known("alone", "nothing, each frame alone", smooth=False),
    Known("nothing", "nothing"),
    Known("height", "height of the person", height=True),
    Known("pitch", "pitch of the camera", pitch=True),
    Known("ground", "pitch and height of the camera", pitch=True, camera_height=True),
    Known("ground-off", "the same, the pitch wrong by 1 degree", False, True, True, DEGREES_OFF),
    Known("all", "height of the person, pitch and height of the camera", True, True, True),
)


def upright_height(motions: Sequence[FloatArray]) -> float:
    """The height in metres of the person of these motions ``(F, 17, 3)``, world metres with z up and the floor at 0."""
    ankle = np.concatenate([motion[:, ANKLES, 2].min(axis=1) for motion in motions])
    head = np.concatenate([motion[:, HEAD, 2] for motion in motions])
    return float(np.quantile(head - ankle, UPRIGHT) + np.quantile(ankle, 1.0 - UPRIGHT)) + CROWN_M


def true_ground(camera: Camera) -> Ground:
    """The ground of a camera whose world has z up and the floor at 0."""
    return Ground.of_camera(camera)
