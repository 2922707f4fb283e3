"""The options of a command that say where a person is, and what they mean in words."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from refiner.runtime.window_model import FocalLength
    from refiner.trajectory import Placement, Trajectory

OPTIONS = ("person_height", "camera_pitch", "camera_height", "camera_roll")


def add_trajectory_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--trajectory`` and what belongs to it."""
    group = parser.add_argument_group("where the people are")
    group.add_argument(
        "--trajectory", action="store_true", help="also find the place of the person in front of the camera, in metres"
    )
    group.add_argument(
        "--person-height", type=float, metavar="M", help="sole to crown, in metres; sets the size of the body"
    )
    group.add_argument(
        "--camera-pitch",
        type=float,
        metavar="DEG",
        help="degrees by which the camera looks down; the results are then level with the floor",
    )
    group.add_argument(
        "--camera-height", type=float, metavar="M", help="of the lens above the floor; corrects size and distance"
    )
    group.add_argument(
        "--camera-roll", type=float, metavar="DEG", help="degrees by which the camera is turned clockwise (default: 0)"
    )


def placement_of(arguments: argparse.Namespace) -> Placement | None:
    """What the options say; None without ``--trajectory``.

    Raises:
        UsageError: the options do not go together.
        InputError: a value is out of range.
    """
    from refiner.errors import UsageError
    from refiner.ground import Ground
    from refiner.trajectory import Placement

    if not arguments.trajectory:
        given = [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(arguments, name) is not None]
        if given:
            raise UsageError(f"{', '.join(given)} belong to --trajectory; give it too, or leave them out")
        return None
    ground = None
    if arguments.camera_pitch is not None:
        ground = Ground(arguments.camera_pitch, arguments.camera_height, arguments.camera_roll or 0.0)
    elif arguments.camera_height is not None or arguments.camera_roll is not None:
        raise UsageError(
            "--camera-height and --camera-roll need --camera-pitch: without it nobody knows where the floor is (0 for "
            "a camera that looks straight ahead)"
        )
    return Placement(arguments.person_height, ground)


def place_arrays(
    placement: Placement,
    pose_2d: ArrayLike,
    pose_3d: NDArray[np.float32],
    fps: float,
    joints: str,
    image_size: tuple[float, float],
    focal_length: FocalLength | None,
    confidence: ArrayLike | None,
) -> Trajectory:
    """Find the place of a person whose refined poses ``pose_3d`` ``(F, 17, 3)`` have Human3.6M's joints.

    ``pose_2d`` and ``confidence`` are in the joint set ``joints``. Raises what `root_trajectory` raises.
    """
    from refiner.skeleton import confidence_to_h36m17, to_h36m17
    from refiner.trajectory import root_trajectory

    return root_trajectory(
        to_h36m17(pose_2d, joints),
        pose_3d,
        image_size,
        fps,
        confidence=None if confidence is None else confidence_to_h36m17(confidence, joints),
        focal_length=focal_length,
        height=placement.height,
        ground=placement.ground,
    )


def axes_text(found: Trajectory, lens_known: bool) -> str:
    """How far away the person is, and the axes of the result, in words."""
    distance = found.root[:, 2]
    place = f"{distance.min():.1f} to {distance.max():.1f} m in front of the camera"
    if not lens_known:
        place += ", a guess as long as --focal-length is not given"
    if found.ground is None:
        return f"{place}; the axes are those of the camera, which need not be level (no --camera-pitch)"
    return f"{place}; the floor is {found.ground.height:.2f} m below the camera"
