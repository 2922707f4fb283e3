"""What a refiner's errors look like, measured and written into its checkpoint (`refiner.diffusion.uncertainty`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.data import CameraClip
from refiner.diffusion.uncertainty import JointUncertainty
from refiner.errors import UsageError
from refiner.evaluation.metrics import root_relative
from refiner.evaluation.pipeline import lens_options
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.runtime import Lifter, Refiner

Array = NDArray[np.float32]
# Frames of each person that are fitted to, so that nobody counts more for having been recorded for longer.
FRAMES_A_PERSON = 4000
# Clips of a person that are looked at, spread over all of them.
CLIPS_A_PERSON = 12


def measured(
    clip: CameraClip, lifter: Lifter, refiner: Refiner
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """``(F, 17)`` metres each of a clip: errors of the refined joints, how far they were moved, how fast they move.

    Models that see rays are given the clip's lens."""
    seen, refining = (lens_options(model.sees_rays, clip, "true") for model in (lifter, refiner))
    lifted = root_relative(lifter.lift(clip.pose_2d, clip.image_size, fps=clip.fps, **seen))
    refined = root_relative(refiner.refine(clip.pose_2d, lifted, clip.image_size, fps=clip.fps, **refining))
    return errors_and_signs(refined, lifted, clip.pose_3d)


def errors_and_signs(
    refined: NDArray[Any], lifted: NDArray[Any], truth: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """`measured` for root-relative poses ``(F, 17, 3)``."""
    error = np.linalg.norm(refined - truth, axis=-1)
    correction = np.linalg.norm(refined - lifted, axis=-1)
    speed = np.linalg.norm(np.diff(refined, axis=0, prepend=refined[:1]), axis=-1)
    return error, correction, speed


def fit_uncertainty(
    clips: Sequence[CameraClip],
    lifter: Lifter,
    refiner: Refiner,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> JointUncertainty:
    """Fitted to the people of ``clips``, each of whom counts alike.

    Training people belong to them: one validation person's errors alone say how hard that person's motion is. Raises
    UsageError for no clips.
    """
    if not clips:
        raise UsageError("there are no clips to calibrate on")
    rng = np.random.default_rng(seed)
    parts = []
    for person in dict.fromkeys(clip.subject for clip in clips):
        own = [clip for clip in clips if clip.subject == person]
        chosen = own[:: max(1, len(own) // CLIPS_A_PERSON)][:CLIPS_A_PERSON]
        found = []
        for index, clip in enumerate(chosen):
            progress(f"{person}: clip {index + 1} of {len(chosen)}")
            found.append(measured(clip, lifter, refiner))
        whole = [np.concatenate(column) for column in zip(*found, strict=True)]
        rows = rng.integers(0, len(whole[0]), FRAMES_A_PERSON)
        parts.append([column[rows] for column in whole])
    error, correction, speed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return JointUncertainty.fit(error, correction, speed)


def write_uncertainty(checkpoint: Path, uncertainty: JointUncertainty, output: Path) -> None:
    """The checkpoint again with ``uncertainty`` in its configuration, its tensors as they were. Raises
    CheckpointError."""
    read = load_checkpoint(checkpoint, "refiner")
    save_checkpoint(output, {**read.config, "uncertainty": uncertainty.to_config()}, read.tensors)
