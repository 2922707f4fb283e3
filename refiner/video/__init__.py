"""Videos and cameras: read, detect people, follow them.

`Video` reads a file, `open_detector` opens a detector of 2D keypoints (or one of the caller's own that fits
`Detector`), and `detect_people` makes `refiner.formats.Detections` of the two.
"""

from refiner.video.camera import Webcam
from refiner.video.content import is_video
from refiner.video.detect import DetectedVideo, detect_people
from refiner.video.detector import Detector, open_detector
from refiner.video.live import LatestFrames, LivePeople, paced
from refiner.video.reader import Video, VideoFrame

__all__ = [
    "DetectedVideo",
    "Detector",
    "LatestFrames",
    "LivePeople",
    "Video",
    "VideoFrame",
    "Webcam",
    "detect_people",
    "is_video",
    "open_detector",
    "paced",
]
