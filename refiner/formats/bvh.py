"""BVH, the skeleton files of animation: Blender, Maya and others open them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import NonFiniteError, ShapeError, UsageError
from refiner.files import atomic_write_text
from refiner.skeleton import H36M17

Array = NDArray[np.float64]

# The axes of BVH: x to the person's left, y upwards, z to the front; a camera's are x right, y down, z away.
FROM_CAMERA = np.array([1.0, -1.0, -1.0])
CENTIMETRES = 100.0
EULER_ORDER = "ZXY"
# Where each bone points in the rest pose, arms to the sides.
_UP, _DOWN, _LEFT, _RIGHT = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)
REST = {
    "RHip": _RIGHT,
    "LHip": _LEFT,
    "LShoulder": _LEFT,
    "LElbow": _LEFT,
    "LWrist": _LEFT,
    "RShoulder": _RIGHT,
    "RElbow": _RIGHT,
    "RWrist": _RIGHT,
    "RKnee": _DOWN,
    "RFoot": _DOWN,
    "LKnee": _DOWN,
    "LFoot": _DOWN,
}
CHILDREN = {joint: [child for parent, child in H36M17.bones if parent == joint] for joint in range(H36M17.joints)}
MEAN_SHAPE_ROUNDS = 5
NAMES = tuple({"Neck/Nose": "Neck"}.get(name, name) for name in H36M17.joint_names)


def _from_the_root() -> list[int]:
    """All joints, each behind its parent, in the order of the file."""
    order, waiting = [], [0]
    while waiting:
        joint = waiting.pop()
        order.append(joint)
        waiting += CHILDREN[joint][::-1]
    return order


ORDER = _from_the_root()


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A body of fixed bones.

    Attributes:
        offsets: ``(17, 3)`` metres, each joint from its parent in the rest pose; the root's are 0.
    """

    offsets: Array

    @classmethod
    def of_poses(cls, pose: Array) -> Skeleton:
        """The bones have the mean lengths of ``(F, 17, 3)`` poses, hips and shoulders their mean shape."""
        offsets = np.zeros((H36M17.joints, 3))
        for parent, joint in H36M17.bones:
            length = np.linalg.norm(pose[:, joint] - pose[:, parent], axis=-1).mean()
            offsets[joint] = length * np.array(REST.get(H36M17.joint_names[joint], _UP))
        for joint, below in CHILDREN.items():
            if len(below) > 1:
                wanted = pose[:, below] - pose[:, joint : joint + 1]
                for _ in range(MEAN_SHAPE_ROUNDS):
                    turned = _closest(offsets[below], wanted)
                    offsets[below] = np.einsum("fji,fkj->fki", turned, wanted).mean(axis=0)
        return cls(offsets)

    def rotations(self, pose: Array) -> Array:
        """The joints' rotations in the world that bring the rest pose closest to ``(F, 17, 3)`` poses.

        A joint with one child turns the shortest way. One with several takes the rotation with the least squared error
        (Kabsch). Returns ``(F, 17, 3, 3)``; a joint without children has its parent's rotation.
        """
        world = np.tile(np.eye(3), (len(pose), H36M17.joints, 1, 1))
        for joint in ORDER:
            below, parent = CHILDREN[joint], H36M17.parents[joint]
            before = world[:, parent] if parent >= 0 else world[:, joint]
            if not below:
                world[:, joint] = before
                continue
            wanted = pose[:, below] - pose[:, joint : joint + 1]  # [F, children, 3]
            if len(below) > 1:
                world[:, joint] = _closest(self.offsets[below], wanted)
                continue
            # From where the parent's rotation leaves the bone, the shortest way to where it should point.
            given = np.einsum("fij,j->fi", before, self.offsets[below[0]])
            world[:, joint] = _shortest(given, wanted[:, 0]) @ before
        return world

    def positions(self, root: Array, world: Array) -> Array:
        """``(F, 3)`` of the root and ``(F, 17, 3, 3)`` rotations -> ``(F, 17, 3)`` joints."""
        joints = np.zeros((len(root), H36M17.joints, 3))
        joints[:, 0] = root
        for parent, joint in sorted(H36M17.bones, key=lambda bone: bone[1]):
            joints[:, joint] = joints[:, parent] + np.einsum("fij,j->fi", world[:, parent], self.offsets[joint])
        return joints


