"""Detections and a published calibration -> a take with its truth."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera
from refiner.errors import InputError
from refiner.skeleton import COCO17, MEDIAPIPE33
from refiner.smoothing import savitzky_golay
from refiner_bench.real.calibration import fit_pose, for_video, read_qualisys
from refiner_bench.real.packages import POSE2SIM, SPORTS2D, detector_python, package_files, run_detector
from refiner_bench.real.take import Detections, Take, View, read_detections
from refiner_bench.real.triangulate import swaps_against, triangulate

Array = NDArray[np.float64]

# Its published pose sees the others' points 30 pixels off, so that it would bend the truth.
UNCALIBRATED = ("cam03",)
# COCO's joints are landmarks of MediaPipe, by the same names.
COCO_LANDMARKS = tuple(MEDIAPIPE33.joint_names.index(name) for name in COCO17.joint_names)
LEGS = tuple(range(11, 17))
PARTS = (LEGS, tuple(range(11)))
# Frames at 50 per second, order 3: passes 10 Hz, of a man who walks.
SMOOTHING_WINDOW = 9


def rebuild_take(cache: Path) -> Take:
    """Download, detect, triangulate. Raises UnavailableError where a package cannot be had."""
    files = package_files(POSE2SIM, cache)
    videos = {path.stem: path for name, path in files.items() if name.endswith(".mp4")}
    return build_take(read_qualisys(files["Calib.qca.txt"]), _detect(videos, cache))


def rebuild_clip(cache: Path) -> Detections:
    """Download and detect the clip of a single camera. Raises UnavailableError where a package cannot be had."""
    (video,) = package_files(SPORTS2D, cache).values()
    return _detect({"clip": video}, cache)["clip"]


def build_take(published: Mapping[str, Camera], detections: Mapping[str, Detections]) -> Take:
    """The truth from all views but `UNCALIBRATED`, smoothed lightly; the poses of those fitted to it.

    Raises InputError for views without a camera, of different lengths, or a joint that two views never see.
    """
    if missing := sorted(set(detections) - set(published)):
        raise InputError(f"the calibration has no camera {', '.join(missing)}; it has {', '.join(sorted(published))}")
    if len(lengths := {seen.frames for seen in detections.values()}) != 1:
        raise InputError(f"the videos are not synchronous: they have {sorted(lengths)} frames")
    names = sorted(detections)
    pixels = {name: detections[name].keypoints[:, list(COCO_LANDMARKS)] for name in names}
    trust = {name: detections[name].confidence[:, list(COCO_LANDMARKS)] for name in names}
    cameras = {name: for_video(published[name], detections[name].image_size) for name in names}
    sure = [name for name in names if name not in UNCALIBRATED]
    result = triangulate(
        [cameras[name] for name in sure],
        np.stack([pixels[name] for name in sure]),
        np.stack([trust[name] for name in sure]),
        COCO17,
        PARTS,
    )
    if not np.isfinite(result.points).all():
        lost = int(np.isnan(result.points).any(axis=(1, 2)).sum())
        raise InputError(f"{lost} of {len(result.points)} frames have joints that fewer than two views see")
    fps = detections[names[0]].fps
    truth = savitzky_golay(result.points, fps, window=SMOOTHING_WINDOW).astype(np.float32).astype(np.float64)
    swapped = {name: result.swapped[number].any(axis=-1) for number, name in enumerate(sure)}
    for name in UNCALIBRATED:
        if name in names:
            # Labels first by the published pose, 30 pixels off: left and right lie further apart.
            for _ in range(2):
                swaps = _swaps(cameras[name], truth, pixels[name], trust[name])
                kept = np.where(swaps[..., None], 0.0, trust[name][:, None, :])
                weights = np.where(np.isin(np.arange(COCO17.joints), LEGS), kept[:, 0], kept[:, 1])
                cameras[name] = fit_pose(
                    cameras[name], truth.reshape(-1, 3), pixels[name].reshape(-1, 2), weights.ravel()
                )
            swapped[name] = _swaps(cameras[name], truth, pixels[name], trust[name]).any(axis=-1)
    views = (View(name, detections[name], cameras[name], swapped[name], fitted=name in UNCALIBRATED) for name in names)
    return Take(tuple(views), truth)


def _swaps(camera: Camera, truth: Array, pixels: Array, trust: Array) -> NDArray[np.bool_]:
    """``(F, P)``: the parts whose labels fit the truth better swapped."""
    found = []
    for part in PARTS:
        chosen = list(part)
        mirror = [chosen.index(COCO17.flip_order[joint]) for joint in chosen]
        seen, sure = pixels[None, :, chosen], trust[None, :, chosen]
        found.append(swaps_against([camera], truth[:, chosen], seen, sure, mirror)[0])
    return np.stack(found, axis=-1)


def _detect(videos: Mapping[str, Path], cache: Path) -> dict[str, Detections]:
    python = detector_python(cache)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "detections.npz"
        run_detector(python, videos, result)
        return read_detections(result)
