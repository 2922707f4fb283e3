"""Errors over the 12 limb joints, which detectors and Human3.6M mean nearly alike; the root is mid-hip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.errors import InputError
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.protocol import METRICS
from refiner.skeleton import COCO17, H36M17, to_h36m17
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
# Second differences need three frames.
LEAST_FRAMES = 3


def score_take(take: Take, models: Models) -> list[dict[str, Any]]:
    """A row per view: its frames, and for each method the mean errors of all frames, of those whose left and right the
    detector swapped, and of the others (None where there are none). Millimetres, accelerations mm/frame^2."""
    return [_view_row(view, take, models) for view in take.views]


def _view_row(view: View, take: Take, models: Models) -> dict[str, Any]:
    if len(take.truth) < LEAST_FRAMES:
        raise InputError(f"the take has {len(take.truth)} frames, expected at least {LEAST_FRAMES}")
    truth = to_h36m17(view.camera.to_camera(take.truth), COCO17)
    found = estimates(view.detections, models, view.camera)
    errors = {method: frame_errors(pose, truth) for method, pose in found.items()}
    swapped = view.swapped
    return {
        "view": view.name,
        "frames": len(truth),
        "swapped_frames": int(swapped.sum()),
        "fitted": view.fitted,
        "methods": {
            method: {
                "all": _means(scores, np.ones_like(swapped)),
                "swapped": _means(scores, swapped),
                "others": _means(scores, ~swapped),
            }
            for method, scores in errors.items()
        },
    }


def frame_errors(pose_3d: NDArray[Any], truth: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Each of `SCORED` for every frame (acceleration: for each but the first and the last) of two ``(F, 17, 3)`` in
    metres."""
    limbs = list(LIMB_JOINTS)
    given, wanted = (MILLIMETRES * root_relative(pose.astype(np.float64))[:, limbs] for pose in (pose_3d, truth))
    return {name: METRICS[name].function(given, wanted) for name in SCORED}


def _means(errors: Mapping[str, NDArray[np.float64]], chosen: NDArray[np.bool_]) -> dict[str, float] | None:
    # An acceleration counts for the frame in its middle; without one there is nothing to compare.
    if not chosen[1:-1].any():
        return None
    return {
        name: float(values[chosen[1:-1] if len(values) < len(chosen) else chosen].mean())
        for name, values in errors.items()
    }


def mean_rows(rows: list[dict[str, Any]], part: str) -> dict[str, dict[str, float]]:
    """For each method the mean over the views that have such frames (``part``: "all", "swapped" or "others")."""
    means = {}
    for method in rows[0]["methods"]:
        there = [row["methods"][method][part] for row in rows if row["methods"][method][part] is not None]
        if there:
            means[method] = {name: float(np.mean([errors[name] for errors in there])) for name in SCORED}
    return means


def score_clip(clip: Detections, models: Models) -> dict[str, Any]:
    """What can be told of a single camera without a truth, over the longest stretch in which somebody is seen.

    For each method the mean acceleration of the limbs (mm/frame^2) and by how much a limb's length, which does not
    change, varies (standard deviation in mm, mean of the 8 bones). Raises InputError where nobody is seen.
    """
    stretch = longest_stretch(clip)
    seen = clip.cut(stretch)
    if seen.frames < LEAST_FRAMES:
        raise InputError(f"the clip shows somebody in {seen.frames} frames in a row, expected at least {LEAST_FRAMES}")
    methods = {}
    for method, pose in estimates(seen, models, None).items():
        limbs = MILLIMETRES * root_relative(pose.astype(np.float64))
        moved = np.diff(limbs[:, list(LIMB_JOINTS)], n=2, axis=0)
        methods[method] = {
            "acceleration": float(np.linalg.norm(moved, axis=-1).mean()),
            "bone_spread": bone_spread(limbs),
        }
    return {"frames": clip.frames, "scored": seen.frames, "first": stretch.start, "fps": clip.fps, "methods": methods}


def bone_spread(pose_3d: NDArray[Any]) -> float:
    """Mean over the 8 limb bones of the standard deviation of their length in ``(F, 17, 3)``, unit of the input."""
    parents, joints = (list(end) for end in zip(*LIMB_BONES, strict=True))
    return float(np.linalg.norm(pose_3d[:, parents] - pose_3d[:, joints], axis=-1).std(axis=0).mean())


def truth_quality(take: Take) -> dict[str, Any]:
    """How good the truth is: for each view the median distance (pixels) of the limbs' keypoints from its image, swapped
    frames left out; the spread of bone lengths (mm)."""
    body = to_h36m17(take.truth, COCO17)[:, list(LIMB_JOINTS)]
    pixels = {}
    for view in take.views:
        seen = to_h36m17(view.detections.keypoints, "mediapipe33")[:, list(LIMB_JOINTS)]
        (errors,) = reprojection_errors([view.camera], body, seen[None])
        used = errors[~view.swapped]
        pixels[view.name] = float(np.nanmedian(used)) if used.size else None
    return {"pixels": pixels, "bone_spread": MILLIMETRES * bone_spread(to_h36m17(take.truth, COCO17))}