def write_bvh(path: str | os.PathLike[str], pose_3d: ArrayLike, fps: float) -> float:
    """Write poses as the motion of a skeleton with fixed bones, in centimetres.

    Args:
        path: the file; it is replaced as a whole.
        pose_3d: ``(F, 17, 3)`` metres in Human3.6M's joints and camera axes. In the file y points upwards.
        fps: frames/s.

    Returns:
        The mean distance in metres of the joints that the file describes from those of ``pose_3d``. It is 0 where the
        bones keep their lengths and the hips and shoulders their shape (``pool_shape`` gives such poses).

    Raises:
        ShapeError: another shape. NonFiniteError: NaN in the poses. UsageError: a frame rate that is not above 0.
    """
    from scipy.spatial.transform import Rotation

    pose = np.asarray(pose_3d, dtype=np.float64)
    if pose.ndim != 3 or pose.shape[1:] != (H36M17.joints, 3) or not len(pose):
        raise ShapeError(f"pose_3d has shape {pose.shape}, expected (frames, {H36M17.joints}, 3)")
    if not np.isfinite(pose).all():
        raise NonFiniteError("pose_3d holds NaN or infinite values; BVH has no missing joints")
    if not fps > 0 or not np.isfinite(fps):
        raise UsageError(f"fps is {fps}, expected frames per second above 0")
    if not (np.ptp(pose, axis=1) > 0).all(axis=-1).any():
        raise ShapeError("pose_3d has all joints in one place; BVH needs bones")
    pose = pose * FROM_CAMERA
    skeleton = Skeleton.of_poses(pose)
    world = skeleton.rotations(pose)
    local = world.copy()
    for parent, joint in H36M17.bones:
        local[:, joint] = np.swapaxes(world[:, parent], -1, -2) @ world[:, joint]
    angles = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_euler(EULER_ORDER, degrees=True)
    order = [joint for joint in ORDER if CHILDREN[joint]]
    lines = ["HIERARCHY", *_tree(0, skeleton.offsets * CENTIMETRES, 0)]
    lines += ["MOTION", f"Frames: {len(pose)}", f"Frame Time: {1.0 / fps:.8f}"]
    columns = angles.reshape(len(pose), H36M17.joints, 3)[:, order].reshape(len(pose), -1)
    for place, row in zip(pose[:, 0] * CENTIMETRES, columns, strict=True):
        lines.append(" ".join(f"{value:.5f}" for value in (*place, *row)))
    atomic_write_text(Path(path), "\n".join(lines) + "\n")
    return float(np.linalg.norm(skeleton.positions(pose[:, 0], world) - pose, axis=-1).mean())


def _tree(joint: int, offsets: Array, depth: int) -> list[str]:
    """The lines of a joint and of all below it."""
    indent, offset = "\t" * depth, " ".join(f"{value:.5f}" for value in offsets[joint])
    rotations = " ".join(f"{axis}rotation" for axis in EULER_ORDER)
    if not CHILDREN[joint]:
        return [f"{indent}End Site", f"{indent}{{", f"{indent}\tOFFSET {offset}", f"{indent}}}"]
    kind, channels = (
        ("ROOT", f"6 Xposition Yposition Zposition {rotations}") if depth == 0 else ("JOINT", f"3 {rotations}")
    )
    lines = [f"{indent}{kind} {NAMES[joint]}", f"{indent}{{", f"{indent}\tOFFSET {offset}"]
    lines.append(f"{indent}\tCHANNELS {channels}")
    for child in CHILDREN[joint]:
        lines += _tree(child, offsets, depth + 1)
    return [*lines, f"{indent}}}"]


def _closest(given: Array, wanted: Array) -> Array:
    """``(K, 3)`` and ``(F, K, 3)`` -> ``(F, 3, 3)`` rotations that bring the first closest to the second (Kabsch)."""
    left, _, right = np.linalg.svd(np.einsum("fki,kj->fij", wanted, given))
    sign = np.ones((len(wanted), 3))
    sign[:, 2] = np.sign(np.linalg.det(left @ right))
    closest: Array = (left * sign[:, None]) @ right
    return closest


def _shortest(given: Array, wanted: Array) -> Array:
    """``(F, 3)`` twice -> ``(F, 3, 3)`` rotations, each the shortest that turns the first direction into the second."""
    from scipy.spatial.transform import Rotation

    first = given / np.maximum(np.linalg.norm(given, axis=-1, keepdims=True), 1e-12)
    second = wanted / np.maximum(np.linalg.norm(wanted, axis=-1, keepdims=True), 1e-12)
    axis, cosine = np.cross(first, second), (first * second).sum(axis=-1)
    sine = np.linalg.norm(axis, axis=-1)
    # Opposite directions: any axis across them.
    across = np.cross(first, np.where(np.abs(first[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]))
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    unit = np.where(sine[:, None] > 1e-9, axis / np.maximum(sine, 1e-12)[:, None], across)
    turned: Array = Rotation.from_rotvec(unit * np.arctan2(sine, cosine)[:, None]).as_matrix()
    return turned
