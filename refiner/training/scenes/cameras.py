"""Cameras for training in batches: any place, direction, lens and image, and an archive's own among them."""

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

# Images as (width, height) over the longer side: webcams and films, old webcams, squares, and both upright.
SHAPES = ((1.0, 0.5625), (1.0, 0.75), (1.0, 1.0), (0.75, 1.0), (0.5625, 1.0))
# The longer side in pixels. All sizes below are of such an image; other resolutions look the same to the network.
LONGER_SIDE = 1000.0
# The lens is inverted or bent only inside of 45 degrees, as in `refiner.camera.Camera`.
WIDEST = 1.0
# Nothing comes nearer to the lens than this, metres.
NEAREST = 0.5


@dataclass(frozen=True, eq=False)
class Views:
    """Cameras of a batch: ``rotation`` ``(B, 3, 3)`` and ``eye`` ``(B, 3)`` metres in the world; ``size``, ``focal``
    and ``centre`` ``(B, 2)`` pixels; ``radial`` ``(B, 3)``, ``tangential`` ``(B, 2)``."""

    rotation: Tensor
    eye: Tensor
    size: Tensor
    focal: Tensor
    centre: Tensor
    radial: Tensor
    tangential: Tensor

    def to_camera(self, world: Tensor) -> Tensor:
        """``(B, T, J, 3)`` metres in the world -> camera axes."""
        return torch.einsum("bij,btkj->btki", self.rotation, world - self.eye[:, None, None])

    def project(self, points: Tensor) -> Tensor:
        """Camera points ``(B, T, J, 3)`` -> pixels ``(B, T, J, 2)``, as `refiner.camera.Camera.project`."""
        x = (points[..., :2] / points[..., 2:].clamp(min=0.1)).clamp(-WIDEST, WIDEST)
        r2 = x.square().sum(dim=-1, keepdim=True)
        k1, k2, k3 = (self.radial[:, None, None, None, index] for index in range(3))
        tilt = (self.tangential[:, None, None] * x).sum(dim=-1, keepdim=True)
        factor = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)) + tilt
        bent = x * factor + self.tangential[:, None, None] * r2
        return self.focal[:, None, None] * bent + self.centre[:, None, None]

    def where(self, chosen: Tensor, other: Views) -> Views:
        """These cameras where ``chosen`` ``(B,)``, the other ones elsewhere."""
        pairs = zip(self.fields(), other.fields(), strict=True)
        return Views(*(torch.where(chosen.reshape(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in pairs))

    def fields(self) -> tuple[Tensor, ...]:
        """All tensors, in their order."""
        return (self.rotation, self.eye, self.size, self.focal, self.centre, self.radial, self.tangential)


class Rigs:
    """The fixed cameras before every clip ``rigs``; a clip may have none."""

    def __init__(self, rigs: Sequence[Sequence[Camera]], device: torch.device) -> None:
        # Clips of a person share one rig: each camera is stored once.
        places: dict[int, int] = {}
        cameras: list[Camera] = []
        for camera in (camera for rig in rigs for camera in rig):
            if id(camera) not in places:
                places[id(camera)] = len(cameras)
                cameras.append(camera)
        most = max((len(rig) for rig in rigs), default=0)
        table = [[places[id(camera)] for camera in rig] + [0] * (most - len(rig)) for rig in rigs]
        self._table = torch.tensor(table, dtype=torch.long, device=device).reshape(len(rigs), most)
        self._numbers = torch.tensor([len(rig) for rig in rigs], device=device)
        self._views = _views_of(cameras, device) if cameras else None

    def draw(self, draws: Draws, clips: Tensor) -> tuple[Tensor, Views] | None:
        """For each window one of its clip's cameras, ``clips`` ``(B,)``: which windows have one ``(B,)``, and the
        cameras. None where no clip has any."""
        if self._views is None:
            return None
        number = self._numbers[clips]
        place = (draws.uniform(len(clips)) * number).long().clamp(min=0)
        place = torch.minimum(place, (number - 1).clamp(min=0))
        chosen = self._table[clips, place]
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
    """`SHAPES` and the vertical on the device, made once: a copy from the host waits for what the device does."""
    return torch.tensor(SHAPES, device=device), torch.tensor([0.0, 0.0, 1.0], device=device)


def random_views(draws: Draws, world: Tensor, config: SceneConfig) -> Views:
    """A camera of its own for each window ``(B, T, 17, 3)``.

    Log-uniform: focal length. Uniform: how much of the image's height the body takes, direction, height above the floor
    (or, for a share of them, the pitch), and where in the image the person stands. A share of the cameras is so
    near that the image ends at the knees or the hips. The roll has two spreads: held level, and held anyhow.
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
    # What is left of the image beside the body is where the person may stand.
    extent_px = (focal * 2 * radius / distance)[:, None]
    spare = ((size - extent_px).clamp(min=0.0) / 2 + 0.02 * size) * config.off_centre
    offset = spare * (2 * draws.uniform(batch, 2) - 1) / focal[:, None]
    spread = torch.where(draws.chance(0.5, batch), config.roll[0], config.roll[1])
    rotation = _looking(-toward, offset, torch.deg2rad(spread * draws.normal(batch)))
    bent = draws.chance(0.5, batch)
    barrel = torch.where(bent, draws.uniform(batch, low=-config.barrel, high=0.2 * config.barrel), 0.0)
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


def _looking(forward: Tensor, offset: Tensor, roll: Tensor) -> Tensor:
    """Rotations ``(B, 3, 3)`` of cameras that see the direction ``forward`` at the ray ``offset`` ``(B, 2)``, turned by
    ``roll`` about their axis."""
    _, up = _constants(forward.device)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    axis = torch.nn.functional.normalize(forward - offset[:, :1] * right - offset[:, 1:] * down, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(axis, up.expand_as(axis)), dim=-1)
    down = torch.linalg.cross(axis, right)
    cos, sin = roll.cos()[:, None], roll.sin()[:, None]
    return torch.stack([cos * right + sin * down, cos * down - sin * right, axis], dim=1)


def stated_focal_length(draws: Draws, views: Views, config: SceneConfig) -> Tensor:
    """The focal length ``(B,)`` that the user states: the true one, a wrong one, or the default of the image's size."""
    batch = len(views.size)
    true = views.focal.mean(dim=-1)
    wrong = true * (config.focal_error * draws.normal(batch)).exp()
    guessed = views.size.amax(dim=-1)
    kind = draws.uniform(batch)
    stated = torch.where(kind < config.wrong_focal, wrong, true)
    return torch.where(kind > 1.0 - config.guessed_focal, guessed, stated)
