"""Files of 2D pose detectors: read by their content, and followed over time.

`read_detections` reads what OpenPose, AlphaPose, MMPose, COCO, MediaPipe and VideoPose3D write; `follow` tells people
apart over time.
"""

from refiner.formats.detections import Detections, Person
from refiner.formats.reading import read_detections
from refiner.formats.tracking import Track, follow

__all__ = ["Detections", "Person", "Track", "follow", "read_detections"]
