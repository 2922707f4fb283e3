"""Evaluation of camera clips: lift, correct and refine the poses, and score all three against the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from refiner.camera import Camera, default_focal_length, normalise_screen
from refiner.errors import UsageError
from refiner.evaluation.metrics import mpjpe, root_relative
from refiner.evaluation.oracles import ORACLE_JOINTS, ORACLE_POSE, oracle_best_joints, oracle_best_pose
from refiner.evaluation.protocol import EvaluationResult, Evaluator, Sequence
from refiner.hypotheses import joints_by_reprojection
from refiner.shape import ShapeOf, pool_checked, pool_together
from refiner.smoothing import savitzky_golay

if TYPE_CHECKING:
    from refiner.data import CameraClip
    from refiner.diffusion import ConditionalGaussian

LIFTER, LINEAR, REFINED = "lifter", "linear mean", "refined"
BY_REPROJECTION = "by reprojection"

ImageSize = tuple[int, int]
Lift = Callable[["CameraClip"], NDArray[Any]]
Refine = Callable[["CameraClip", NDArray[Any]], NDArray[Any]]
# The lens that a camera-aware model receives: the calibrated camera of the clip, or the default for its image size.
FocalLength = Literal["true", "guess"]

# The largest number of frames of the example whose errors a report shows frame by frame.
EXAMPLE_FRAMES = 300


class LensOptions(TypedDict, total=False):
    """The lens arguments of `Lifter.lift` and `Refiner.refine`."""

    focal_length: float
    camera: Camera


@dataclass(frozen=True)
class _Curve:
    """The errors of one clip, frame by frame and by column, in mm."""

    subject: str
    clip: str
    camera: str
    fps: float
    mpjpe_mm: dict[str, list[float]]


class ExampleCurve:
    """The frame-by-frame errors of one example sequence: the first sequence that is long enough, or the longest."""

    def __init__(self) -> None:
        self._curve: _Curve | None = None

    def watch(self, clip: CameraClip, poses: dict[str, NDArray[Any]]) -> None:
        """Consider a scored clip as the example. ``poses`` holds its poses ``(F, 17, 3)`` in metres by column."""
        frames = min(clip.frames, EXAMPLE_FRAMES)
        if self._curve is not None and len(next(iter(self._curve.mpjpe_mm.values()))) >= frames:
            return
        target = root_relative(clip.pose_3d[:frames])
        errors = {
            label: np.round(1000.0 * mpjpe(root_relative(pose[:frames]), target), 3).tolist()
            for label, pose in poses.items()
        }
        self._curve = _Curve(clip.subject, clip.key, str(clip.camera), clip.fps, errors)

    def to_report(self) -> dict[str, Any] | None:
        """Return the clip of the example and its ``mpjpe_mm`` by column; None if no clip was scored."""
        return None if self._curve is None else asdict(self._curve)


def lens_options(sees_rays: bool, clip: CameraClip, focal_length: FocalLength) -> LensOptions:
    """Return the lens arguments of `Lifter.lift` and `Refiner.refine` for a clip.

    Args:
        sees_rays: Whether the input of the model is rays, so that it needs the lens.
        clip: The camera clip.
        focal_length: "true": the calibrated camera of the clip. "guess": the default focal length for its image size.

    Returns:
        The arguments; empty if the model does not need the lens.

    Raises:
        UsageError: The calibrated camera is needed, but the clip has none.
    """
    if not sees_rays:
        return {}
    if focal_length == "guess":
        return {"focal_length": default_focal_length(clip.image_size)}
    if clip.lens is None:
        raise UsageError(
            f"{clip.subject} {clip.key} comes without a camera, but this model needs rays; use --focal-length guess"
        )
    return {"camera": clip.lens}


def linear_correction(
    noise_model: ConditionalGaussian, pose_2d: NDArray[Any], pose_3d: NDArray[Any], image_size: ImageSize
) -> NDArray[Any]:
    """Subtract the expected error (eq. 5) from the lifter's pose. This is the accuracy of a linear regression.

    Args:
        noise_model: The conditional Gaussian of the lifter's error.
        pose_2d: ``(F, J, 2)`` pixels.
        pose_3d: The lifter's poses ``(F, J, 3)``, root-relative metres.
        image_size: (width, height) in pixels.

    Returns:
        ``(F, J, 3)`` metres.
    """
    normalised = normalise_screen(np.asarray(pose_2d, dtype=np.float64), image_size)
    corrected: NDArray[Any] = np.asarray(pose_3d, dtype=np.float64) - noise_model.mean(normalised, pose_3d)
    return corrected


def score_models(
    clips: Iterable[CameraClip],
    lift: Lift,
    refine: Refine,
    noise_model: ConditionalGaussian | None = None,
    on_clip: Callable[[CameraClip], None] | None = None,
    pooled: ShapeOf | None = None,
    smooth: bool = False,
    hypothesise: Lift | None = None,
    example: ExampleCurve | None = None,
) -> dict[str, EvaluationResult]:
    """Score the lifter, the linear correction (with a noise model) and the refined poses, in this order.

    Args:
        clips: The camera clips.
        lift: ``lift(clip)`` returns the lifted poses ``(F, 17, 3)`` in metres.
        refine: ``refine(clip, pose_3d)`` takes a whole clip and its lifted poses in metres, and returns the refined
            poses ``(F, 17, 3)``.
        noise_model: The noise model of the lifter, which adds the column of the linear correction.
        on_clip: A function that is called after each clip.
        pooled: Give the refined poses one body shape (`refiner.shape`): of a clip, or of all clips of a person.
        smooth: Smooth the refined poses (`refiner.smoothing`). This option and ``pooled`` add a column in which the
            lifted poses get the same treatment without refinement.
        hypothesise: ``hypothesise(clip)`` returns the hypotheses ``(H, F, 17, 3)`` of a diffusion lifter, whose mean is
            the lifter's column. It adds three columns: the aggregation by reprojection, without ground truth, and two
            oracles, which use the ground truth.
        example: Receives the error curves of one clip.

    Returns:
        The results by column.
    """
    evaluators = {LIFTER: Evaluator()}
    unrefined = unrefined_label(pooled, smooth)
    if unrefined:
        evaluators[unrefined] = Evaluator()
    if hypothesise is not None:
        evaluators |= {name: Evaluator() for name in (BY_REPROJECTION, ORACLE_POSE, ORACLE_JOINTS)}
    if noise_model is not None:
        evaluators[LINEAR] = Evaluator()
    evaluators[REFINED] = Evaluator()

    def add(clip: CameraClip, poses: dict[str, NDArray[Any]]) -> None:
        for label, evaluator in evaluators.items():
            evaluator.add(Sequence(clip.key, clip.subject, clip.action, str(clip.camera), poses[label], clip.pose_3d))
        if example is not None:
            example.watch(clip, {label: poses[label] for label in evaluators})

    waiting: list[tuple[CameraClip, dict[str, NDArray[Any]]]] = []
    for clip in clips:
        lifted = root_relative(lift(clip))
        poses = {LIFTER: lifted, REFINED: refine(clip, lifted)}
        for label, pose in ((unrefined, lifted), (REFINED, root_relative(poses[REFINED]))) if unrefined else ():
            treated = savitzky_golay(pose, clip.fps).astype(np.float32) if smooth else pose
            poses[label] = pool_checked(treated) if pooled == "clip" else treated
        if hypothesise is not None:
            poses |= _aggregated(hypothesise(clip), clip)
        if noise_model is not None:
            poses[LINEAR] = linear_correction(noise_model, clip.pose_2d, lifted, clip.image_size)
        if pooled in (None, "clip"):
            add(clip, poses)
        else:
            waiting.append((clip, poses))
        if on_clip is not None:
            on_clip(clip)
    if pooled is not None and waiting:
        people = people_of([clip for clip, _ in waiting], pooled)
        before, after = (
            pool_together([poses[label] for _, poses in waiting], people) for label in (unrefined, REFINED)
        )
        for index, (clip, poses) in enumerate(waiting):
            add(clip, {**poses, unrefined: before[index], REFINED: after[index]})
    return {label: evaluator.result() for label, evaluator in evaluators.items()}


def unrefined_label(pooled: ShapeOf | None, smooth: bool) -> str:
    """Return the label of the column in which the lifted poses get the treatment of the refined poses.

    The label is "" if there is no treatment.
    """
    treatments = ["smoothed"] * smooth + ["one shape"] * (pooled is not None)
    return ", ".join([LIFTER, *treatments]) if treatments else ""


def people_of(clips: Iterable[CameraClip], shape_of: ShapeOf) -> list[tuple[str, ...]]:
    """Return one name per clip. Clips of the same name share one body shape (`refiner.shape.pool_together`)."""
    if shape_of == "person":
        return [(clip.subject,) for clip in clips]
    if shape_of == "camera":
        return [(clip.subject, str(clip.camera)) for clip in clips]
    return [(clip.subject, clip.key, str(clip.camera)) for clip in clips]


def _aggregated(hypotheses: NDArray[Any], clip: CameraClip) -> dict[str, NDArray[Any]]:
    if clip.lens is None:
        raise UsageError(f"{clip.subject} {clip.key} comes without a camera, so its hypotheses cannot be projected")
    return {
        BY_REPROJECTION: joints_by_reprojection(hypotheses, clip.pose_2d, clip.lens),
        ORACLE_POSE: oracle_best_pose(hypotheses, clip.pose_3d),
        ORACLE_JOINTS: oracle_best_joints(hypotheses, clip.pose_3d),
    }
