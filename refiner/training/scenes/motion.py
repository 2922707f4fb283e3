"""Windows of motion from many clips, in batches: cut, reversed, recombined, with other bodies, rotated.

All poses here are ``(B, T, 17, 3)`` metres in the world, with z up and the floor at 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.camera import Camera
from refiner.errors import ConfigError
from refiner.skeleton import H36M17, LEFT, PARENTS, RIGHT
from refiner.training.config import SceneConfig
from refiner.training.scenes.cameras import Rigs
from refiner.training.scenes.draws import Draws

LEFT_HIP, RIGHT_HIP, THORAX = 4, 1, 8
FIRST_OF_UPPER_BODY = 7
# The bones that add up to the stature, by the joint at their end: shin, thigh, trunk, neck and head.
STANDING = (3, 2, 7, 8, 9, 10)
# Metres from the ankle to the sole and from the head joint to the crown, which the stature includes.
SOLE_AND_CROWN = 0.09
SYNTHETIC_PEOPLE, SYNTHETIC_SEED, SYNTHETIC_FRAMES = 24, 1000, 400


@dataclass(frozen=True, eq=False)
class MotionClip:
    """One continuous clip.

    Attributes:
        subject: the person.
        action: the action.
        world: poses in the world, ``(F, 17, 3)`` metres.
        weight: how often the clip is drawn, relative to clips of other archives.
        cameras: the fixed cameras that recorded this person; may be empty.
    """

    subject: str
    action: str
    world: NDArray[Any] = field(repr=False)
    weight: float = 1.0
    cameras: tuple[Camera, ...] = field(default=(), repr=False)


class MotionBank:
    """All clips of a training set on one device.

    A subject's action counts by the square root of its frames, times its weight. So the 22,000 frames of one person's
    salsa do not outweigh eight other people, and 200 frames of walking are not repeated as often as those.

    Args:
        clips: the clips that windows are cut from.
        frames: T.
        stride: a window takes every ``stride``-th frame. If a clip is too short for that, a smaller stride is used.
        device: the device of the poses.

    Raises:
        ConfigError: no clip has ``frames`` frames.
    """

    def __init__(self, clips: Sequence[MotionClip], frames: int, stride: int, device: torch.device | str) -> None:
        self.frames, self.stride, self.device = frames, stride, torch.device(device)
        usable = [clip for clip in clips if len(clip.world) >= frames]
        if not usable:
            raise ConfigError(f"no clip has the {frames} frames of a window")
        share = group_share(usable)
        lengths = np.array([len(clip.world) for clip in usable])
        self._cumulative = torch.from_numpy(np.cumsum(share) / share.sum()).to(self.device)
        self._lengths = torch.from_numpy(lengths).to(self.device)
        self._starts = torch.from_numpy(np.cumsum(lengths) - lengths).to(self.device)
        self._rigs = Rigs([clip.cameras for clip in usable], self.device)
        poses = np.concatenate([np.asarray(clip.world, np.float32) for clip in usable])
        self._poses = torch.from_numpy(poses).to(self.device)
        self._skeleton = Skeleton(self.device)

    @property
    def rigs(self) -> Rigs:
        """The fixed cameras of every clip."""
        return self._rigs

    def draw(self, draws: Draws, batch: int, config: SceneConfig) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the windows of a step.

        Args:
            draws: the random numbers.
            batch: B.
            config: shares and ranges.

        Returns:
            Poses ``(B, T, 17, 3)``, the index of each window's clip ``(B,)``, and its stride ``(B,)``.
        """
        world, chosen, stride = self._cut(draws, batch, config.other_strides)
        backwards = draws.chance(config.reverse, batch)[:, None, None, None]
        world = torch.where(backwards, world.flip(1), world)
        skeleton = self._skeleton
        root, bones = world[:, :, 0], skeleton.bones_of(world)
        if config.recombine > 0:
            donors, _, _ = self._cut(draws, batch, config.other_strides)
            mixed = skeleton.upper_body_of(donors, world, bones)
            bones = torch.where(draws.chance(config.recombine, batch)[:, None, None, None], mixed, bones)
        factors = skeleton.body_factors(draws, bones, config)
        # The pelvis moves with the legs, so that the feet stay near the floor.
        root = root * factors[:, None, 2:3]
        world = skeleton.joints_of(root, bones * factors[:, None, :, None])
        return turn(world, draws.uniform(batch, high=2 * torch.pi)), chosen, stride

    def _cut(self, draws: Draws, batch: int, other_strides: float) -> tuple[Tensor, Tensor, Tensor]:
        chosen = draws.choice(self._cumulative, batch)
        random_stride = 1 + (draws.uniform(batch) * self.stride).long().clamp(max=self.stride - 1)
        stride = torch.where(
            draws.chance(other_strides, batch), random_stride, torch.full_like(random_stride, self.stride)
        )
        # A clip that is too short for the stride gets the longest stride that fits.
        longest = torch.div(self._lengths[chosen] - 1, max(self.frames - 1, 1), rounding_mode="floor").clamp(min=1)
        stride = torch.minimum(stride, longest)
        room = self._lengths[chosen] - (self.frames - 1) * stride
        start = self._starts[chosen] + (draws.uniform(batch) * room).long().clamp(min=0)
        start = torch.minimum(start, self._starts[chosen] + room - 1)
        indices = start[:, None] + stride[:, None] * torch.arange(self.frames, device=self.device)
        return self._poses[indices], chosen, stride


