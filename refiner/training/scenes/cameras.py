"""Cameras for training, in batches: random position, direction, lens and image, or the archive's own cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.camera import Camera
from refiner.training.config import SceneConfig
from refiner.training.scenes.draws import Draws

# Width and height of images in units of the longer side: 16:9, 4:3, square, and the first two upright.
SHAPES = ((1.0, 0.5625), (1.0, 0.75), (1.0, 1.0), (0.75, 1.0), (0.5625, 1.0))
# The longer side in pixels. All sizes below refer to such an image, since rays do not depend on the resolution.
LONGER_SIDE = 1000.0
# Largest |x / z| and |y / z|: the lens distortion is defined up to 45 degrees, as in `refiner.camera.Camera`.
WIDEST = 1.0
# Smallest distance of the body to the lens, metres.
NEAREST = 0.5


@dataclass(frozen=True, eq=False)
class Views:
    """The cameras of a batch.

    Attributes:
        rotation: from world axes to camera axes, ``(B, 3, 3)``.
        eye: position in the world, ``(B, 3)`` metres.
        size: width and height of the image, ``(B, 2)`` pixels.
        focal: focal lengths, ``(B, 2)`` pixels.
        centre: principal point, ``(B, 2)`` pixels.
        radial: coefficients of the radial distortion, ``(B, 3)``.
        tangential: coefficients of the tangential distortion, ``(B, 2)``.
    """

    rotation: Tensor
    eye: Tensor
    size: Tensor
    focal: Tensor
    centre: Tensor
    radial: Tensor
    tangential: Tensor

    def to_camera(self, world: Tensor) -> Tensor:
        """Transform points ``(B, T, J, 3)`` from the world to camera axes, metres."""
        return torch.einsum("bij,btkj->btki", self.rotation, world - self.eye[:, None, None])

    def project(self, points: Tensor) -> Tensor:
        """Project camera points ``(B, T, J, 3)`` to pixels ``(B, T, J, 2)``, like `refiner.camera.Camera.project`."""
        x = (points[..., :2] / points[..., 2:].clamp(min=0.1)).clamp(-WIDEST, WIDEST)
        r2 = x.square().sum(dim=-1, keepdim=True)
        k1, k2, k3 = (self.radial[:, None, None, None, index] for index in range(3))
        tilt = (self.tangential[:, None, None] * x).sum(dim=-1, keepdim=True)
        factor = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)) + tilt
        distorted = x * factor + self.tangential[:, None, None] * r2
        return self.focal[:, None, None] * distorted + self.centre[:, None, None]

    def where(self, chosen: Tensor, other: Views) -> Views:
        """Choose these cameras where ``chosen`` ``(B,)`` is true, the other cameras elsewhere."""
        pairs = zip(self.fields(), other.fields(), strict=True)
        return Views(*(torch.where(chosen.reshape(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in pairs))

    def fields(self) -> tuple[Tensor, ...]:
        """All tensors in the order of the attributes."""
        return (self.rotation, self.eye, self.size, self.focal, self.centre, self.radial, self.tangential)


class Rigs:
    """The fixed cameras of every clip; a clip may have none.

    Args:
        rigs: the cameras of each clip.
        device: the device of the tensors.
    """

    def __init__(self, rigs: Sequence[Sequence[Camera]], device: torch.device) -> None:
        # Clips of a person share one rig: each camera is stored once.
        indices: dict[int, int] = {}
        cameras: list[Camera] = []
        for camera in (camera for rig in rigs for camera in rig):
            if id(camera) not in indices:
                indices[id(camera)] = len(cameras)
                cameras.append(camera)
        most = max((len(rig) for rig in rigs), default=0)
        table = [[indices[id(camera)] for camera in rig] + [0] * (most - len(rig)) for rig in rigs]
        self._table = torch.tensor(table, dtype=torch.long, device=device).reshape(len(rigs), most)
        self._numbers = torch.tensor([len(rig) for rig in rigs], device=device)
        self._views = _views_of(cameras, device) if cameras else None

    def draw(self, draws: Draws, clips: Tensor) -> tuple[Tensor, Views] | None:
        """Draw one of the clip's cameras for each window.

        Args:
            draws: the random numbers.
            clips: the index of each window's clip, ``(B,)``.

        Returns:
            Which windows have a camera ``(B,)``, and the cameras. None if no clip has any.
        """
        if self._views is None:
            return None
        number = self._numbers[clips]
        index = (draws.uniform(len(clips)) * number).long().clamp(min=0)
        index = torch.minimum(index, (number - 1).clamp(min=0))
        chosen = self._table[clips, index]
        return number > 0, Views(*(field[chosen] for field in self._views.fields()))


def _views_of(cameras: Sequence[Camera], device: torch.device) -> Views:
    def stacked(values: list[NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.stack(values).astype(np.float32)).to(device)

    return Views(
        rotation=stacked([camera.rotation for camera in cameras]),
        eye=stacked([camera.position for camera in cameras]),
        size=stacked([np.array(camera.image_size) for camera in cameras]),
        focal=stacked([camera.focal_length for camera in cameras]),
        centre=stacked([camera.center for camera in cameras]),
        radial=stacked([camera.radial for camera in cameras]),
        tangential=stacked([camera.tangential for camera in cameras]),
    )


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """`SHAPES` and the vertical on the device. They are cached, since a copy from the host waits for the device."""
    return torch.tensor(SHAPES, device=device), torch.tensor([0.0, 0.0, 1.0], device=device)


def random_views(draws: Draws, world: Tensor, config: SceneConfig) -> Views:
    """Draw a random camera for each window of poses.

    The focal length is log-uniform. Uniform are the share of the image's height that the body takes, the direction, the
    height above the floor (or, for a share of the cameras, the pitch) and the person's position in the image. A share
    of the cameras is so near that the image ends at the knees or hips. The roll has two spreads: one for cameras that
    are held level, and one for all others.

    Args:
        draws: the random numbers.
        world: poses in the world, ``(B, T, 17, 3)`` metres.
        config: the shares and ranges.
    """
    batch = len(world)
    shapes, up = _constants(world.device)
    shape = shapes[(draws.uniform(batch) * len(SHAPES)).long().clamp(max=len(SHAPES) - 1)]
    size = shape * LONGER_SIDE
    focal = draws.log_uniform(batch, low=config.focal_length[0], high=config.focal_length[1]) * LONGER_SIDE
    flat = world.flatten(1, 2)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    middle = 0.5 * (low + high)
    radius = (flat - middle[:, None]).norm(dim=-1).amax(dim=1)
    extent = (high - low).amax(dim=-1).clamp(min=0.8)
    share = draws.uniform(batch, low=config.body_share[0], high=config.body_share[1])
    near = draws.chance(config.cropped, batch)
    share = torch.where(near, draws.uniform(batch, low=1.0, high=2.2), share)
    # A near camera looks at the head and the chest.
    aim = middle + torch.where(near, 0.3 * (high[:, 2] - low[:, 2]), 0.0)[:, None] * up
    distance = torch.maximum(focal * extent / (share * size[:, 1]), torch.where(near, 0.4, 1.0) * radius + NEAREST)
    height = draws.uniform(batch, low=config.height[0], high=config.height[1]) - aim[:, 2]
    lowest, highest = (float(np.sin(np.radians(angle))) for angle in config.pitch)
    sine = (height / distance).clamp(lowest, highest)
    free = draws.chance(config.free_pitch, batch)
    sine = torch.where(free, draws.uniform(batch, low=lowest, high=highest), sine)
    azimuth = draws.uniform(batch, high=2 * torch.pi)
    level = (1 - sine.square()).sqrt()
    toward = torch.stack([level * azimuth.cos(), level * azimuth.sin(), sine], dim=-1)
    eye = aim + distance[:, None] * toward
    # The person may be anywhere in the image as long as the body is inside.
    extent_px = (focal * 2 * radius / distance)[:, None]
    room = ((size - extent_px).clamp(min=0.0) / 2 + 0.02 * size) * config.off_centre
    offset = room * (2 * draws.uniform(batch, 2) - 1) / focal[:, None]
    spread = torch.where(draws.chance(0.5, batch), config.roll[0], config.roll[1])
    rotation = _rotations_towards(-toward, offset, torch.deg2rad(spread * draws.normal(batch)))
    has_distortion = draws.chance(0.5, batch)
    barrel = torch.where(has_distortion, draws.uniform(batch, low=-config.barrel, high=0.2 * config.barrel), 0.0)
    zero = torch.zeros_like(barrel)
    decentred = torch.where(draws.chance(0.3, batch), 0.015, 0.0)[:, None] * draws.normal(batch, 2)
    return Views(
        rotation=rotation,
        eye=eye,
        size=size,
        focal=focal[:, None].expand(batch, 2),
        centre=size / 2 + decentred * size,
        radial=torch.stack([barrel, zero, zero], dim=-1),
        tangential=torch.zeros(batch, 2, device=world.device),
    )


def _rotations_towards(forward: Tensor, offset: Tensor, roll: Tensor) -> Tensor:
    """Rotations from world to camera axes, ``(B, 3, 3)``.

    Args:
        forward: the direction in the world ``(B, 3)`` that the camera sees at ``offset``.
        offset: the ray x / z, y / z of that direction, ``(B, 2)``.
        roll: rotation about the camera's axis, ``(B,)`` radians.
    """
    _, up = _constants(forward.device)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    axis = torch.nn.functional.normalize(forward - offset[:, :1] * right - offset[:, 1:] * down, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(axis, up.expand_as(axis)), dim=-1)
    down = torch.linalg.cross(axis, right)
    cos, sin = roll.cos()[:, None], roll.sin()[:, None]
    return torch.stack([cos * right + sin * down, cos * down - sin * right, axis], dim=1)


def stated_focal_length(draws: Draws, views: Views, config: SceneConfig) -> Tensor:
    """The focal length that the user states, ``(B,)`` pixels: the true one, a wrong one, or the longer side."""
    batch = len(views.size)
    true = views.focal.mean(dim=-1)
    wrong = true * (config.focal_error * draws.normal(batch)).exp()
    guessed = views.size.amax(dim=-1)
    kind = draws.uniform(batch)
    stated = torch.where(kind < config.wrong_focal, wrong, true)
    return torch.where(kind > 1.0 - config.guessed_focal, guessed, stated)
