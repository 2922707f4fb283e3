"""MPI-INF-3DHP's protocol: PCK, AUC and MPJPE over the valid frames of each sequence, then the mean of six sequences.

The published evaluation is MATLAB code; this module computes the same in Python. Poses have the 17 joints of the data
set (`refiner.skeleton.MPI_INF_3DHP`) and are made relative to the pelvis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.data.mpi_inf_3dhp import SEQUENCES, Annotation, Sequence3dhp, camera_of
from refiner.errors import ArchiveError, ConfigError, EmptySequenceError, InputError, LengthError, ShapeError
from refiner.evaluation.metrics import auc, mpjpe, pck, root_relative
from refiner.evaluation.tables import markdown_table, text_table
from refiner.from_toml import dataclass_from
from refiner.reports import EVALUATION_3DHP, Report, new_report
from refiner.skeleton import MPI_INF_3DHP, from_h36m17, to_h36m17

ROOT = MPI_INF_3DHP.joint_names.index("pelvis")
# The thresholds are in millimetres, so that they are whole numbers. An error of exactly 150 mm is not below 150 mm,
# except for the rounding of positions in float32 metres (0.001 mm).
PCK_THRESHOLD_MM = 150.0
AUC_THRESHOLDS_MM = tuple(float(bound) for bound in range(0, 151, 5))

Lift = Callable[..., NDArray[Any]]
Refine = Callable[..., NDArray[Any]]


@dataclass(frozen=True)
class SequenceScore3dhp:
    """The scores of one sequence over its valid ``frames``: ``pck`` and ``auc`` in percent, and ``mpjpe_mm``."""

    name: str
    annotation: Annotation
    frames: int
    pck: float
    auc: float
    mpjpe_mm: float


@dataclass(frozen=True)
class Result3dhp:
    """The scores of all sequences, and their unweighted means, which are the figures of the papers' tables."""

    sequences: tuple[SequenceScore3dhp, ...]

    @property
    def annotation(self) -> Annotation:
        """The annotation that is the ground truth."""
        return self.sequences[0].annotation

    @property
    def complete(self) -> bool:
        """Whether all six sequences are scored. Otherwise the means are not comparable with the papers' figures."""
        return {score.name for score in self.sequences} == set(SEQUENCES)

    @property
    def pck(self) -> float:
        """The percentage of the 14 scored joints whose error is strictly below 150 mm."""
        return self._mean("pck")

    @property
    def auc(self) -> float:
        """The mean PCK over the thresholds 0, 5, ..., 150 mm, in percent. A perfect pose has 30 / 31."""
        return self._mean("auc")

    @property
    def mpjpe_mm(self) -> float:
        """The mean error over all 17 joints in mm. The error of the root is 0."""
        return self._mean("mpjpe_mm")

    def _mean(self, metric: str) -> float:
        return float(np.mean([getattr(score, metric) for score in self.sequences]))


