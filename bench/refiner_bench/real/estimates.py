"""What is compared: MediaPipe's own 3D and our lifter's, each as it is and refined."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.runtime.lifter import Lifter
from refiner.runtime.refiner import Refiner
from refiner.skeleton import confidence_to_h36m17, to_h36m17
from refiner_bench.real.take import Detections

JOINTS = "mediapipe33"
OWN, OWN_REFINED = "MediaPipe's own 3D", "MediaPipe's own 3D, refined"
LIFTED, LIFTED_REFINED = "lifter", "lifter, refined"
# Each estimate and what it was made from, which it is compared with.
METHODS = {OWN: None, OWN_REFINED: OWN, LIFTED: None, LIFTED_REFINED: LIFTED}


class Models:
    """A lifter, its refiner and one for MediaPipe's poses, and the one place where they are told what is known of a
    video."""

    def __init__(self, lifter: Lifter, refiner: Refiner, for_estimators: Refiner | None = None) -> None:
        self.lifter, self.refiner = lifter, refiner
        self.for_estimators = refiner if for_estimators is None else for_estimators

    def lift(self, seen: Detections, camera: Camera | None) -> NDArray[Any]:
        """``(F, 17, 3)`` metres. ``camera`` is the video's where it is known; only models that see rays look at it."""
        told: dict[str, Any] = {"confidence": seen.confidence, "camera": camera} if self.lifter.sees_rays else {}
        return self.lifter.lift(seen.keypoints, seen.image_size, seen.fps, JOINTS, **told)

    def refine(self, seen: Detections, pose_3d: NDArray[Any], camera: Camera | None) -> NDArray[Any]:
        """``(F, 17, 3)`` metres in Human3.6M's joints, the lifter's -> the same refined; ``camera`` as in `lift`."""
        return _refined(self.refiner, seen, pose_3d, camera)

    def refine_estimate(self, seen: Detections, pose_3d: NDArray[Any], camera: Camera | None) -> NDArray[Any]:
        """As `refine`, of poses that another estimator made."""
        return _refined(self.for_estimators, seen, pose_3d, camera)


def _refined(refiner: Refiner, seen: Detections, pose_3d: NDArray[Any], camera: Camera | None) -> NDArray[Any]:
    told: dict[str, Any] = {}
    if refiner.sees_rays:
        told = {"confidence": confidence_to_h36m17(seen.confidence, JOINTS), "camera": camera}
    return refiner.refine(to_h36m17(seen.keypoints, JOINTS), pose_3d, seen.image_size, seen.fps, **told)


def estimates(seen: Detections, models: Models, camera: Camera | None) -> dict[str, NDArray[Any]]:
    """Each of `METHODS`: ``(F, 17, 3)`` metres in Human3.6M's joints and camera axes.

    Every frame must show somebody. Raises an InputError for detections that the models do not take.
    """
    own = to_h36m17(seen.own_3d, JOINTS)
    lifted = models.lift(seen, camera)
    return {
        OWN: own,
        OWN_REFINED: models.refine_estimate(seen, own, camera),
        LIFTED: lifted,
        LIFTED_REFINED: models.refine(seen, lifted, camera),
    }
