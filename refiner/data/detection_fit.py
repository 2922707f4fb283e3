"""Whether real detections belong to the 3D poses and the camera that they come with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ArchiveError

# The largest accepted median distance between detections and projections, divided by the person's size in the image
# (the diagonal of the bounding box of the joints). CPN's median is about 0.015. If the cameras of Human3.6M's S1 are
# used for another subject, the median is 0.06 to 0.3 for the worst of the four cameras (0.04 for S7). If the cameras
# are in another order, it is 0.2 to 0.5. COCO's joints in place of Human3.6M's have 0.4.
WORST_FIT = 0.05


def check_fit(
    subject: str, camera: str, clips: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]], where: str = ""
) -> None:
    """Check that the detections of a subject in a camera lie near the projections of the 3D poses.

    Args:
        subject: The subject.
        camera: The name of the camera.
        clips: The detections and the projections of each clip, both ``(F, 17, 2)`` in pixels.
        where: The name of the file of detections, for the message.

    Raises:
        ArchiveError: The median distance over all joints and frames is more than 5 % of the person's size in the image.
    """
    distances = []
    for detected, projected in clips:
        size = np.linalg.norm(np.ptp(projected, axis=1), axis=-1)
        distances.append(np.linalg.norm(detected - projected, axis=-1) / np.maximum(size, 1.0)[:, None])
    distance = float(np.median(np.concatenate(distances)))
    if not distance <= WORST_FIT:
        raise ArchiveError(
            f"{where}{': ' if where else ''}the detections of {subject} by camera {camera} lie {100 * distance:.0f} % "
            f"of the person's size in the image from the projected joints; expected at most {100 * WORST_FIT:.0f} %. "
            f"Are these {subject}'s own cameras, in the order of the detections, and Human3.6M's 17 joints?"
        )
