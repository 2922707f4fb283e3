"""Draws skeletons before and after refinement, as in Fig. 5 of the paper: one clip for each refiner with ``detail``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from refiner_bench.accuracy.scores import Scores

from refiner.data import CameraClip
from refiner.evaluation.figures import before_after_figure
from studies.accuracy.runner import PARTS, Runner

# The length of the drawn clip.
SECONDS = 10.0


def draw_skeletons(runner: Runner, seed: int, folder: Path) -> list[Path]:
    """Draw ``skeletons-ROW.png`` for every refiner's row with ``detail`` that was trained and scored.

    Args:
        runner: The study.
        seed: The seed.
        folder: The folder for the files.

    Returns:
        The files.
    """
    files = []
    for row in runner.table.rows:
        if row.kind != "refiner" or not row.detail or (scores := runner.scores(row, seed)) is None:
            continue
        clip, before, after = runner.refined_test_clip(row, seed, middling(scores[PARTS.index("test")]))
        excerpt = _first_seconds(clip)
        frames = excerpt.frames
        files.append(
            before_after_figure(folder / f"skeletons-{row.name}.png", excerpt, before[:frames], after[:frames])
        )
    return files


def middling(scores: Scores) -> int:
    """The index of the clip with the median gain in MPJPE, as a typical example."""
    gains = [
        1.0 - after.mean("mpjpe") / before.mean("mpjpe")
        for before, after in zip(scores.before, scores.sequences, strict=True)
    ]
    order: Sequence[int] = np.argsort(gains, kind="stable").tolist()
    return order[len(order) // 2]


def _first_seconds(clip: CameraClip) -> CameraClip:
    """The first `SECONDS` of a clip."""
    frames = round(SECONDS * clip.fps)

    def cut(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[:frames]

    return dataclasses.replace(
        clip, pose_2d=cut(clip.pose_2d), pose_2d_clean=cut(clip.pose_2d_clean), pose_3d=cut(clip.pose_3d)
    )
