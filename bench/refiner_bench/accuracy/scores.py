"""Scores of one row: sums per sequence for every metric, and for some rows the distributions behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.actions import action_for_lifter
from refiner.data import CameraClip
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.protocol import EvaluationResult, Evaluator, SequenceScore
from refiner.evaluation.protocol import Sequence as ScoredSequence
from refiner.files import atomic_path, sha256_of
from refiner.runtime import Lifter

# Frame errors in millimetres, the last bin open: fine enough for the paper's 30 and 35 mm.
HISTOGRAM_EDGES = np.arange(0.0, 251.0, 5.0)
JOINTS = 17


@dataclass(frozen=True)
class Distributions:
    """The distribution of MPJPE over frames: its histogram, the mean by joint and by camera, all in mm."""

    histogram: list[int]
    below_30: float
    above_35: float
    by_joint: list[float]
    by_camera: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The scores of a row on one part of the split; ``before``: those of its lifter's poses on the same clips."""

    part: str
    data: str
    sequences: tuple[SequenceScore, ...]
    before: tuple[SequenceScore, ...]
    distributions: Distributions
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def result(self) -> EvaluationResult:
        return EvaluationResult(self.sequences)


class KeptClips:
    """Poses of a list of clips by name, computed once and kept on disk."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def get(
        self, name: str, clips: Sequence[CameraClip], make: Callable[[], list[NDArray[Any]]]
    ) -> list[NDArray[np.float32]]:
        """The poses that ``make()`` gives for the clips, or gave before under ``name``, which names all sources."""
        file = self.cache / f"{name}.npz"
        if not file.is_file():
            poses = np.concatenate(make()).astype(np.float32)
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, poses=poses)
        with np.load(file) as archive:
            return np.split(archive["poses"], np.cumsum([clip.frames for clip in clips])[:-1])


class LiftedClips:
    """A lifter's poses of a list of clips, computed once and kept on disk under the lifter's hash."""

    def __init__(self, cache: Path, threads: int) -> None:
        self._files, self.threads = KeptClips(cache), threads
        self._kept: dict[str, list[NDArray[np.float32]]] = {}

    def lift(
        self, checkpoint: Path, clips: Sequence[CameraClip], name: str, mode: str = "", flip_test: bool = False
    ) -> list[NDArray[np.float32]]:
        """``(F, 17, 3)`` root-relative metres of every clip; ``name`` tells the lists of clips apart, ``mode`` says
        how a lifter with prompts comes by the action (`refiner.actions.action_for_lifter`), ``flip_test`` averages with
        the mirrored pass."""
        digest = sha256_of(checkpoint)[:16]
        stem = "-".join(part for part in (digest, name, mode, "mirrored" * flip_test) if part)
        if stem not in self._kept:
            make = partial(self._lift, checkpoint, clips, mode, flip_test)
            self._kept = {stem: self._files.get(stem, clips, make)}
        return self._kept[stem]

    def _lift(self, checkpoint: Path, clips: Sequence[CameraClip], mode: str, flip_test: bool) -> list[NDArray[Any]]:
        # None: as the checkpoint says.
        lifter = Lifter.load(checkpoint, flip_test=flip_test or None, threads=self.threads)
        poses = []
        for clip in clips:
            action = action_for_lifter(mode, clip.action, lifter.actions)
            poses.append(root_relative(lifter.lift(clip.pose_2d, clip.image_size, clip.fps, action=action)))
        return poses


def score_clips(
    clips: Sequence[CameraClip],
    lifted: Sequence[NDArray[Any]],
    refined: Sequence[NDArray[Any]] | None,
    part: str,
    data: str,
    before: Sequence[NDArray[Any]] | None = None,
) -> Scores:
    """Score the refined poses of every clip, or the lifted ones themselves.

    ``before``: the lifter's own poses of them, where the row has it lift in another way.
    """
    evaluator, lifter = Evaluator(), Evaluator()
    histogram = np.zeros(len(HISTOGRAM_EDGES), dtype=np.int64)
    joints, frames, below, above = np.zeros(JOINTS), 0, 0, 0
    cameras: dict[str, list[float]] = {}
    changed = refined is not None or before is not None
    after = lifted if refined is None else refined
    for clip, pose, plain in zip(clips, after, lifted if before is None else before, strict=True):
        for target, scored in ((evaluator, pose), (lifter, plain)):
            if target is evaluator or changed:
                target.add(ScoredSequence(clip.key, clip.subject, clip.action, clip.camera, scored, clip.pose_3d))
        distance = 1000.0 * np.linalg.norm(pose.astype(np.float64) - clip.pose_3d, axis=-1)
        error = distance.mean(axis=1)
        histogram += np.histogram(error, np.append(HISTOGRAM_EDGES, np.inf))[0]
        joints += distance.sum(axis=0)
        frames, below, above = frames + len(error), below + int((error < 30).sum()), above + int((error > 35).sum())
        sums = cameras.setdefault(clip.camera, [0.0, 0])
        sums[0], sums[1] = sums[0] + float(error.sum()), sums[1] + len(error)
    distributions = Distributions(
        histogram.tolist(),
        below / frames,
        above / frames,
        (joints / frames).tolist(),
        {name: total / count for name, (total, count) in cameras.items()},
    )
    sequences = evaluator.result().sequences
    return Scores(part, data, sequences, lifter.result().sequences if changed else sequences, distributions)