def score_sequence(sequence: Sequence3dhp, prediction: ArrayLike) -> SequenceScore3dhp:
    """Score the predictions for one sequence. Only the valid frames are scored.

    Args:
        sequence: The sequence with the ground truth.
        prediction: ``(F, 17, 3)`` metres, in camera axes and MPI-INF-3DHP's joints. The root may lie anywhere.

    Raises:
        LengthError: The prediction has another number of frames.
        ShapeError: The prediction has another shape.
        EmptySequenceError: The sequence has no valid frame.
        NonFiniteError: A pose of a valid frame holds NaN or infinite values.
    """
    poses = np.asarray(prediction, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (MPI_INF_3DHP.joints, 3):
        raise ShapeError(f"{sequence.name}: the prediction has shape {poses.shape}, expected (frames, 17, 3)")
    if len(poses) != len(sequence.pose_3d):
        raise LengthError(f"{sequence.name}: {len(poses)} predicted frames, the sequence has {len(sequence.pose_3d)}")
    if not sequence.valid.any():
        raise EmptySequenceError(f"{sequence.name} has no valid frame")
    # Convert to float64 before the root is subtracted, so that the subtraction adds no rounding error.
    predicted, expected = (
        root_relative(pose[sequence.valid].astype(np.float64) * 1000.0, ROOT) for pose in (poses, sequence.pose_3d)
    )
    try:
        return SequenceScore3dhp(
            sequence.name,
            sequence.annotation,
            int(sequence.valid.sum()),
            float(100.0 * pck(predicted, expected, threshold=PCK_THRESHOLD_MM).mean()),
            float(100.0 * auc(predicted, expected, thresholds=AUC_THRESHOLDS_MM).mean()),
            float(mpjpe(predicted, expected).mean()),
        )
    except InputError as error:
        raise type(error)(f"{sequence.name}: {error}") from error


def evaluate_3dhp(
    sequences: Iterable[Sequence3dhp], lift: Lift, refine: Refine | None = None, cameras: bool = False
) -> dict[str, Result3dhp]:
    """Score a lifter on the annotated 2D poses, and a refiner on the poses of the lifter.

    The models use Human3.6M's joints, and the conversion between the two joint sets is exact. The lifter receives whole
    sequences, including the frames that are not valid, as in other evaluations of this data set. The files do not state
    their frame rate, so the model's frame rate is assumed.

    Args:
        sequences: The sequences of the test set.
        lift: ``lift(pose_2d, image_size)`` takes ``(F, 17, 2)`` pixels and returns ``(F, 17, 3)`` metres.
        refine: ``refine(pose_2d, pose_3d, image_size)`` also takes these poses and returns ``(F, 17, 3)`` metres. None:
            score only the lifter.
        cameras: Pass ``camera=`` to both functions (`refiner.data.mpi_inf_3dhp.camera_of`), for models of rays.

    Returns:
        The results "lifter" and "refined".

    Raises:
        InputError: A sequence comes twice, or the sequences have different annotations.
        EmptySequenceError: There are no sequences.
    """
    labels = ["lifter"] if refine is None else ["lifter", "refined"]
    scores: dict[str, list[SequenceScore3dhp]] = {label: [] for label in labels}
    for sequence in sequences:
        if any(score.name == sequence.name or score.annotation != sequence.annotation for score in scores["lifter"]):
            raise InputError(f"{sequence.name} comes twice, or its annotation differs from the other sequences")
        pose_2d = to_h36m17(sequence.pose_2d, MPI_INF_3DHP)
        lens = {"camera": camera_of(sequence)} if cameras else {}
        poses = {"lifter": lift(pose_2d, sequence.image_size, **lens)}
        if refine is not None:
            poses["refined"] = refine(pose_2d, poses["lifter"], sequence.image_size, **lens)
        for label, pose in poses.items():
            scores[label].append(score_sequence(sequence, from_h36m17(pose, MPI_INF_3DHP)))
    if not scores["lifter"]:
        raise EmptySequenceError("there is nothing to evaluate: no sequence was given")
    return {label: Result3dhp(tuple(entries)) for label, entries in scores.items()}


def report_3dhp(
    results: Mapping[str, Result3dhp], models: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> Report:
    """Build the report of an evaluation on MPI-INF-3DHP, which consists of JSON types.

    Args:
        results: The results of `evaluate_3dhp`.
        models: The descriptions of the models by role.
        settings: The settings of the evaluation.

    Returns:
        The report. ``complete`` says whether all six sequences are in it, ``annotation`` names the ground truth, and
        ``columns`` holds the scores of the sequences and their means, by label.
    """
    first = next(iter(results.values()))
    columns = {
        label: {
            "sequences": [asdict(score) for score in result.sequences],
            "mean": {"pck": result.pck, "auc": result.auc, "mpjpe_mm": result.mpjpe_mm},
        }
        for label, result in results.items()
    }
    return new_report(EVALUATION_3DHP, settings or {}) | {
        "annotation": first.annotation,
        "complete": first.complete,
        "models": dict(models),
        "columns": columns,
    }


def results_of_report(report: Mapping[str, Any]) -> dict[str, Result3dhp]:
    """Return the results that a report holds. Raises ArchiveError if the report lacks them."""
    try:
        return {
            label: Result3dhp(
                tuple(dataclass_from(SequenceScore3dhp, score, "the report") for score in column["sequences"])
            )
            for label, column in report["columns"].items()
        }
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ArchiveError(f"the report has no scores of MPI-INF-3DHP's sequences: {error}") from error


def format_3dhp(results: Mapping[str, Result3dhp], markdown: bool = False) -> str:
    """Format the results of several columns ("lifter", "refined") on the same sequences as a table."""
    first = next(iter(results.values()))
    lines = [(score.name, score.frames, index) for index, score in enumerate(first.sequences)]
    rows = []
    for name, frames, index in [*lines, ("mean", sum(score.frames for score in first.sequences), None)]:
        entries = [result if index is None else result.sequences[index] for result in results.values()]
        values = [f"{getattr(entry, key):.1f}" for key in ("pck", "auc", "mpjpe_mm") for entry in entries]
        rows.append([name, str(frames), *values])
    header = ["sequence", "valid frames"]
    header += [f"{metric}, {label}" for metric in ("PCK %", "AUC %", "MPJPE mm") for label in results]
    note = "" if first.complete else f" Not all of {', '.join(SEQUENCES)} are here: the mean differs from the papers'."
    return (
        f"MPI-INF-3DHP, test set, {first.annotation}, annotated 2D; the mean is over the sequences.{note}\n\n"
        + (markdown_table if markdown else text_table)(header, rows)
        + "\n"
    )
