"""Other motion from the motion that there is: ``(B, F, 17, 3)`` metres in the world, z up, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refiner.shape import bone_lengths
from refiner.skeleton import H36M17, LEFT, PARENTS, RIGHT

World = NDArray[np.float64]

LEFT_HIP, RIGHT_HIP = 4, 1
# Spine, head and arms: what hangs on the hip from the spine on.
UPPER_BODY = tuple(range(7, 17))
# For each joint the one whose factor its bone takes, so that left and right bones stay equal.
BONE_PAIRS = np.arange(17)
BONE_PAIRS[list(LEFT)] = list(RIGHT)


def reshape_bodies(world: World, stature: float, bones: float, rng: np.random.Generator) -> World:
    """Other people in the same motion: bone directions kept, bone lengths multiplied.

    ``stature`` and ``bones`` are the spreads (log-normal) of the factor on the whole body and of one on each bone.
    """
    whole = np.exp(stature * rng.standard_normal((len(world), 1, 1)))
    each = np.exp(bones * rng.standard_normal((len(world), 17)))[:, BONE_PAIRS]
    if not (stature or bones):
        return world
    # The pelvis moves with the stature, so that the feet stay near the floor.
    reshaped = world.copy()
    reshaped[:, :, 0] *= whole
    for parent, joint in H36M17.bones:
        bone = world[:, :, joint] - world[:, :, parent]
        reshaped[:, :, joint] = reshaped[:, :, parent] + bone * each[:, None, joint, None] * whole
    return reshaped


def turn(world: World, share: float, rng: np.random.Generator) -> World:
    """A ``share`` of the windows turned about the vertical by an angle of any size."""
    angle = rng.uniform(0.0, 2.0 * np.pi, len(world)) * (rng.random(len(world)) < share)
    return _about_the_vertical(world, angle[:, None])


def reverse(world: World, share: float, rng: np.random.Generator) -> World:
    """A ``share`` of the windows played backwards."""
    backwards = rng.random(len(world)) < share
    return np.where(backwards[:, None, None, None], world[:, ::-1], world)


def recombine(world: World, donors: World, share: float, rng: np.random.Generator) -> World:
    """A ``share`` of the windows with the upper body of ``donors`` on their own hips and legs.

    The donor's bones keep their directions relative to the donor's heading (that of the hips, frame by frame) and take
    the lengths of the window's own person. Poses that nobody has taken, and that no lifter has learnt by heart; after
    the crossover of Li et al., Cascaded deep monocular 3D human pose estimation with evolutionary training data (CVPR
    2020).
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
    """``(B, F)``: the direction of the hips' axis in the horizontal plane, radians."""
    axis = world[:, :, LEFT_HIP] - world[:, :, RIGHT_HIP]
    heading: NDArray[np.float64] = np.arctan2(axis[..., 1], axis[..., 0])
    return heading


def _about_the_vertical(world: World, angle: NDArray[np.float64]) -> World:
    """Turned by ``angle``, ``(B, F)`` or ``(B, 1)`` radians, about the world's z axis."""
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    x, y = world[..., 0], world[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, world[..., 2]], axis=-1)
