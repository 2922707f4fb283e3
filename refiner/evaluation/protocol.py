"""Human3.6M's protocol: per-action means weighted by frames, then the action-wise and the frame-wise mean.

The two averages differ where actions differ in length, so neither is ever called just "the mean". Velocity
and acceleration are taken inside a sequence only, never across two clips. Sums and counts are kept per
sequence, so that every average and every resample of clips follows from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import EmptySequenceError, InputError, LengthError, UsageError
from refiner.evaluation import metrics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MetricInfo:
    """What a report needs to know of a metric; ``function`` takes two root-relative ``(F, J, 3)`` in mm."""

    label: str
    unit: str
    function: Callable[[ArrayLike, ArrayLike], Array]


METRICS: dict[str, MetricInfo] = {
    "mpjpe": MetricInfo("MPJPE", "mm", metrics.mpjpe),
    "p_mpjpe": MetricInfo("P-MPJPE", "mm", metrics.p_mpjpe),
    "n_mpjpe": MetricInfo("N-MPJPE", "mm", metrics.n_mpjpe),
    "mpjve": MetricInfo("MPJVE", "mm/frame", metrics.mpjve),
    "acceleration_error": MetricInfo("Acceleration error", "mm/frame^2", metrics.acceleration_error),
}


@dataclass(frozen=True)
class Sequence:
    """One clip seen by one camera.

    ``name`` is the clip's key in its archive (``Walking 1``), ``action`` what it counts under (``Walking``),
    ``camera`` any name of the view. ``prediction`` and ``target`` are ``(F, J, 3)`` in metres, in the same axes;
    the evaluation makes both root-relative. A clip, the unit of the bootstrap, is subject + name.
    """

    name: str
    subject: str
    action: str
    camera: str
    prediction: NDArray[Any] = field(repr=False)
    target: NDArray[Any] = field(repr=False)


@dataclass(frozen=True)
class SequenceScore:
    """Sums (mm) and counts of every metric over the frames, or frame steps, of one sequence."""

    name: str
    subject: str
    action: str
    camera: str
    frames: int
    sums: dict[str, float]
    counts: dict[str, int]

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.subject, self.name, self.camera)

    def mean(self, metric: str) -> float:
        """Mean over the sequence, NaN where it is too short for the metric."""
        return self.sums[metric] / self.counts[metric] if self.counts[metric] else float("nan")


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of one set of predictions; ``sequences`` are in the order in which they were scored."""

    sequences: tuple[SequenceScore, ...]

    @property
    def actions(self) -> list[str]:
        """The actions, sorted by name."""
        return sorted({score.action for score in self.sequences})

    @property
    def frames(self) -> int:
        return sum(score.frames for score in self.sequences)

    @property
    def clips(self) -> list[tuple[str, str]]:
        """(subject, name) of every clip, in order of first appearance; a clip's cameras are one clip."""
        return list(dict.fromkeys((score.subject, score.name) for score in self.sequences))

    def per_action(self, metric: str) -> dict[str, float]:
        """action -> mean over that action's frames, whatever the subject and camera (mm, mm/frame, mm/frame^2).

        NaN for an action whose sequences are all too short for the metric.
        """
        _known(metric)
        sums: dict[str, float] = dict.fromkeys(self.actions, 0.0)
        counts: dict[str, int] = dict.fromkeys(self.actions, 0)
        for score in self.sequences:
            sums[score.action] += score.sums[metric]
            counts[score.action] += score.counts[metric]
        return {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}

    def action_mean(self, metric: str) -> float:
        """Unweighted mean of the per-action means: the number in the papers' "Avg" column.

        Actions too short for the metric are left out; NaN when all are.
        """
        values = [value for value in self.per_action(metric).values() if not np.isnan(value)]
        return float(np.mean(values)) if values else float("nan")

    def frame_mean(self, metric: str) -> float:
        """Mean over all frames (or frame steps), every one with the same weight."""
        _known(metric)
        total = sum(score.counts[metric] for score in self.sequences)
        return sum(score.sums[metric] for score in self.sequences) / total if total else float("nan")


class Evaluator:
    """Scores sequences one at a time, so that predictions need not be held in memory together."""

    def __init__(self, root: int = 0) -> None:
        self.root = root
        self._scores: dict[tuple[str, str, str], SequenceScore] = {}

    def add(self, sequence: Sequence) -> SequenceScore:
        """Score one sequence.

        Raises InputError when this clip and camera were scored before (a frame counts once), LengthError for
        unequal lengths, and what `refiner.evaluation.mpjpe` raises for arrays that cannot be scored.
        """
        where = f"{sequence.subject} / {sequence.name} / camera {sequence.camera}"
        predicted, expected = np.asarray(sequence.prediction), np.asarray(sequence.target)
        if predicted.ndim and expected.ndim and len(predicted) != len(expected):
            raise LengthError(f"{where}: {len(predicted)} predicted frames, {len(expected)} target frames")
        identity = (sequence.subject, sequence.name, sequence.camera)
        if identity in self._scores:
            raise InputError(f"{where} is given twice; every frame counts once")
        # Millimetres in float64 before the root is subtracted: no rounding of float32 metres enters the error.
        predicted_mm = metrics.root_relative(predicted.astype(np.float64) * 1000.0, self.root)
        expected_mm = metrics.root_relative(expected.astype(np.float64) * 1000.0, self.root)
        try:
            errors = {key: info.function(predicted_mm, expected_mm) for key, info in METRICS.items()}
        except InputError as error:
            raise type(error)(f"{where}: {error}") from error
        score = SequenceScore(
            name=sequence.name,
            subject=sequence.subject,
            action=sequence.action,
            camera=sequence.camera,
            frames=len(predicted),
            sums={key: float(values.sum()) for key, values in errors.items()},
            counts={key: len(values) for key, values in errors.items()},
        )
        self._scores[identity] = score
        return score

    def result(self) -> EvaluationResult:
        """What was added so far. Raises EmptySequenceError when that is nothing."""
        if not self._scores:
            raise EmptySequenceError("there is nothing to evaluate: no sequence was given")
        return EvaluationResult(tuple(self._scores.values()))


def evaluate_sequences(sequences: Iterable[Sequence], root: int = 0) -> EvaluationResult:
    """Score sequences by Human3.6M's protocol; ``root`` is the joint that both poses are made relative to.

    The iterable is read once and may be a generator. Raises as `Evaluator.add` and `Evaluator.result`.
    """
    evaluator = Evaluator(root=root)
    for sequence in sequences:
        evaluator.add(sequence)
    return evaluator.result()


def _known(metric: str) -> None:
    if metric not in METRICS:
        raise UsageError(f"unknown metric '{metric}'; known: {', '.join(METRICS)}")
