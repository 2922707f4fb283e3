"""The clips that a study scores: those of the archive, or the same motion under conditions new to the models."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from refiner.data import CameraClip, MotionFolder, camera_clips, random_camera_clips
from refiner.data.clips import Part
from refiner.data.detector import DetectorModel
from refiner.data.resample import resample_poses
from refiner.ranges import Between


@dataclass(frozen=True)
class Variant:
    """A variant of the scored data.

    Attributes:
        detections: The 2D poses: those of the simulated detector, or the true ones.
        noise: A factor for the errors of the simulated detector.
        cameras: The cameras: those of the archive, or random ones that no model was trained on.
        fps: Frames per second; 0 for those of the archive.
    """

    detections: Literal["simulated", "ground-truth"] = "simulated"
    noise: Annotated[float, Between(0.0, 100.0)] = 1.0
    cameras: Literal["archive", "random"] = "archive"
    fps: Annotated[float, Between(0.0, 1000.0)] = 0.0


def study_clips(folder: MotionFolder, part: Part, variant: Variant) -> list[CameraClip]:
    """The camera clips of one part of the split under the conditions of a variant. Every call gives the same clips."""
    simulated = variant.detections == "simulated"
    detector = scaled_detector(folder.detector, variant.noise) if simulated else None
    people, fps = folder.subjects(part), folder.description.fps
    if variant.cameras == "random":
        clips = random_camera_clips(folder.positions, people, detector, fps=fps)
    else:
        detections = folder.detections if simulated else None
        detector = detector if detections is None else None
        clips = camera_clips(folder.positions, folder.cameras, people, detections, detector, fps=fps)
    return [_at_rate(clip, variant.fps) for clip in clips] if variant.fps else clips


def scaled_detector(detector: DetectorModel, noise: float) -> DetectorModel:
    """A copy of the error model with every length in pixels multiplied by ``noise``."""
    return dataclasses.replace(
        detector,
        slow_sigma=detector.slow_sigma * noise,
        jitter_sigma=detector.jitter_sigma * noise,
        outlier_sigma=detector.outlier_sigma * noise,
    )


def _at_rate(clip: CameraClip, fps: float) -> CameraClip:
    """The clip at a lower frame rate.

    If the rate is a whole fraction, frames are dropped, which does not change the detector's jitter. For another rate
    the clip is resampled, which reduces the jitter a little.
    """
    ratio = clip.fps / fps
    if abs(ratio - round(ratio)) < 1e-9:
        step = round(ratio)
        arrays = {name: getattr(clip, name)[::step] for name in ("pose_2d", "pose_2d_clean", "pose_3d")}
    else:
        arrays = {
            name: resample_poses(getattr(clip, name), clip.fps, fps) for name in ("pose_2d", "pose_2d_clean", "pose_3d")
        }
    return dataclasses.replace(clip, fps=fps, **arrays)
