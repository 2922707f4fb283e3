"""Details of a refiner's row: a comparison of its input with its training data, and errors by window position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refiner.data import CameraClip
from refiner.diffusion.familiarity import merge_familiarity
from refiner.runtime import Refiner


def compare_input(
    refiner: Refiner, clips: Sequence[CameraClip], lifted: Sequence[NDArray[np.float32]]
) -> dict[str, object] | None:
    """Compare the input with the refiner's training data.

    Args:
        refiner: The refiner.
        clips: The clips.
        lifted: The lifted poses of each clip, ``(F, 17, 3)``.

    Returns:
        The entry of the report; None if the refiner has no statistics of its training data.
    """
    parts = []
    for clip, pose in zip(clips, lifted, strict=True):
        familiar = refiner.compare_input(clip.pose_2d, pose, clip.image_size, fps=clip.fps)
        if familiar is not None:
            parts.append((clip.frames, familiar))
    familiarity = merge_familiarity(parts)
    return None if familiarity is None else dataclasses.asdict(familiarity) | {"warnings": familiarity.warnings}


def errors_by_position(
    checkpoint: Path, threads: int, clips: Sequence[CameraClip], lifted: Sequence[NDArray[np.float32]]
) -> list[float]:
    """MPJPE in mm by the position of a frame in its window.

    The windows do not overlap here. Normally they overlap, and are blended to reduce the differences between positions.

    Args:
        checkpoint: The refiner.
        threads: The number of threads.
        clips: The clips.
        lifted: The lifted poses of each clip, ``(F, 17, 3)``.

    Returns:
        The error of each of the T positions.
    """
    refiner = Refiner.load(checkpoint, threads=threads)
    refiner.hop = refiner.frames
    total, count = np.zeros(refiner.frames), np.zeros(refiner.frames)
    for clip, pose in zip(clips, lifted, strict=True):
        whole = clip.frames - clip.frames % refiner.frames
        if not whole:
            continue
        refined = refiner.refine(clip.pose_2d[:whole], pose[:whole], clip.image_size)
        error = np.linalg.norm(refined - refined[:, :1] - clip.pose_3d[:whole], axis=-1).mean(axis=-1)
        by_window = error.reshape(-1, refiner.frames)
        total, count = total + by_window.sum(axis=0), count + len(by_window)
    return [float(value) for value in 1000.0 * total / np.maximum(count, 1)]
