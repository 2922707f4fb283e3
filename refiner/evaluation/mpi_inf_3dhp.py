"""MPI-INF-3DHP's protocol: PCK, AUC and MPJPE of the valid frames of each sequence, then the mean of the six.

The published evaluation is MATLAB code; this is the same in Python. Poses are in that data set's own 17 joints
(`refiner.skeleton.MPI_INF_3DHP`) and made relative to the pelvis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.mpi_inf_3dhp import SEQUENCES, Annotation, Sequence3dhp
from refiner.errors import EmptySequenceError, InputError, LengthError, ShapeError
from refiner.evaluation.metrics import auc, mpjpe, pck, root_relative
from refiner.skeleton import MPI_INF_3DHP, from_h36m17, to_h36m17

ROOT = MPI_INF_3DHP.joint_names.index("pelvis")
# Millimetres, so that the bounds are whole numbers: exactly 150 mm is not below 150 mm.
PCK_THRESHOLD_MM = 150.0
AUC_THRESHOLDS_MM = tuple(float(bound) for bound in range(0, 151, 5))

Lift = Callable[[NDArray[Any], tuple[int, int]], NDArray[Any]]


@dataclass(frozen=True)
class SequenceScore3dhp:
    """One sequence: ``pck`` and ``auc`` in percent, ``mpjpe_mm``, over its valid ``frames``."""

    name: str
    annotation: Annotation
    frames: int
    pck: float
    auc: float
    mpjpe_mm: float


@dataclass(frozen=True)
class Result3dhp:
    """The scores of all sequences, and their unweighted means, which the papers' tables hold."""

    sequences: tuple[SequenceScore3dhp, ...]

    @property
    def annotation(self) -> Annotation:
        """Which 3D poses were the truth."""
        return self.sequences[0].annotation

    @property
    def complete(self) -> bool:
        """Whether all six sequences are there, without which the means are not the papers'."""
        return {score.name for score in self.sequences} == set(SEQUENCES)

    @property
    def pck(self) -> float:
        """Share of the 14 scored joints strictly below 150 mm, in percent."""
        return self._mean("pck")

    @property
    def auc(self) -> float:
        """Mean PCK over the bounds 0, 5, ..., 150 mm, in percent; a perfect pose has 30 / 31."""
        return self._mean("auc")

    @property
    def mpjpe_mm(self) -> float:
        """Mean distance over all 17 joints, the root with its 0."""
        return self._mean("mpjpe_mm")

    def _mean(self, metric: str) -> float:
        return float(np.mean([getattr(score, metric) for score in self.sequences]))


def score_sequence(sequence: Sequence3dhp, prediction: ArrayLike) -> SequenceScore3dhp:
    """Score ``(F, 17, 3)`` metres in camera axes and MPI-INF-3DHP's joints, one pose a frame of the sequence.

    The root may lie anywhere; what is said of frames that are not valid does not count. Raises LengthError, ShapeError,
    EmptySequenceError and NonFiniteError, naming the sequence.
    """
    poses = np.asarray(prediction, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (MPI_INF_3DHP.joints, 3):
        raise ShapeError(f"{sequence.name}: the prediction has shape {poses.shape}, expected (frames, 17, 3)")
    if len(poses) != len(sequence.pose_3d):
        raise LengthError(f"{sequence.name}: {len(poses)} predicted frames, the sequence has {len(sequence.pose_3d)}")
    if not sequence.valid.any():
        raise EmptySequenceError(f"{sequence.name} has no valid frame")
    # Millimetres in float64 before the root is taken off, so that no rounding of float32 metres enters.
    found, expected = (
        root_relative(side[sequence.valid].astype(np.float64) * 1000.0, ROOT) for side in (poses, sequence.pose_3d)
    )
    try:
        return SequenceScore3dhp(
            sequence.name,
            sequence.annotation,
            int(sequence.valid.sum()),
            float(100.0 * pck(found, expected, threshold=PCK_THRESHOLD_MM).mean()),
            float(100.0 * auc(found, expected, thresholds=AUC_THRESHOLDS_MM).mean()),
            float(mpjpe(found, expected).mean()),
        )
    except InputError as error:
        raise type(error)(f"{sequence.name}: {error}") from error


def evaluate_3dhp(sequences: Iterable[Sequence3dhp], lift: Lift) -> Result3dhp:
    """Score a lifter on the annotated 2D poses.

    ``lift(pose_2d, image_size)`` takes ``(F, 17, 2)`` pixels in Human3.6M's joints, which all models here have, and
    returns ``(F, 17, 3)`` metres; the conversion between the two joint sets is exact. As in the field's evaluations a
    sequence is lifted whole, its frames that are not valid included. Raises InputError where a sequence comes twice or
    with another annotation, EmptySequenceError for none.
    """
    scores: list[SequenceScore3dhp] = []
    for sequence in sequences:
        if any(score.name == sequence.name or score.annotation != sequence.annotation for score in scores):
            raise InputError(f"{sequence.name} comes twice, or its annotation differs from that of the others")
        lifted = lift(to_h36m17(sequence.pose_2d, MPI_INF_3DHP), sequence.image_size)
        scores.append(score_sequence(sequence, from_h36m17(lifted, MPI_INF_3DHP)))
    if not scores:
        raise EmptySequenceError("there is nothing to evaluate: no sequence was given")
    return Result3dhp(tuple(scores))
