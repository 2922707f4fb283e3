"""Files of 2D pose detectors and 3D estimators: read by their content, and followed over time.

`read_detections` reads what OpenPose, AlphaPose, MMPose, COCO, MediaPipe and VideoPose3D write; `follow` tells people
apart over time. `read_estimate` brings the 3D poses of MotionBERT, VideoPose3D and others to metres in camera axes.
"""

from refiner.formats.detections import Detections, Person
from refiner.formats.estimates import Estimate, read_estimate, to_camera_metres
from refiner.formats.reading import read_detections
from refiner.formats.tracking import Track, follow

__all__ = [
    "Detections",
    "Estimate",
    "Person",
    "Track",
    "follow",
    "read_detections",
    "read_estimate",
    "to_camera_metres",
]
