"""Skeletons before and after refinement (the paper's Fig. 5), of one clip for each refiner with ``detail``."""

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

SECONDS = 10.0


def draw_skeletons(runner: Runner, seed: int, folder: Path) -> list[Path]:
    """``skeletons-ROW.png`` of every row with ``detail`` that has been trained and scored."""
    drawn = []
    for row in runner.table.rows:
        if row.kind != "refiner" or not row.detail or (found := runner.scores(row, seed)) is None:
            continue
        clip, before, after = runner.refined_test_clip(row, seed, middling(found[PARTS.index("test")]))
        shown = _first_seconds(clip)
        frames = shown.frames
        drawn.append(before_after_figure(folder / f"skeletons-{row.name}.png", shown, before[:frames], after[:frames]))
    return drawn


def middling(scores: Scores) -> int:
    """The clip with the median gain in MPJPE: neither the best that there is to show, nor the worst."""
    gains = [
        1.0 - after.mean("mpjpe") / before.mean("mpjpe")
        for before, after in zip(scores.before, scores.sequences, strict=True)
    ]
    order: Sequence[int] = np.argsort(gains, kind="stable").tolist()
    return order[len(order) // 2]


def _first_seconds(clip: CameraClip) -> CameraClip:
    frames = round(SECONDS * clip.fps)

    def cut(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[:frames]

    return dataclasses.replace(
        clip, pose_2d=cut(clip.pose_2d), pose_2d_clean=cut(clip.pose_2d_clean), pose_3d=cut(clip.pose_3d)
    )