class Skeleton:
    """Converts joints to bones and back, each with one product."""

    def __init__(self, device: torch.device) -> None:
        parents = torch.tensor([max(parent, 0) for parent in PARENTS], device=device)
        self._parents = parents
        # [17, 17]: 1 where the bone that ends at the column's joint lies between the root and the row's joint.
        chain = np.zeros((17, 17), np.float32)
        for joint in range(17):
            ancestor = joint
            while ancestor != 0:
                chain[joint, ancestor] = 1.0
                ancestor = PARENTS[ancestor]
        self._chain = torch.from_numpy(chain).to(device)
        pairs = np.arange(17)
        pairs[list(LEFT)] = list(RIGHT)
        # For each joint, the joint whose factor its bone takes; left and right bones so have equal lengths.
        self._pairs = torch.from_numpy(pairs).to(device)
        # The limb of each bone, by the joint at its end: 0 legs, 1 trunk (with the root), 2 arms.
        self._limb = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2], device=device)
        self._standing = torch.tensor(STANDING, device=device)
        assert all(parent < joint for parent, joint in H36M17.bones)

    def bones_of(self, world: Tensor) -> Tensor:
        """Joints ``(..., 17, 3)`` -> the vectors to each joint from its parent; the root's vector is 0."""
        return world - world[..., self._parents, :]

    def joints_of(self, root: Tensor, bones: Tensor) -> Tensor:
        """The root ``(..., 3)`` and the bones ``(..., 17, 3)`` -> joints ``(..., 17, 3)``."""
        return root[..., None, :] + torch.einsum("jk,...kc->...jc", self._chain, bones)

    def upper_body_of(self, donors: Tensor, world: Tensor, bones: Tensor) -> Tensor:
        """Replace the spine, head and arms of ``bones`` by the donors', scaled to the person's own bone lengths.

        The donor's bones keep their directions relative to the donor's heading, frame by frame.

        Args:
            donors: poses of the donors, ``(B, T, 17, 3)`` metres.
            world: the person's own poses, of the same shape.
            bones: the person's own bones, of the same shape.

        Returns:
            The new bones, ``(B, T, 17, 3)`` metres.

        Reference:
            The crossover of Li et al., Cascaded deep monocular 3D human pose estimation with evolutionary training data
            (CVPR 2020).
        """
        borrowed = turn(self.bones_of(donors), heading(world) - heading(donors))
        length = bones.norm(dim=-1, keepdim=True)
        scaled = borrowed * (length / borrowed.norm(dim=-1, keepdim=True).clamp(min=1e-6))
        return torch.cat([bones[..., :FIRST_OF_UPPER_BODY, :], scaled[..., FIRST_OF_UPPER_BODY:, :]], dim=-2)

    def body_factors(self, draws: Draws, bones: Tensor, config: SceneConfig) -> Tensor:
        """Draw factors of the bone lengths ``(B, 17)``: a new stature and new proportions, alike for left and right."""
        batch = len(bones)
        low, high = config.stature
        wanted = (0.5 * (low + high) + 0.25 * (high - low) * draws.normal(batch)).clamp(low, high)
        each = (config.bones * draws.normal(batch, 17)).exp()[:, self._pairs]
        limbs = (config.bones * draws.normal(batch, 3)).exp()  # legs, trunk, arms
        proportions: Tensor = each * limbs[:, self._limb]
        length = bones[:, 0].norm(dim=-1) * proportions
        own = length[:, self._standing].sum(dim=-1)
        factors: Tensor = proportions * ((wanted - SOLE_AND_CROWN) / own)[:, None]
        return factors


