"""Augmentation of motion: ``(B, F, 17, 3)`` metres in the world, z up, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.shape import bone_lengths
from refiner.skeleton import H36M17, LEFT, PARENTS, RIGHT

World = NDArray[np.float64]

LEFT_HIP, RIGHT_HIP = 4, 1
# Spine, head and arms.
UPPER_BODY = tuple(range(7, 17))
# For each joint, the joint whose factor its bone takes; left and right bones so have equal lengths.
BONE_PAIRS = np.arange(17)
BONE_PAIRS[list(LEFT)] = list(RIGHT)


def reshape_bodies(world: World, stature: float, bones: float, rng: np.random.Generator) -> World:
    """The same motion with other bodies: bones keep their directions and change their lengths.

    Args:
        world: the windows.
        stature: log-normal spread of a factor on the whole body.
        bones: log-normal spread of a factor on each bone.
        rng: draws the factors.
    """
    whole = np.exp(stature * rng.standard_normal((len(world), 1, 1)))
    per_bone = np.exp(bones * rng.standard_normal((len(world), 17)))[:, BONE_PAIRS]
    if not (stature or bones):
        return world
    # The pelvis moves with the stature, so that the feet stay near the floor.
    reshaped = world.copy()
    reshaped[:, :, 0] *= whole
    for parent, joint in H36M17.bones:
        bone = world[:, :, joint] - world[:, :, parent]
        reshaped[:, :, joint] = reshaped[:, :, parent] + bone * per_bone[:, None, joint, None] * whole
    return reshaped


def turn(world: World, share: float, rng: np.random.Generator) -> World:
    """Rotate a ``share`` of the windows about the vertical by a random angle."""
    angle = rng.uniform(0.0, 2.0 * np.pi, len(world)) * (rng.random(len(world)) < share)
    return _about_the_vertical(world, angle[:, None])


def reverse(world: World, share: float, rng: np.random.Generator) -> World:
    """Play a ``share`` of the windows backwards."""
    backwards = rng.random(len(world)) < share
    return np.where(backwards[:, None, None, None], world[:, ::-1], world)


def recombine(world: World, donors: World, share: float, rng: np.random.Generator) -> World:
    """Give a ``share`` of the windows the upper body of ``donors``, on their own hips and legs.

    The donor's bones keep their directions relative to the donor's heading (the direction of the hips, frame by frame)
    and take the lengths of the window's own person. The results are poses that no person has taken and that no lifter
    has memorised.

    Reference:
        The crossover of Li et al., Cascaded deep monocular 3D human pose estimation with evolutionary training data
        (CVPR 2020).
    """
    chosen = np.flatnonzero(rng.random(len(world)) < share)
    combined = world.copy()
    own = world[chosen]
    borrowed = _about_the_vertical(donors[chosen], _heading(own) - _heading(donors[chosen]))
    factor = bone_lengths(own) / np.maximum(bone_lengths(borrowed), 1e-9)
    for joint in UPPER_BODY:
        bone = borrowed[:, :, joint] - borrowed[:, :, PARENTS[joint]]
        combined[chosen, :, joint] = combined[chosen, :, PARENTS[joint]] + bone * factor[:, :, joint, None]
    return combined


def _heading(world: World) -> NDArray[np.float64]:
    """The direction of the hips' axis in the horizontal plane, ``(B, F)`` radians."""
    axis = world[:, :, LEFT_HIP] - world[:, :, RIGHT_HIP]
    heading: NDArray[np.float64] = np.arctan2(axis[..., 1], axis[..., 0])
    return heading


def _about_the_vertical(world: World, angle: NDArray[np.float64]) -> World:
    """Rotate by ``angle``, ``(B, F)`` or ``(B, 1)`` radians, about the world's z axis."""
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    x, y = world[..., 0], world[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, world[..., 2]], axis=-1)
