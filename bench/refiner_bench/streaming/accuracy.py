"""The errors of streams on a part of the split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
from refiner_bench.streaming.delay import (
    DELAYS,
    Array,
    FilterTuning,
    window_streams,
    with_running_shape,
)

METRICS = ("mpjpe", "p_mpjpe", "acceleration_error")
Tell = Callable[[str], None]


def delay_errors(
    clips: Sequence[CameraClip],
    validation: Sequence[CameraClip],
    lifter: Path,
    window: Path,
    causal: Path | None,
    cache: Path,
    tell: Tell,
) -> dict[str, Any]:
    """Method -> delay in frames -> metric -> frame-wise mean, of the lifter's poses on ``clips``.

    The input is the lifter's offline output: what an estimator with a delay of its own would hand over; the delays are
    those of the refinement. Filters are tuned for MPJPE at each delay on ``validation``; what smooths
    the causal refiner's own output is chosen there too, see `FilterTuning`.
    """
    lifting = LiftedClips(cache, 1)
    lifted = lifting.lift(lifter, validation, "validation")
    tuning = [(pose, clip.pose_3d, clip.fps) for clip, pose in zip(validation, lifted, strict=True)]
    chosen: dict[str, dict[str, Any]] = {}
    lifted = lifting.lift(lifter, clips, "test")
    table = _Table(clips)
    table.add("input", 0, lifted)
    table.add("input, one shape", 0, [with_running_shape(pose) for pose in lifted])
    engine = open_engine(window, "refiner", EngineOptions(threads=1))
    tell("windows")
    streams = [window_streams(engine, clip, pose, DELAYS) for clip, pose in zip(clips, lifted, strict=True)]
    for delay in DELAYS:
        poses = [found[delay] for found in streams]
        table.add("window", delay, poses)
        table.add("window, one shape", delay, [with_running_shape(pose) for pose in poses])
    if causal is not None:
        tell("causal")
        poses = _refined(causal, clips, lifted)
        table.add("causal", 0, poses)
        table.add("causal, one shape", 0, [with_running_shape(pose) for pose in poses])
        tell("causal, smoothed")
        refined = _refined(causal, validation, lifting.lift(lifter, validation, "validation"))
        pairs = zip(validation, refined, strict=True)
        smooth, settings = FilterTuning([(pose, clip.pose_3d, clip.fps) for clip, pose in pairs]).calmest_one_euro()
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
    return {"errors": table.rows, "filters": chosen, "frames": int(sum(len(pose) for pose in lifted))}


def _refined(causal: Path, clips: Sequence[CameraClip], lifted: Sequence[Array]) -> list[Array]:
    refiner = Refiner.load(causal, threads=1)
    return [
        root_relative(refiner.refine(clip.pose_2d, pose, clip.image_size, fps=clip.fps))
        for clip, pose in zip(clips, lifted, strict=True)
    ]


class _Table:
    def __init__(self, clips: Sequence[CameraClip]) -> None:
        self._clips = clips
        self.rows: dict[str, dict[str, dict[str, float]]] = {}

    def add(self, method: str, delay: int, poses: Sequence[Array]) -> None:
        evaluator = Evaluator()
        for clip, pose in zip(self._clips, poses, strict=True):
            scored = root_relative(pose)
            evaluator.add(ScoredSequence(clip.key, clip.subject, clip.action, clip.camera, scored, clip.pose_3d))
        result = evaluator.result()
        self.rows.setdefault(method, {})[str(delay)] = {metric: result.frame_mean(metric) for metric in METRICS}


def measured_coverage(
    clips: Sequence[CameraClip], lifter: Path, checkpoint: Path, cache: Path
) -> dict[str, float] | None:
    """How much of the errors lies inside the 50 % and the 90 % regions that the checkpoint gives; None where it gives
    none."""
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
    half, most = model.coverage(np.concatenate(errors), np.concatenate(spreads))
    return {"half": half, "nine_tenths": most, "std_mm": 1000.0 * float(np.concatenate(spreads)[:, 1:].mean())}
