"""The compared estimates: the 3D poses of MediaPipe and of our lifter, each without and with refinement."""

from __future__ import annotations

from refiner.camera import Camera
from refiner.runtime.lifter import Lifter
from refiner.runtime.refiner import Refiner
from refiner.skeleton import confidence_to_h36m17, to_h36m17
from refiner_bench.arrays import FloatArray
from refiner_bench.real.take import Detections

JOINTS = "mediapipe33"
OWN, OWN_REFINED = "MediaPipe's own 3D", "MediaPipe's own 3D, refined"
LIFTED, LIFTED_REFINED = "lifter", "lifter, refined"
# Each method, and the method whose poses it refines. Its gain is relative to that method.
METHODS = {OWN: None, OWN_REFINED: OWN, LIFTED: None, LIFTED_REFINED: LIFTED}


class Models:
    """A lifter, its refiner and a refiner for MediaPipe's poses.

    The methods pass to each model the parts of the detections that it uses.
    """

    def __init__(self, lifter: Lifter, refiner: Refiner, for_estimators: Refiner | None = None) -> None:
        self.lifter, self.refiner = lifter, refiner
        self.for_estimators = refiner if for_estimators is None else for_estimators

    def lift(self, detections: Detections, camera: Camera | None) -> FloatArray:
        """Lift the keypoints of a video.

        Args:
            detections: The detections.
            camera: The camera of the video, or None if it is unknown. Only models of rays use it.

        Returns:
            Poses, ``(F, 17, 3)`` in metres.
        """
        size, fps = detections.image_size, detections.fps
        if self.lifter.sees_rays:
            return self.lifter.lift(
                detections.keypoints, size, fps, JOINTS, confidence=detections.confidence, camera=camera
            )
        return self.lifter.lift(detections.keypoints, size, fps, JOINTS)

    def refine(self, detections: Detections, pose_3d: FloatArray, camera: Camera | None) -> FloatArray:
        """Refine the lifter's poses.

        Args:
            detections: The detections.
            pose_3d: Poses with the joints of Human3.6M, ``(F, 17, 3)`` in metres.
            camera: The camera of the video, or None.

        Returns:
            The refined poses, ``(F, 17, 3)`` in metres.
        """
        return _refined(self.refiner, detections, pose_3d, camera)

    def refine_estimate(self, detections: Detections, pose_3d: FloatArray, camera: Camera | None) -> FloatArray:
        """Like `refine`, but for the poses of another estimator."""
        return _refined(self.for_estimators, detections, pose_3d, camera)


def _refined(refiner: Refiner, detections: Detections, pose_3d: FloatArray, camera: Camera | None) -> FloatArray:
    pose_2d = to_h36m17(detections.keypoints, JOINTS)
    size, fps = detections.image_size, detections.fps
    if refiner.sees_rays:
        confidence = confidence_to_h36m17(detections.confidence, JOINTS)
        return refiner.refine(pose_2d, pose_3d, size, fps, confidence=confidence, camera=camera)
    return refiner.refine(pose_2d, pose_3d, size, fps)


def estimates(detections: Detections, models: Models, camera: Camera | None) -> dict[str, FloatArray]:
    """Estimate the poses of a video with every method.

    Args:
        detections: The detections; there must be a person in every frame.
        models: The models.
        camera: The camera of the video, or None.

    Returns:
        By method (see `METHODS`): poses with the joints of Human3.6M in camera axes, ``(F, 17, 3)`` in metres.

    Raises:
        InputError: The models do not accept the detections.
    """
    own = to_h36m17(detections.own_3d, JOINTS)
    lifted = models.lift(detections, camera)
    return {
        OWN: own,
        OWN_REFINED: models.refine_estimate(detections, own, camera),
        LIFTED: lifted,
        LIFTED_REFINED: models.refine(detections, lifted, camera),
    }
