"""The report of ``refiner-bench real`` and its Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from refiner.evaluation.tables import markdown_table
from refiner.reports import Report, new_report
from refiner_bench.real.estimates import METHODS, Models
from refiner_bench.real.scores import SCORED, mean_over_views, score_clip, score_take, truth_quality
from refiner_bench.real.take import Detections, Take
from refiner_bench.report import JsonObject

HEADINGS = ("MPJPE", "N-MPJPE", "P-MPJPE", "acceleration")


@dataclass(frozen=True)
class RealSettings:
    """The settings of the report in words. The field names are the keys of the JSON report.

    Attributes:
        take: The source of the take.
        clip: The source of the clip.
        lifter: The lifter.
        refiner: The refiner.
        skipped: For each part that could not be made again, a sentence with the reason.
    """

    take: str
    clip: str
    lifter: str
    refiner: str
    skipped: list[str]


def real_report(take: Take, clip: Detections | None, models: Models, settings: RealSettings) -> Report:
    """Score a take and a clip.

    Args:
        take: The take.
        clip: The detections of the clip, or None.
        models: The models.
        settings: The settings.

    Raises:
        InputError: The models do not accept the detections.
    """
    report = new_report("real", asdict(settings))
    views = score_take(take, models)
    report["truth"] = asdict(truth_quality(take))
    report["views"] = [asdict(view) for view in views]
    report["mean"] = mean_over_views(views, "all")
    report["swapped"] = mean_over_views(views, "swapped")
    report["clip"] = None if clip is None else asdict(score_clip(clip, models))
    return report


def format_real(report: JsonObject) -> str:
    """The report as Markdown."""
    settings, views = report["settings"], report["views"]
    spread = report["truth"]["bone_spread"]
    pixels = ", ".join(
        f"{view['view']} {report['truth']['pixels'][view['view']]:.1f}" + (" (pose fitted)" if view["fitted"] else "")
        for view in views
        if report["truth"]["pixels"][view["view"]] is not None
    )
    lines = [
        "# Real videos, a real detector",
        "",
        f"Take: {settings['take']}. Lifter: {settings['lifter']}; refiner: {settings['refiner']}.",
        "",
        "MediaPipe Pose (0.10.14, complexity 1) in calibrated, synchronous views of one person; the truth is "
        "triangulated from its 2D. Frame-wise means over the 12 limb joints relative to the middle of the hips, in mm "
        "(acceleration: mm/frame^2); gains are over what was refined. The floor of this truth is about 30 mm: it shows "
        "whether the models work on real input, not millimetres.",
        "",
        f"Truth: bones vary by {spread:.0f} mm; median distance of the keypoints from its image, in pixels: {pixels}.",
        *(f"\nSkipped: {reason}" for reason in settings["skipped"]),
        "",
        f"## Mean of the {len(views)} cameras",
        "",
        _with_gains(report["mean"]),
        "",
        "## By camera: MPJPE / P-MPJPE",
        "",
        markdown_table(
            ["method", *(view["view"] for view in views)],
            [[method, *(_both(view["methods"][method]["all"]) for view in views)] for method in METHODS],
        ),
    ]
    for view in views:
        if view["swapped_frames"]:
            lines += ["", *_swapped(view)]
    if report["clip"] is not None:
        lines += ["", *_clip(report["clip"], settings["clip"])]
    return "\n".join(lines)


def _with_gains(means: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for method, errors in means.items():
        source = METHODS[method]
        gains = ["", ""]
        if source is not None:
            gains = [f"{100 * (1 - errors[name] / means[source][name]):.1f} %" for name in ("mpjpe", "p_mpjpe")]
        rows.append([method, *(_number(errors, name) for name in SCORED), *gains])
    return markdown_table(["method", *HEADINGS, "MPJPE gain", "P-MPJPE gain"], rows)


def _number(errors: Mapping[str, float], name: str) -> str:
    return f"{errors[name]:.1f}"


def _both(errors: Mapping[str, float]) -> str:
    return f"{errors['mpjpe']:.1f} / {errors['p_mpjpe']:.1f}"


def _swapped(view: JsonObject) -> Sequence[str]:
    parts = [(part, title) for part, title in (("swapped", "swapped"), ("others", "other"))]
    header = ["method", *(f"{heading}, {title}" for heading in HEADINGS for _, title in parts)]
    rows = []
    for method, errors in view["methods"].items():
        cells = ["" if errors[part] is None else _number(errors[part], name) for name in SCORED for part, _ in parts]
        rows.append([method, *cells])
    return [
        f"## {view['view']}: the {view['swapped_frames']} of {view['frames']} frames whose left and right the detector "
        "swapped",
        "",
        markdown_table(header, rows),
    ]


def _clip(clip: JsonObject, name: str) -> Sequence[str]:
    rows = [
        [method, f"{motion['acceleration']:.1f}", f"{motion['bone_spread']:.1f}"]
        for method, motion in clip["methods"].items()
    ]
    return [
        "## A single camera, no truth",
        "",
        f"Clip: {name}; {clip['scored']} of {clip['frames']} frames from frame {clip['first']}, the longest stretch in "
        f"which the detector sees somebody, {clip['fps']:.0f} frames/s. Mean acceleration of the limbs (mm/frame^2; a "
        "body's own included) and by how much limbs change their length (mm).",
        "",
        markdown_table(["method", "acceleration", "bone spread"], rows),
    ]
