"""MPI-INF-3DHP's protocol: PCK, AUC and MPJPE of the valid frames of each sequence, then the mean of the six.

The published evaluation is MATLAB code; this is the same in Python. Poses are in that data set's own 17 joints
(`refiner.skeleton.MPI_INF_3DHP`) and made relative to the pelvis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.mpi_inf_3dhp import SEQUENCES, Annotation, Sequence3dhp, camera_of
from refiner.errors import EmptySequenceError, InputError, LengthError, ShapeError
from refiner.evaluation.metrics import auc, mpjpe, pck, root_relative
from refiner.evaluation.tables import markdown_table, text_table
from refiner.skeleton import MPI_INF_3DHP, from_h36m17, to_h36m17

ROOT = MPI_INF_3DHP.joint_names.index("pelvis")
# Millimetres, so that the bounds are whole numbers: exactly 150 mm is not below 150 mm, up to the rounding of positions
# that come as float32 metres (0.001 mm).
PCK_THRESHOLD_MM = 150.0
AUC_THRESHOLDS_MM = tuple(float(bound) for bound in range(0, 151, 5))

Lift = Callable[..., NDArray[Any]]
Refine = Callable[..., NDArray[Any]]


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
    # Float64 before the root is taken off: what float32 metres have lost is lost, but nothing is added to it.
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


def evaluate_3dhp(
    sequences: Iterable[Sequence3dhp], lift: Lift, refine: Refine | None = None, cameras: bool = False
) -> dict[str, Result3dhp]:
    """Score a lifter on the annotated 2D poses, and a refiner behind it: "lifter" and "refined".

    ``lift(pose_2d, image_size)`` takes ``(F, 17, 2)`` pixels in Human3.6M's joints, which all models here have, and
    returns ``(F, 17, 3)`` metres, ``refine(pose_2d, pose_3d, image_size)`` as many; the conversion between the two
    joint sets is exact. With ``cameras`` both also get ``camera=`` (`refiner.data.mpi_inf_3dhp.camera_of`), for models
    that see rays. As in the field's evaluations a sequence is lifted whole, its frames that are not valid
    included, and at the model's own frame rate: the files do not state theirs. Raises InputError where a sequence comes
    twice or with another annotation, EmptySequenceError for none.
    """
    labels = ["lifter"] if refine is None else ["lifter", "refined"]
    scores: dict[str, list[SequenceScore3dhp]] = {label: [] for label in labels}
    for sequence in sequences:
        if any(score.name == sequence.name or score.annotation != sequence.annotation for score in scores["lifter"]):
            raise InputError(f"{sequence.name} comes twice, or its annotation differs from that of the others")
        pose_2d = to_h36m17(sequence.pose_2d, MPI_INF_3DHP)
        lens = {"camera": camera_of(sequence)} if cameras else {}
        poses = {"lifter": lift(pose_2d, sequence.image_size, **lens)}
        if refine is not None:
            poses["refined"] = refine(pose_2d, poses["lifter"], sequence.image_size, **lens)
        for label, pose in poses.items():
            scores[label].append(score_sequence(sequence, from_h36m17(pose, MPI_INF_3DHP)))
    if not scores["lifter"]:
        raise EmptySequenceError("there is nothing to evaluate: no sequence was given")
    return {label: Result3dhp(tuple(found)) for label, found in scores.items()}


def format_3dhp(results: Mapping[str, Result3dhp], markdown: bool = False) -> str:
    """Scores of several columns ("lifter", "refined") on the same sequences, for people."""
    first = next(iter(results.values()))
    named = [(score.name, score.frames, index) for index, score in enumerate(first.sequences)]
    rows = []
    for name, frames, index in [*named, ("mean", sum(score.frames for score in first.sequences), None)]:
        found = [result if index is None else result.sequences[index] for result in results.values()]
        values = [f"{getattr(entry, key):.1f}" for key in ("pck", "auc", "mpjpe_mm") for entry in found]
        rows.append([name, str(frames), *values])
    header = ["sequence", "valid frames"]
    header += [f"{metric}, {label}" for metric in ("PCK %", "AUC %", "MPJPE mm") for label in results]
    note = "" if first.complete else f" Not all of {', '.join(SEQUENCES)} are here: no mean of the papers' kind."
    return (
        f"MPI-INF-3DHP, test set, {first.annotation}, annotated 2D; the mean is that of the sequences.{note}\n\n"
        + (markdown_table if markdown else text_table)(header, rows)
        + "\n"
    )
