"""The joint set that the metadata of an .npz file name: ``layout_name``, ``num_joints`` and ``keypoints_symmetry``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from refiner.data.safe_npz import is_npz, load_npz
from refiner.errors import ArchiveError
from refiner.skeleton import H36M17, JointSet, joint_set

# How the names of layouts begin, and the joint sets that they mean.
NAMES = {
    "h36m": ("h36m17",),
    "human36m": ("h36m17",),
    "coco": ("coco17",),
    "mpii": ("mpii16",),
    "openpose": ("body25", "coco18"),
    "body": ("body25",),
    "halpe": ("halpe26",),
    "3dhp": ("3dhp",),
    "mpi_inf": ("3dhp",),
    "aic": ("aic14",),
    "crowdpose": ("crowdpose14",),
    "mediapipe": ("mediapipe33",),
}


def stated_joints(layout: object) -> tuple[str, ...]:
    """The names of the joint sets that a ``layout_name`` can mean; none for a name that says nothing."""
    name = "" if layout is None else str(layout).lower()
    return next((joints for beginning, joints in NAMES.items() if name.startswith(beginning)), ())


def same_pairs(pairs: object, joints: JointSet) -> bool:
    """Whether ``keypoints_symmetry`` lists the left joints and the right joints of a joint set, pair by pair."""
    try:
        sides = np.asarray(pairs, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return False
    expected = set(zip(joints.left, joints.right, strict=True))
    return sides.shape == (2, len(expected)) and set(map(tuple, sides.T.tolist())) == expected


def check_layout(metadata: Mapping[str, Any], joints: JointSet, where: str, sure: bool = False) -> None:
    """Check that the metadata of a file do not name other joints.

    Args:
        metadata: The metadata.
        joints: The joint set that the poses should have.
        where: The name of the file.
        sure: A ``layout_name`` that says nothing is accepted only beside a ``keypoints_symmetry``.

    Raises:
        ArchiveError: They name another joint set, or they contradict each other.
    """
    layout, count, pairs = (metadata.get(name) for name in ("layout_name", "num_joints", "keypoints_symmetry"))
    stated = stated_joints(layout)
    unclear = sure and layout is not None and not stated and pairs is None
    named = not stated or joints.name in stated
    fits = named and not unclear and (pairs is None or same_pairs(pairs, joints))
    if fits and (count is None or count == joints.joints):
        return
    said = f"layout_name {layout!r}, num_joints {count!r}, keypoints_symmetry {pairs!r}"
    name = "Human3.6M's 17" if joints is H36M17 else f"the {joints.joints} of {joints.name}"
    layouts = ", ".join(repr(key) for key, value in NAMES.items() if joints.name in value)
    raise ArchiveError(
        f"{where} has another layout of joints than {name} ({said}); expected layout {layouts} with left "
        f"{list(joints.left)} and right {list(joints.right)}: convert it first (refiner.skeleton.to_h36m17), or name "
        "its joint set"
    )


def check_stated_layout(path: str | os.PathLike[str], joints: str) -> None:
    """Check that an .npz file of poses does not name other joints than a user; other files say nothing.

    Args:
        path: A file of 2D poses.
        joints: The name of the joint set that the user states.

    Raises:
        ArchiveError: Its ``metadata`` name another joint set.
    """
    if is_npz(path):
        metadata = load_npz(path).get("metadata")
        if isinstance(metadata, Mapping):
            check_layout(metadata, joint_set(joints), str(path))
