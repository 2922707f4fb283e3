"""Random cameras, with random positions, directions and lenses, for training and for tests on unseen cameras."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, look_at_camera

IMAGE_SIZE = (1000, 1000)
# Focal lengths in pixels for an image of 1000 pixels: from a wide phone lens (71 degrees) to a short telephoto lens (35
# degrees).
FOCAL_LENGTHS = (700.0, 1600.0)
# The height of the body in the image, divided by the height of the image.
BODY_SHARES = (0.3, 0.75)
BODY_HEIGHT = 1.8
HEIGHTS = (0.4, 3.2)
# The smallest distance between the lens and a joint in metres. Nearer joints would reach the projection's clip at 45
# degrees, which would distort the body.
NEAREST = 1.0
# The standard deviation of the roll about the optical axis, and the largest magnitude of the first radial distortion
# coefficient (barrel distortion).
ROLL_DEGREES = 2.0
BARREL = 0.25
# The default number of cameras per clip for tests on unseen cameras, and their seed.
RANDOM_CAMERAS = 4
CAMERA_SEED = 77


def random_camera(world: NDArray[Any], rng: np.random.Generator) -> Camera:
    """Draw a random camera that sees a whole motion.

    The distributions are uniform for the direction, the height above the floor, the size of the body in the image and
    its position in the image. The distribution of the focal length is log-uniform. The lens has a random barrel
    distortion, at most as strong as for a wide lens.

    Args:
        world: The motion ``(F, 17, 3)`` in world metres, z up.
        rng: The random generator.
    """
    points = world.reshape(-1, 3)
    middle = points.mean(axis=0)
    radius = float(np.linalg.norm(points - middle, axis=1).max())
    focal = float(np.exp(rng.uniform(*np.log(FOCAL_LENGTHS))))
    share = rng.uniform(*BODY_SHARES)
    # A camera of a motion that travels is further away, so that the motion stays in the image.
    extent = max(BODY_HEIGHT, 2.0 * radius)
    distance = max(focal * extent / (share * IMAGE_SIZE[1]), radius + NEAREST)
    azimuth = rng.uniform(0.0, 2.0 * np.pi)
    height = rng.uniform(*HEIGHTS) - middle[2]
    level = np.sqrt(max(distance**2 - height**2, (0.5 * distance) ** 2))
    eye = middle + np.array([level * np.cos(azimuth), level * np.sin(azimuth), height])
    # The body may stand off the image centre by up to a third of the free part of the image.
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
    """Draw ``number`` cameras with `random_camera` for one clip. Their names are ``random 0``, ``random 1``, ...

    The generator is ``default_rng([seed, crc32("subject/key")])``. The cameras of a clip therefore do not depend on
    other clips, and the first cameras do not depend on ``number``.

    Args:
        world: The motion ``(F, 17, 3)`` in world metres, z up.
        subject: The subject of the clip.
        key: The action key of the clip.
        number: The number of cameras.
        seed: The seed of the generator.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{subject}/{key}".encode())])
    return [replace(random_camera(world, rng), id=f"random {index}") for index in range(number)]
