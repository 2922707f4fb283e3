"""``refiner-refine --pose-3d``: poses of another program, in the form that `Refiner.refine` takes."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from refiner.errors import InputError, InputWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray


def in_camera_metres(
    arguments: argparse.Namespace, pose_2d: NDArray[Any], pose_3d: NDArray[Any], options: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Bring 3D poses to metres in camera axes (`refiner.formats.estimates`), with a warning that says how.

    Args:
        arguments: Those of the command, for ``--height`` and the name of the file.
        pose_2d: ``(F, J, 2)`` pixels.
        pose_3d: ``(F, J, 3)`` in the same joints, or ``(F, 17, 3)`` in Human3.6M's where J is another number: detectors
            have more joints than estimators.
        options: The arguments of `Refiner.refine` by name. Where the poses are changed, they are in Human3.6M's joints
            afterwards, and so are the options.

    Returns:
        The 2D and the 3D poses.

    Raises:
        InputError: The poses cannot be brought to metres; the message names the file.
    """
    from refiner.formats.estimates import to_camera_metres
    from refiner.skeleton import H36M17, confidence_to_h36m17, joint_set, to_h36m17

    joints, joints_3d, confidence = options["joints"], arguments.joints_3d, options.get("confidence")
    fewer = joints_3d is None and pose_3d.shape[1:] == (H36M17.joints, 3) and joint_set(joints).joints != H36M17.joints
    try:
        found = to_camera_metres(
            pose_3d,
            pose_2d,
            options["image_size"],
            joints=joints,
            joints_3d=H36M17.name if fewer else joints_3d,
            confidence=confidence,
            focal_length=options.get("focal_length"),
            height=arguments.height,
        )
    except InputError as error:
        file = arguments.pose_2d if str(error).startswith("pose_2d") else arguments.pose_3d
        raise type(error)(f"{file}: {error}") from error
    if found.kind == "camera" and not fewer:
        return pose_2d, pose_3d
    if found.note:
        warnings.warn(f"{arguments.pose_3d}: {found.note}", InputWarning, stacklevel=2)
    if confidence is not None:
        options["confidence"] = confidence_to_h36m17(confidence, joints)
    options["joints"] = H36M17.name
    return to_h36m17(pose_2d, joints), found.pose_3d
