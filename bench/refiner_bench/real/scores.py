"""Errors of the 12 limb joints, which detectors and Human3.6M define almost equally. The root is mid-hip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.protocol import METRICS
from refiner.skeleton import COCO17, H36M17, to_h36m17
from refiner_bench.arrays import FloatArray
from refiner_bench.real.estimates import Models, estimates
from refiner_bench.real.take import Detections, Take, View, longest_stretch
from refiner_bench.real.triangulate import reprojection_errors

LIMB_JOINTS = tuple(
    H36M17.joint_names.index(side + joint)
    for joint in ("Hip", "Knee", "Foot", "Shoulder", "Elbow", "Wrist")
    for side in ("R", "L")
)
LIMB_BONES = tuple(
    (H36M17.joint_names.index(side + parent), H36M17.joint_names.index(side + joint))
    for side in ("R", "L")
    for parent, joint in (("Hip", "Knee"), ("Knee", "Foot"), ("Shoulder", "Elbow"), ("Elbow", "Wrist"))
)
SCORED = ("mpjpe", "n_mpjpe", "p_mpjpe", "acceleration_error")
MILLIMETRES = 1000.0
# Accelerations are second differences, which need three frames.
LEAST_FRAMES = 3


PartName = Literal["all", "swapped", "others"]
# The mean of each metric in `SCORED`.
Means = dict[str, float]


@dataclass(frozen=True)
class PartErrors:
    """The mean errors of one method in one view. The field names are the keys of the JSON report.

    Attributes:
        all: The errors over all frames.
        swapped: The errors over frames in which the detector swapped left and right; None if there are no such frames.
        others: The errors over the other frames; None if there are no such frames.
    """

    all: Means | None
    swapped: Means | None
    others: Means | None


@dataclass(frozen=True)
class ViewScores:
    """The scores of one camera's view. The field names are the keys of the JSON report.

    Errors are in millimetres, accelerations in mm/frame^2.

    Attributes:
        view: The name of the view.
        frames: The number of frames.
        swapped_frames: The number of frames in which the detector swapped left and right.
        fitted: Whether the pose of the camera is fitted.
        methods: The errors of each method.
    """

    view: str
    frames: int
    swapped_frames: int
    fitted: bool
    methods: dict[str, PartErrors]


@dataclass(frozen=True)
class ClipMotion:
    """The motion of one method's poses. The field names are the keys of the JSON report.

    Attributes:
        acceleration: The mean acceleration of the limb joints in mm/frame^2.
        bone_spread: The standard deviation of the length of a limb bone in mm, averaged over the 8 bones.
    """

    acceleration: float
    bone_spread: float


@dataclass(frozen=True)
class ClipScores:
    """The scores of a clip without a truth. The field names are the keys of the JSON report.

    Attributes:
        frames: The number of frames of the clip.
        scored: The number of scored frames.
        first: The first scored frame.
        fps: Frames per second.
        methods: The motion of each method's poses.
    """

    frames: int
    scored: int
    first: int
    fps: float
    methods: dict[str, ClipMotion]


@dataclass(frozen=True)
class TruthQuality:
    """The quality of the triangulated truth. The field names are the keys of the JSON report.

    Attributes:
        pixels: For each view the median distance in pixels between the keypoints of limbs and the image of the truth,
            without swapped frames; None if all frames are swapped.
        bone_spread: The standard deviation of the length of a limb bone in mm, averaged over the 8 bones.
    """

    pixels: dict[str, float | None]
    bone_spread: float


def score_take(take: Take, models: Models) -> list[ViewScores]:
    """Score every method in every view of a take. Raises InputError for a take with too few frames."""
    return [_score_view(view, take, models) for view in take.views]


def _score_view(view: View, take: Take, models: Models) -> ViewScores:
    if len(take.truth) < LEAST_FRAMES:
        raise InputError(f"the take has {len(take.truth)} frames, expected at least {LEAST_FRAMES}")
    truth = to_h36m17(view.camera.to_camera(take.truth), COCO17)
    poses = estimates(view.detections, models, view.camera)
    errors = {method: frame_errors(pose, truth) for method, pose in poses.items()}
    swapped = view.swapped
    return ViewScores(
        view=view.name,
        frames=len(truth),
        swapped_frames=int(swapped.sum()),
        fitted=view.fitted,
        methods={
            method: PartErrors(
                all=_means(scores, np.ones_like(swapped)),
                swapped=_means(scores, swapped),
                others=_means(scores, ~swapped),
            )
            for method, scores in errors.items()
        },
    )


def frame_errors(pose_3d: FloatArray, truth: FloatArray) -> dict[str, NDArray[np.float64]]:
    """The errors of every frame by metric (see `SCORED`), ``(F,)`` in mm.

    The acceleration error has no value for the first and the last frame: ``(F - 2,)``, in mm/frame^2.

    Args:
        pose_3d: Poses, ``(F, 17, 3)`` in metres.
        truth: The true poses, ``(F, 17, 3)`` in metres.
    """
    limbs = list(LIMB_JOINTS)
    predicted, expected = (MILLIMETRES * root_relative(pose.astype(np.float64))[:, limbs] for pose in (pose_3d, truth))
    return {name: METRICS[name].function(predicted, expected) for name in SCORED}


def _means(errors: Mapping[str, NDArray[np.float64]], chosen: NDArray[np.bool_]) -> Means | None:
    """The mean of each metric over the chosen frames ``(F,)``; None if there is no acceleration among them."""
    # An acceleration belongs to the middle one of its three frames.
    if not chosen[1:-1].any():
        return None
    return {
        name: float(values[chosen[1:-1] if len(values) < len(chosen) else chosen].mean())
        for name, values in errors.items()
    }


def mean_over_views(views: Sequence[ViewScores], part: PartName) -> dict[str, Means]:
    """The mean errors of each method over the views.

    Args:
        views: The scores of each view.
        part: The frames to average; a view without such frames does not count.

    Returns:
        The errors by method; methods without such frames are left out.
    """
    means = {}
    for method in views[0].methods:
        by_view = [getattr(view.methods[method], part) for view in views]
        errors = [entry for entry in by_view if entry is not None]
        if errors:
            means[method] = {name: float(np.mean([entry[name] for entry in errors])) for name in SCORED}
    return means


def score_clip(clip: Detections, models: Models) -> ClipScores:
    """Score the poses of a single camera without a truth, by their acceleration and by the change of bone lengths.

    Only the longest run of frames with a person is scored. Raises InputError if it is too short.
    """
    stretch = longest_stretch(clip)
    seen = clip.cut(stretch)
    if seen.frames < LEAST_FRAMES:
        raise InputError(f"the clip shows somebody in {seen.frames} frames in a row, expected at least {LEAST_FRAMES}")
    methods = {}
    for method, pose in estimates(seen, models, None).items():
        limbs = MILLIMETRES * root_relative(pose.astype(np.float64))
        second_differences = np.diff(limbs[:, list(LIMB_JOINTS)], n=2, axis=0)
        acceleration = float(np.linalg.norm(second_differences, axis=-1).mean())
        methods[method] = ClipMotion(acceleration, bone_spread(limbs))
    return ClipScores(clip.frames, seen.frames, stretch.start, clip.fps, methods)


def bone_spread(pose_3d: FloatArray) -> float:
    """The standard deviation of the length of a limb bone over time, averaged over the 8 limb bones.

    Args:
        pose_3d: ``(F, 17, 3)``.

    Returns:
        The mean, in the unit of the input.
    """
    parents, joints = (list(end) for end in zip(*LIMB_BONES, strict=True))
    return float(np.linalg.norm(pose_3d[:, parents] - pose_3d[:, joints], axis=-1).std(axis=0).mean())


def truth_quality(take: Take) -> TruthQuality:
    """Measure the quality of a take's truth."""
    body = to_h36m17(take.truth, COCO17)[:, list(LIMB_JOINTS)]
    pixels: dict[str, float | None] = {}
    for view in take.views:
        keypoints = to_h36m17(view.detections.keypoints, "mediapipe33")[:, list(LIMB_JOINTS)]
        (errors,) = reprojection_errors([view.camera], body, keypoints[None])
        used = errors[~view.swapped]
        pixels[view.name] = float(np.nanmedian(used)) if used.size else None
    return TruthQuality(pixels, MILLIMETRES * bone_spread(to_h36m17(take.truth, COCO17)))