def moved_in_body(points: Tensor, offset: Tensor) -> Tensor:
    """Move joints by offsets in the body's own axes.

    Args:
        points: joints, ``(B, T, 17, 3)``.
        offset: ``(B, 17, 3)``: to the body's left, up along the trunk, and perpendicular to both.

    Returns:
        The moved joints, ``(B, T, 17, 3)``.
    """
    left = torch.nn.functional.normalize(points[:, :, LEFT_HIP] - points[:, :, RIGHT_HIP], dim=-1)
    up = points[:, :, THORAX] - points[:, :, 0]
    up = torch.nn.functional.normalize(up - (up * left).sum(dim=-1, keepdim=True) * left, dim=-1)
    axes = torch.stack([left, up, torch.linalg.cross(left, up)], dim=-2)  # [B, T, 3 axes, 3]
    return points + torch.einsum("bjk,btkc->btjc", offset, axes)


def heading(world: Tensor) -> Tensor:
    """The direction of the hips' axis in the horizontal plane, ``(B, T)`` radians."""
    axis = world[:, :, LEFT_HIP] - world[:, :, RIGHT_HIP]
    return torch.atan2(axis[..., 1], axis[..., 0])


def turn(world: Tensor, angle: Tensor) -> Tensor:
    """Rotate by ``angle``, ``(B,)`` or ``(B, T)`` radians, about the world's z axis."""
    angle = angle.reshape(*angle.shape, *(1,) * (world.dim() - 1 - angle.dim()))
    cos, sin = angle.cos(), angle.sin()
    x, y, z = world.unbind(dim=-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)


def synthetic_clips(others: Sequence[MotionClip], share: float) -> list[MotionClip]:
    """Clips of the built-in synthetic motion, weighted to make up about ``share`` of the windows with ``others``."""
    from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion

    synthetic = [
        MotionClip(f"synthetic {person}", action, synthetic_motion(SYNTHETIC_SEED + person, action, SYNTHETIC_FRAMES))
        for person in range(SYNTHETIC_PEOPLE)
        for action in SYNTHETIC_ACTIONS
    ]
    weight = share / (1.0 - share) * group_share(others).sum() / group_share(synthetic).sum()
    return [replace(clip, weight=float(weight)) for clip in synthetic]


def group_share(clips: Sequence[MotionClip]) -> NDArray[np.float64]:
    """How often each clip is drawn, not normalised.

    A subject's action counts by the square root of its frames. Each of its clips gets its part of that, times its own
    weight.
    """
    frames: dict[tuple[str, str], float] = defaultdict(float)
    for clip in clips:
        frames[clip.subject, clip.action] += len(clip.world)
    return np.array([clip.weight * len(clip.world) * frames[clip.subject, clip.action] ** -0.5 for clip in clips])
