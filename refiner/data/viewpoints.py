"""Cameras that no archive has: random places, directions and lenses, for training and for tests of transfer."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, look_at_camera

IMAGE_SIZE = (1000, 1000)
# Focal lengths in pixels of a 1000-pixel image, from a wide phone lens (71 degrees) to a short tele (35 degrees).
FOCAL_LENGTHS = (700.0, 1600.0)
# How much of the image's height the body takes.
BODY_SHARES = (0.3, 0.75)
BODY_HEIGHT = 1.8
HEIGHTS = (0.4, 3.2)
# Nothing comes nearer to the lens than this, metres: the projection's clip at 45 degrees would bend the body.
NEAREST = 1.0
# Standard deviation of the turn about the optical axis, and the largest first radial coefficient (a barrel).
ROLL_DEGREES = 2.0
BARREL = 0.25
# How many see each clip where transfer is measured, and the seed of what they are.
RANDOM_CAMERAS = 4
CAMERA_SEED = 77


def random_camera(world: NDArray[Any], rng: np.random.Generator) -> Camera:
    """A camera that sees the whole of a motion ``(F, 17, 3)`` (world metres, z up), drawn anew for each.

    Uniform: direction, height from the floor, share of the image that the body fills, and where in the image it
    stands; log-uniform: focal length. The lens bends straight lines outwards by up to a wide lens's amount.
    """
    points = world.reshape(-1, 3)
    middle = points.mean(axis=0)
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    focal = float(np.exp(rng.uniform(*np.log(FOCAL_LENGTHS))))
    share = rng.uniform(*BODY_SHARES)
    # A motion that travels is seen from further away, so that it stays in the image.
    extent = max(BODY_HEIGHT, 2.0 * radius)
    distance = max(focal * extent / (share * IMAGE_SIZE[1]), radius + NEAREST)
    azimuth = rng.uniform(0.0, 2.0 * np.pi)
    height = rng.uniform(*HEIGHTS) - middle[2]
    level = np.sqrt(max(distance**2 - height**2, (0.5 * distance) ** 2))
    eye = middle + np.array([level * np.cos(azimuth), level * np.sin(azimuth), height])
    # What is left of the image beside the body, a third of it to either side, is where the body may stand.
    free = (1.0 - share) * IMAGE_SIZE[1] / focal * distance / 3.0
    aim = middle + rng.uniform(-free, free, 3) * np.array([0.7, 0.7, 1.0])
    return look_at_camera(
        eye,
        aim,
        focal,
        *IMAGE_SIZE,
        radial=(-BARREL * rng.uniform(), 0.0, 0.0),
        roll=np.radians(ROLL_DEGREES) * rng.standard_normal(),
        id="random",
    )


def random_cameras(
    world: NDArray[Any], subject: str, key: str, number: int = RANDOM_CAMERAS, seed: int = CAMERA_SEED
) -> list[Camera]:
    """``number`` of `random_camera` for one clip ``(F, 17, 3)``, called ``random 0`` and so on.

    The generator is ``default_rng([seed, crc32("subject/key")])``: a clip's cameras are the same whatever other clips
    there are, and the first ones are the same whatever the number.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{subject}/{key}".encode())])
    return [replace(random_camera(world, rng), id=f"random {index}") for index in range(number)]
