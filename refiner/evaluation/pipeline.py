"""Lift, correct and refine camera clips, and score the three against the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from refiner.camera import default_focal_length, normalise_screen
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
# What a camera-aware model is told of a clip's lens: the calibrated camera, or nothing but the image's size.
FocalLength = Literal["true", "guess"]

# Frames of the sequence whose errors a report shows one by one.
EXAMPLE_FRAMES = 300


class ExampleCurve:
    """The errors of one sequence frame by frame: of the first that is long enough, else of the longest."""

    def __init__(self) -> None:
        self._found: dict[str, Any] | None = None

    def watch(self, clip: CameraClip, poses: dict[str, NDArray[Any]]) -> None:
        """A scored clip and its poses by column."""
        frames = min(clip.frames, EXAMPLE_FRAMES)
        if self._found is not None and len(next(iter(self._found["mpjpe_mm"].values()))) >= frames:
            return
        target = root_relative(clip.pose_3d[:frames])
        self._found = {
            "subject": clip.subject,
            "clip": clip.key,
            "camera": str(clip.camera),
            "fps": clip.fps,
            "mpjpe_mm": {
                label: np.round(1000.0 * mpjpe(root_relative(pose[:frames]), target), 3).tolist()
                for label, pose in poses.items()
            },
        }

    def to_report(self) -> dict[str, Any] | None:
        """Where it is from and ``mpjpe_mm`` by column; None where nothing was scored."""
        return self._found


def lens_options(sees_rays: bool, clip: CameraClip, focal_length: FocalLength) -> dict[str, Any]:
    """What `Lifter.lift` and `Refiner.refine` are told of a clip's lens; nothing where the model does not look at it.

    Raises UsageError for a true lens of a clip that has none.
    """
    if not sees_rays:
        return {}
    if focal_length == "guess":
        return {"focal_length": default_focal_length(clip.image_size)}
    if clip.lens is None:
        raise UsageError(
            f"{clip.subject} {clip.key} comes without a camera, and this model sees rays; take --focal-length guess"
        )
    return {"camera": clip.lens}


def linear_correction(
    noise_model: ConditionalGaussian, pose_2d: NDArray[Any], pose_3d: NDArray[Any], image_size: ImageSize
) -> NDArray[Any]:
    """The lifter's pose minus the error that eq. 5 expects: what a linear regression alone achieves.

    ``pose_2d`` ``(F, J, 2)`` pixels and ``pose_3d`` ``(F, J, 3)`` root-relative metres -> ``(F, J, 3)``.
    """
    screen = normalise_screen(np.asarray(pose_2d, dtype=np.float64), image_size)
    corrected: NDArray[Any] = np.asarray(pose_3d, dtype=np.float64) - noise_model.mean(screen, pose_3d)
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
    """Score the lifter, the linear conditional mean (with a noise model) and the refined poses, in that order;
    ``smooth`` smooths the refined poses (`refiner.smoothing`) and ``pooled`` gives them one body shape, of a clip or of
    all that an archive has of a person; either adds the lifter's poses treated alike: what that alone achieves.
    ``hypothesise(clip)`` ``-> (H, F, 17, 3)``: of a diffusion lifter, whose mean is the lifter's column; adds what the
    joints that are projected nearest give, without ground truth, and two oracles, which see it.

    ``lift(clip)`` returns root-relative metres, one pose per frame, of the clip's 2D poses; ``refine(clip, pose_3d)``
    takes a whole clip and poses in metres, and gives as many. ``on_clip`` is called after each clip;
    ``example`` keeps the curves of one.
    """
    evaluators = {LIFTER: Evaluator()}
    alone = alone_label(pooled, smooth)
    if alone:
        evaluators[alone] = Evaluator()
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

    kept: list[tuple[CameraClip, dict[str, NDArray[Any]]]] = []
    for clip in clips:
        lifted = root_relative(lift(clip))
        poses = {LIFTER: lifted, REFINED: refine(clip, lifted)}
        for label, pose in ((alone, lifted), (REFINED, root_relative(poses[REFINED]))) if alone else ():
            treated = savitzky_golay(pose, clip.fps).astype(np.float32) if smooth else pose
            poses[label] = pool_checked(treated) if pooled == "clip" else treated
        if hypothesise is not None:
            poses |= _of_hypotheses(hypothesise(clip), clip)
        if noise_model is not None:
            poses[LINEAR] = linear_correction(noise_model, clip.pose_2d, lifted, clip.image_size)
        if pooled in (None, "clip"):
            add(clip, poses)
        else:
            kept.append((clip, poses))
        if on_clip is not None:
            on_clip(clip)
    if pooled is not None and kept:
        people = people_of([clip for clip, _ in kept], pooled)
        before, after = (pool_together([poses[label] for _, poses in kept], people) for label in (alone, REFINED))
        for place, (clip, poses) in enumerate(kept):
            add(clip, {**poses, alone: before[place], REFINED: after[place]})
    return {label: evaluator.result() for label, evaluator in evaluators.items()}


def alone_label(pooled: ShapeOf | None, smooth: bool) -> str:
    """The column of the lifter's poses that are treated as the refined ones are; "" where nothing is done to them."""
    treatments = ["smoothed"] * smooth + ["one shape"] * (pooled is not None)
    return ", ".join([LIFTER, *treatments]) if treatments else ""


def people_of(clips: Iterable[CameraClip], shape_of: ShapeOf) -> list[tuple[str, ...]]:
    """Of every clip what tells whose body shape it shares (`refiner.shape.pool_together`)."""
    if shape_of == "person":
        return [(clip.subject,) for clip in clips]
    if shape_of == "camera":
        return [(clip.subject, str(clip.camera)) for clip in clips]
    return [(clip.subject, clip.key, str(clip.camera)) for clip in clips]


def _of_hypotheses(hypotheses: NDArray[Any], clip: CameraClip) -> dict[str, NDArray[Any]]:
    if clip.lens is None:
        raise UsageError(f"{clip.subject} {clip.key} comes without a camera, so that nothing can be projected")
    return {
        BY_REPROJECTION: joints_by_reprojection(hypotheses, clip.pose_2d, clip.lens),
        ORACLE_POSE: oracle_best_pose(hypotheses, clip.pose_3d),
        ORACLE_JOINTS: oracle_best_joints(hypotheses, clip.pose_3d),
    }
