"""Human3.6M's protocol: per-action means weighted by frames, then the action-wise and the frame-wise mean.

The two averages differ if the actions have different lengths, so this package never calls one of them just "the mean".
Velocity and acceleration errors are computed inside a sequence, never across two clips. The results store sums and
counts per sequence, which determine every average and every bootstrap sample of clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.pairs import MistakeCount
from refiner.errors import EmptySequenceError, InputError, LengthError, UsageError
from refiner.evaluation import metrics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MetricInfo:
    """The description of a metric in reports.

    Attributes:
        label: The name of the metric.
        unit: The unit of its values.
        function: The metric, for two root-relative sequences ``(F, J, 3)`` in mm.
    """

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
    """A prediction for one clip, seen by one camera.

    The subject and the name identify a clip, which is the unit of the bootstrap.

    Attributes:
        name: The key of the clip in its archive (``Walking 1``).
        subject: The subject of the clip.
        action: The action under which the clip is scored (``Walking``).
        camera: The name of the camera.
        prediction: ``(F, J, 3)`` metres. The evaluation makes both sequences root-relative.
        target: The ground truth ``(F, J, 3)`` metres, in the same axes.
    """

    name: str
    subject: str
    action: str
    camera: str
    prediction: NDArray[Any] = field(repr=False)
    target: NDArray[Any] = field(repr=False)


@dataclass(frozen=True)
class SequenceScore:
    """The score of one sequence: the sum (mm) and the count of every metric over the frames, or frame steps."""

    name: str
    subject: str
    action: str
    camera: str
    frames: int
    sums: dict[str, float]
    counts: dict[str, int]

    @property
    def identity(self) -> tuple[str, str, str]:
        """(subject, name, camera), which identify the sequence."""
        return (self.subject, self.name, self.camera)

    def mean(self, metric: str) -> float:
        """Return the mean over the sequence; NaN if the sequence is too short for the metric."""
        return self.sums[metric] / self.counts[metric] if self.counts[metric] else float("nan")


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of one set of predictions, in the order in which the sequences were scored."""

    sequences: tuple[SequenceScore, ...]

    @property
    def actions(self) -> list[str]:
        """The actions, sorted by name."""
        return sorted({score.action for score in self.sequences})

    @property
    def frames(self) -> int:
        """The number of frames of all sequences."""
        return sum(score.frames for score in self.sequences)

    @property
    def clips(self) -> list[tuple[str, str]]:
        """(subject, name) of every clip, in order of first appearance. All cameras of a motion form one clip."""
        return list(dict.fromkeys((score.subject, score.name) for score in self.sequences))

    def per_action(self, metric: str) -> dict[str, float]:
        """Return the mean of each action over its frames, for all subjects and cameras together.

        The unit is mm, mm/frame or mm/frame^2. The value is NaN if all sequences of an action are too short for the
        metric. Raises UsageError for an unknown metric.
        """
        _known(metric)
        sums: dict[str, float] = dict.fromkeys(self.actions, 0.0)
        counts: dict[str, int] = dict.fromkeys(self.actions, 0)
        for score in self.sequences:
            sums[score.action] += score.sums[metric]
            counts[score.action] += score.counts[metric]
        return {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}

    def action_mean(self, metric: str) -> float:
        """Return the unweighted mean of the per-action means, which is the papers' "Avg" column.

        Actions that are too short for the metric are left out. The value is NaN if all actions are too short.
        """
        values = [value for value in self.per_action(metric).values() if not np.isnan(value)]
        return float(np.mean(values)) if values else float("nan")

    def frame_mean(self, metric: str) -> float:
        """Return the mean over all frames (or frame steps), with equal weights."""
        _known(metric)
        total = sum(score.counts[metric] for score in self.sequences)
        return sum(score.sums[metric] for score in self.sequences) / total if total else float("nan")


class Evaluator:
    """Scores sequences one at a time, so that the predictions do not need to be in memory together."""

    def __init__(self, root: int = 0) -> None:
        self.root = root
        self._mistakes = MistakeCount()
        self._scores: dict[tuple[str, str, str], SequenceScore] = {}

    def add(self, sequence: Sequence) -> SequenceScore:
        """Score one sequence.

        Raises:
            InputError: This clip and camera have already been scored.
            LengthError: The prediction and the target have different numbers of frames.
            ShapeError, EmptySequenceError, NonFiniteError, DTypeError: See `refiner.evaluation.mpjpe`.
            UnitError: The prediction or the target is not in metres.
        """
        where = f"{sequence.subject} / {sequence.name} / camera {sequence.camera}"
        predicted, expected = np.asarray(sequence.prediction), np.asarray(sequence.target)
        if predicted.ndim and expected.ndim and len(predicted) != len(expected):
            raise LengthError(f"{where}: {len(predicted)} predicted frames, {len(expected)} target frames")
        identity = (sequence.subject, sequence.name, sequence.camera)
        if identity in self._scores:
            raise InputError(f"{where} is given twice; every frame counts once")
        # Convert to millimetres in float64 before the root is subtracted, so that no float32 rounding enters the error.
        predicted_mm = metrics.root_relative(predicted.astype(np.float64) * 1000.0, self.root)
        expected_mm = metrics.root_relative(expected.astype(np.float64) * 1000.0, self.root)
        try:
            errors = {key: info.function(predicted_mm, expected_mm) for key, info in METRICS.items()}
        except InputError as error:
            raise type(error)(f"{where}: {error}") from error
        self._mistakes.add(predicted, expected, where, self.root)
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
        """Return the scores so far.

        Raises:
            EmptySequenceError: No sequence was added.
            InputError: Most predictions have other axes or another joint order than the truth (`refiner.data.pairs`).

        Warns:
            InputWarning: Some predictions do, or they have another scale, or are early or late.
        """
        if not self._scores:
            raise EmptySequenceError("there is nothing to evaluate: no sequence was given")
        self._mistakes.conclude()
        return EvaluationResult(tuple(self._scores.values()))


def evaluate_sequences(sequences: Iterable[Sequence], root: int = 0) -> EvaluationResult:
    """Score sequences by Human3.6M's protocol.

    Args:
        sequences: The sequences. The iterable is read once and may be a generator.
        root: The root joint, which is subtracted from the predictions and the targets.

    Raises:
        InputError: A sequence cannot be scored (see `Evaluator.add`), or there is none.
    """
    evaluator = Evaluator(root=root)
    for sequence in sequences:
        evaluator.add(sequence)
    return evaluator.result()


def _known(metric: str) -> None:
    if metric not in METRICS:
        raise UsageError(f"unknown metric '{metric}'; known: {', '.join(METRICS)}")
