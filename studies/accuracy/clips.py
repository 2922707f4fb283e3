"""The clips that a study scores: the archive's, or the same motion under conditions that no model saw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from refiner.data import CameraClip, MotionFolder, camera_clips, random_camera_clips
from refiner.data.clips import Part
from refiner.data.detector import DetectorModel
from refiner.data.resample import resample_poses


@dataclass(frozen=True)
class Variant:
    """Scored data.

    Attributes:
        detections: The simulated detector's 2D poses, or the true ones.
        noise: Multiplies the errors of the simulated detector.
        cameras: The archive's, or ones that no model saw.
        fps: Frames a second; 0: the archive's.
    """

    detections: Literal["simulated", "ground-truth"] = "simulated"
    noise: float = 1.0
    cameras: Literal["archive", "random"] = "archive"
    fps: float = 0.0


def study_clips(folder: MotionFolder, part: Part, variant: Variant) -> list[CameraClip]:
    """The camera clips of one part of the split under ``variant``'s conditions, the same ones every time."""
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
    """The same model of errors with every length in pixels multiplied by ``noise``."""
    return dataclasses.replace(
        detector,
        slow_sigma=detector.slow_sigma * noise,
        jitter_sigma=detector.jitter_sigma * noise,
        outlier_sigma=detector.outlier_sigma * noise,
    )


def _at_rate(clip: CameraClip, fps: float) -> CameraClip:
    """The clip as a slower camera sees it. Whole divisors drop frames, so that the detector's jitter stays as it is;
    other rates are resampled, which takes a little of it away."""
    ratio = clip.fps / fps
    if abs(ratio - round(ratio)) < 1e-9:
        step = round(ratio)
        arrays = {name: getattr(clip, name)[::step] for name in ("pose_2d", "pose_2d_clean", "pose_3d")}
    else:
        arrays = {
            name: resample_poses(getattr(clip, name), clip.fps, fps) for name in ("pose_2d", "pose_2d_clean", "pose_3d")
        }
    return dataclasses.replace(clip, fps=fps, **arrays)
