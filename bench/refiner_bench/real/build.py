"""Makes a take with a truth from detections and a published calibration."""

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

# With the published pose of this camera, the points of the other views are 30 pixels off. It would distort the truth.
UNCALIBRATED = ("cam03",)
# MediaPipe has a landmark for each of COCO's joints, with the same name.
COCO_LANDMARKS = tuple(MEDIAPIPE33.joint_names.index(name) for name in COCO17.joint_names)
LEGS = tuple(range(11, 17))
PARTS = (LEGS, tuple(range(11)))
# The window of the Savitzky-Golay filter of order 3, in frames at 50 per second. It passes frequencies up to 10 Hz,
# which is enough for a walking person.
SMOOTHING_WINDOW = 9


def rebuild_take(cache: Path) -> Take:
    """Download the videos, detect, and triangulate. Raises UnavailableError if a package is not available."""
    files = package_files(POSE2SIM, cache)
    videos = {path.stem: path for name, path in files.items() if name.endswith(".mp4")}
    return build_take(read_qualisys(files["Calib.qca.txt"]), _detect(videos, cache))


def rebuild_clip(cache: Path) -> Detections:
    """Download the clip of a single camera, and detect. Raises UnavailableError if a package is not available."""
    (video,) = package_files(SPORTS2D, cache).values()
    return _detect({"clip": video}, cache)["clip"]


def build_take(published: Mapping[str, Camera], detections: Mapping[str, Detections]) -> Take:
    """Make a take.

    The truth comes from all views except those in `UNCALIBRATED`, and is smoothed lightly. The poses of the other
    cameras are then fitted to the truth.

    Args:
        published: The published cameras by name.
        detections: The detections of each view by name.

    Raises:
        InputError: A view has no camera, the views have different lengths, or fewer than two views see a joint.
    """
    if missing := sorted(set(detections) - set(published)):
        raise InputError(f"the calibration has no camera {', '.join(missing)}; it has {', '.join(sorted(published))}")
    if len(lengths := {seen.frames for seen in detections.values()}) != 1:
        raise InputError(f"the videos are not synchronous: they have {sorted(lengths)} frames")
    names = sorted(detections)
    pixels = {name: detections[name].keypoints[:, list(COCO_LANDMARKS)] for name in names}
    trust = {name: detections[name].confidence[:, list(COCO_LANDMARKS)] for name in names}
    cameras = {name: for_video(published[name], detections[name].image_size) for name in names}
    calibrated = [name for name in names if name not in UNCALIBRATED]
    result = triangulate(
        [cameras[name] for name in calibrated],
        np.stack([pixels[name] for name in calibrated]),
        np.stack([trust[name] for name in calibrated]),
        COCO17,
        PARTS,
    )
    if not np.isfinite(result.points).all():
        lost = int(np.isnan(result.points).any(axis=(1, 2)).sum())
        raise InputError(f"{lost} of {len(result.points)} frames have joints that fewer than two views see")
    fps = detections[names[0]].fps
    truth = savitzky_golay(result.points, fps, window=SMOOTHING_WINDOW).astype(np.float32).astype(np.float64)
    swapped = {name: result.swapped[number].any(axis=-1) for number, name in enumerate(calibrated)}
    for name in UNCALIBRATED:
        if name in names:
            # The first decision about labels uses the published pose. It is 30 pixels off, but left and right are
            # further apart than that.
            for _ in range(2):
                swaps = _swaps(cameras[name], truth, pixels[name], trust[name])
                unswapped_trust = np.where(swaps[..., None], 0.0, trust[name][:, None, :])
                weights = np.where(
                    np.isin(np.arange(COCO17.joints), LEGS), unswapped_trust[:, 0], unswapped_trust[:, 1]
                )
                cameras[name] = fit_pose(
                    cameras[name], truth.reshape(-1, 3), pixels[name].reshape(-1, 2), weights.ravel()
                )
            swapped[name] = _swaps(cameras[name], truth, pixels[name], trust[name]).any(axis=-1)
    views = (View(name, detections[name], cameras[name], swapped[name], fitted=name in UNCALIBRATED) for name in names)
    return Take(tuple(views), truth)


def _swaps(camera: Camera, truth: Array, pixels: Array, trust: Array) -> NDArray[np.bool_]:
    """The parts whose labels fit the truth better if they are swapped, ``(F, P)``."""
    swaps = []
    for part in PARTS:
        chosen = list(part)
        mirror = [chosen.index(COCO17.flip_order[joint]) for joint in chosen]
        part_pixels, part_trust = pixels[None, :, chosen], trust[None, :, chosen]
        swaps.append(swaps_against([camera], truth[:, chosen], part_pixels, part_trust, mirror)[0])
    return np.stack(swaps, axis=-1)


def _detect(videos: Mapping[str, Path], cache: Path) -> dict[str, Detections]:
    python = detector_python(cache)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "detections.npz"
        run_detector(python, videos, result)
        return read_detections(result)
