"""The errors of streams on one part of the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from refiner.data import CameraClip
from refiner.engines import EngineOptions
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.protocol import Evaluator
from refiner.evaluation.protocol import Sequence as ScoredSequence
from refiner.runtime import Refiner
from refiner.runtime.loading import open_engine
from refiner.training.calibration import errors_and_signs
from refiner_bench.accuracy.scores import LiftedClips
from refiner_bench.arrays import FloatArray
from refiner_bench.streaming.delay import (
    DELAYS,
    FilterTuning,
    Settings,
    ValidationSequence,
    window_streams,
    with_running_shape,
)

METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DelayErrors:
    """Errors by delay. The field names are the keys of the JSON report.

    Attributes:
        errors: By method, delay in frames and metric: the mean over frames.
        filters: By method and delay: the settings of a tuned filter.
        frames: The number of scored frames.
    """

    errors: dict[str, dict[str, dict[str, float]]]
    filters: dict[str, dict[str, Settings]]
    frames: int


@dataclass(frozen=True)
class Coverage:
    """Shares of the errors inside the predicted regions. The field names are the keys of the JSON report.

    Attributes:
        half: The share inside the region that should contain 50 %.
        nine_tenths: The share inside the region that should contain 90 %.
        std_mm: The mean predicted standard deviation in mm, without the root.
    """

    half: float
    nine_tenths: float
    std_mm: float

    def to_json(self) -> dict[str, float]:
        """The entry of the JSON report."""
        return asdict(self)


def delay_errors(
    clips: Sequence[CameraClip],
    validation: Sequence[CameraClip],
    lifter: Path,
    window: Path,
    causal: Path | None,
    cache: Path,
    tell: Tell,
) -> DelayErrors:
    """Measure the errors of refined streams and of filters by delay.

    The input of all methods is the offline output of the lifter. The delays are those of the refinement alone. The
    filters are tuned for MPJPE on the validation clips at each delay; so is the filter that smooths the output of the
    causal refiner, see `FilterTuning`.

    Args:
        clips: The clips to score.
        validation: The clips to tune filters on.
        lifter: The checkpoint of the lifter.
        window: The checkpoint of the windowed refiner.
        causal: The checkpoint of the causal refiner; None leaves it out.
        cache: A folder for lifted poses.
        tell: Receives lines of progress.
    """
    lifting = LiftedClips(cache, 1)
    lifted = lifting.lift(lifter, validation, "validation")
    tuning = _sequences(validation, lifted)
    chosen: dict[str, dict[str, Settings]] = {}
    lifted = lifting.lift(lifter, clips, "test")
    table = _Table(clips)
    table.add("input", 0, lifted)
    table.add("input, one shape", 0, [with_running_shape(pose) for pose in lifted])
    engine = open_engine(window, "refiner", EngineOptions(threads=1))
    tell("windows")
    streams = [window_streams(engine, clip, pose, DELAYS) for clip, pose in zip(clips, lifted, strict=True)]
    for delay in DELAYS:
        poses = [by_delay[delay] for by_delay in streams]
        table.add("window", delay, poses)
        table.add("window, one shape", delay, [with_running_shape(pose) for pose in poses])
    if causal is not None:
        tell("causal")
        poses = _refined(causal, clips, lifted)
        table.add("causal", 0, poses)
        table.add("causal, one shape", 0, [with_running_shape(pose) for pose in poses])
        tell("causal, smoothed")
        refined = _refined(causal, validation, lifting.lift(lifter, validation, "validation"))
        smooth, settings = FilterTuning(_sequences(validation, refined)).calmest_one_euro()
        chosen["causal, smoothed"] = {"0": settings}
        calm = [smooth(pose, clip.fps) for clip, pose in zip(clips, poses, strict=True)]
        table.add("causal, smoothed", 0, calm)
        table.add("causal, smoothed, one shape", 0, [with_running_shape(pose) for pose in calm])
    filters = FilterTuning(tuning)
    for delay in DELAYS:
        tell(f"filters, delay {delay}")
        for name, (stream, settings) in filters.tune(delay).items():
            chosen.setdefault(name, {})[str(delay)] = settings
            poses = [root_relative(stream(pose, clip.fps)) for clip, pose in zip(clips, lifted, strict=True)]
            table.add(name, delay, poses)
            table.add(f"{name}, one shape", delay, [with_running_shape(pose) for pose in poses])
    return DelayErrors(table.rows, chosen, int(sum(len(pose) for pose in lifted)))


def _sequences(clips: Sequence[CameraClip], poses: Sequence[FloatArray]) -> list[ValidationSequence]:
    return [ValidationSequence(pose, clip.pose_3d, clip.fps) for clip, pose in zip(clips, poses, strict=True)]


def _refined(causal: Path, clips: Sequence[CameraClip], lifted: Sequence[FloatArray]) -> list[FloatArray]:
    refiner = Refiner.load(causal, threads=1)
    return [
        root_relative(refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
        for clip, pose in zip(clips, lifted, strict=True)
    ]


class _Table:
    """Scores of methods on the same clips: ``rows`` holds the mean over frames by method, delay and metric."""

    def __init__(self, clips: Sequence[CameraClip]) -> None:
        self._clips = clips
        self.rows: dict[str, dict[str, dict[str, float]]] = {}

    def add(self, method: str, delay: int, poses: Sequence[FloatArray]) -> None:
        evaluator = Evaluator()
        for clip, pose in zip(self._clips, poses, strict=True):
            scored = root_relative(pose)
            evaluator.add(ScoredSequence(clip.key, clip.subject, clip.action, clip.camera, scored, clip.pose_3d))
        result = evaluator.result()
        self.rows.setdefault(method, {})[str(delay)] = {metric: result.frame_mean(metric) for metric in METRICS}


def measured_coverage(clips: Sequence[CameraClip], lifter: Path, checkpoint: Path, cache: Path) -> Coverage | None:
    """Measure the shares of a refiner's errors that lie inside its predicted 50 % and 90 % regions.

    Args:
        clips: The clips to score.
        lifter: The checkpoint of the lifter.
        checkpoint: The checkpoint of the refiner.
        cache: A folder for lifted poses.

    Returns:
        The shares; None if the refiner predicts no regions.
    """
    refiner = Refiner.load(checkpoint, threads=1)
    model = refiner.uncertainty
    if model is None:
        return None
    errors, spreads = [], []
    for clip, pose in zip(clips, LiftedClips(cache, 1).lift(lifter, clips, "test"), strict=True):
        refined = root_relative(refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
        error, correction, speed = errors_and_signs(refined, pose, clip.pose_3d)
        errors.append(error)
        spreads.append(model.std(correction, speed))
    half, nine_tenths = model.coverage(np.concatenate(errors), np.concatenate(spreads))
    return Coverage(half, nine_tenths, std_mm=1000.0 * float(np.concatenate(spreads)[:, 1:].mean()))
