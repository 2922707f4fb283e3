"""Scores of clips: the sums of every metric per sequence, and the distributions of the errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.actions import action_for_lifter
from refiner.data import CameraClip
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.protocol import EvaluationResult, Evaluator, SequenceScore
from refiner.evaluation.protocol import Sequence as ScoredSequence
from refiner.files import atomic_path, sha256_of
from refiner.runtime import Lifter
from refiner_bench.arrays import FloatArray

# Errors of frames in millimetres; the last bin is open. The bins separate the paper's limits of 30 and 35 mm.
HISTOGRAM_EDGES = np.arange(0.0, 251.0, 5.0)
JOINTS = 17


@dataclass(frozen=True)
class Distributions:
    """The distribution of the errors of one list of clips.

    Attributes:
        histogram: The number of frames in each bin of `HISTOGRAM_EDGES`, by MPJPE of the frame; the last bin is open.
        below_30: The share of frames with an MPJPE below 30 mm, 0 to 1.
        above_35: The share of frames with an MPJPE above 35 mm, 0 to 1.
        by_joint: The mean error of each joint in mm.
        by_camera: The MPJPE of each camera in mm.
    """

    histogram: list[int]
    below_30: float
    above_35: float
    by_joint: list[float]
    by_camera: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The scores of one row of the study on one part of the split.

    Attributes:
        part: The part of the split, such as "test".
        data: The name of the data.
        sequences: The scores of each sequence.
        before: The scores of the lifter's poses on the same clips.
        distributions: The distributions of the errors.
        extra: Further content for the row of the JSON report.
    """

    part: str
    data: str
    sequences: tuple[SequenceScore, ...]
    before: tuple[SequenceScore, ...]
    distributions: Distributions
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def result(self) -> EvaluationResult:
        """The scores of all sequences together."""
        return EvaluationResult(self.sequences)


class CachedPoses:
    """Poses of lists of clips, computed once and stored on disk under a name."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def get(
        self, name: str, clips: Sequence[CameraClip], make: Callable[[], list[FloatArray]]
    ) -> list[NDArray[np.float32]]:
        """The poses of the clips, from the cache or from ``make()``.

        Args:
            name: The name in the cache. It must identify everything that the poses depend on.
            clips: The clips.
            make: Computes the poses of every clip, ``(F, 17, 3)``.
        """
        file = self.cache / f"{name}.npz"
        if not file.is_file():
            poses = np.concatenate(make()).astype(np.float32)
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, poses=poses)
        with np.load(file) as archive:
            return np.split(archive["poses"], np.cumsum([clip.frames for clip in clips])[:-1])


class LiftedClips:
    """The poses of lifters for lists of clips, computed once and stored on disk under the hash of the lifter."""

    def __init__(self, cache: Path, threads: int) -> None:
        self._files, self.threads = CachedPoses(cache), threads
        # The last result only, because poses of many clips need much memory.
        self._latest: dict[str, list[NDArray[np.float32]]] = {}

    def lift(
        self, checkpoint: Path, clips: Sequence[CameraClip], name: str, mode: str = "", flip_test: bool = False
    ) -> list[NDArray[np.float32]]:
        """Lift every clip.

        Args:
            checkpoint: The lifter.
            clips: The clips.
            name: A name for the list of clips, which distinguishes it from other lists in the cache.
            mode: How a lifter with text prompts learns the action (see `refiner.actions.action_for_lifter`).
            flip_test: Whether to average with the mirrored pass.

        Returns:
            The poses of each clip, ``(F, 17, 3)`` in metres relative to the root.
        """
        digest = sha256_of(checkpoint)[:16]
        stem = "-".join(part for part in (digest, name, mode, "mirrored" * flip_test) if part)
        if stem not in self._latest:
            make = partial(self._lift, checkpoint, clips, mode, flip_test)
            self._latest = {stem: self._files.get(stem, clips, make)}
        return self._latest[stem]

    def _lift(self, checkpoint: Path, clips: Sequence[CameraClip], mode: str, flip_test: bool) -> list[FloatArray]:
        # Without a flip test here, None keeps the checkpoint's own setting.
        lifter = Lifter.load(checkpoint, flip_test=flip_test or None, threads=self.threads)
        poses = []
        for clip in clips:
            action = action_for_lifter(mode, clip.action, lifter.actions)
            poses.append(root_relative(lifter.lift(clip.pose_2d, clip.image_size, clip.fps, action=action)))
        return poses


class _ErrorSums:
    """Sums of the errors of clips, from which `Distributions` follow."""

    def __init__(self) -> None:
        self._histogram = np.zeros(len(HISTOGRAM_EDGES), dtype=np.int64)
        self._joint_sums = np.zeros(JOINTS)
        self._frames = self._below_30 = self._above_35 = 0
        # The sum of the frames' errors and the number of frames of each camera.
        self._cameras: dict[str, tuple[float, int]] = {}

    def add(self, clip: CameraClip, pose: FloatArray) -> None:
        """Add the errors of the poses ``(F, 17, 3)`` of one clip."""
        distance = 1000.0 * np.linalg.norm(pose.astype(np.float64) - clip.pose_3d, axis=-1)  # [F, J] mm
        error = distance.mean(axis=1)
        self._histogram += np.histogram(error, np.append(HISTOGRAM_EDGES, np.inf))[0]
        self._joint_sums += distance.sum(axis=0)
        self._frames += len(error)
        self._below_30 += int((error < 30).sum())
        self._above_35 += int((error > 35).sum())
        total, frames = self._cameras.get(clip.camera, (0.0, 0))
        self._cameras[clip.camera] = (total + float(error.sum()), frames + len(error))

    def distributions(self) -> Distributions:
        """The distributions over all frames so far."""
        return Distributions(
            histogram=self._histogram.tolist(),
            below_30=self._below_30 / self._frames,
            above_35=self._above_35 / self._frames,
            by_joint=(self._joint_sums / self._frames).tolist(),
            by_camera={name: total / frames for name, (total, frames) in self._cameras.items()},
        )


def score_clips(
    clips: Sequence[CameraClip],
    lifted: Sequence[FloatArray],
    refined: Sequence[FloatArray] | None,
    part: str,
    data: str,
    before: Sequence[FloatArray] | None = None,
) -> Scores:
    """Score refined poses, or the lifted poses themselves.

    Args:
        clips: The clips.
        lifted: The lifted poses of each clip, ``(F, 17, 3)`` in metres relative to the root.
        refined: The refined poses; None scores the lifted poses.
        part: The part of the split.
        data: The name of the data.
        before: The poses to compare with, if they are not ``lifted``: the lifter's plain poses for a row that lifts in
            another way.
    """
    evaluator, evaluator_before, sums = Evaluator(), Evaluator(), _ErrorSums()
    poses_after = lifted if refined is None else refined
    poses_before = lifted if before is None else before
    for clip, pose, pose_before in zip(clips, poses_after, poses_before, strict=True):
        evaluator.add(_sequence(clip, pose))
        sums.add(clip, pose)
        if poses_before is not poses_after:
            evaluator_before.add(_sequence(clip, pose_before))
    sequences = evaluator.result().sequences
    sequences_before = sequences if poses_before is poses_after else evaluator_before.result().sequences
    return Scores(part, data, sequences, sequences_before, sums.distributions())


def _sequence(clip: CameraClip, pose: FloatArray) -> ScoredSequence:
    return ScoredSequence(clip.key, clip.subject, clip.action, clip.camera, pose, clip.pose_3d)
