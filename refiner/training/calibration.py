"""Measure a refiner's errors, and write their statistics into its checkpoint (`refiner.diffusion.uncertainty`)."""

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
# Frames of each person for the fit. The number is the same for everybody, so that long recordings do not dominate.
FRAMES_A_PERSON = 4000
# Largest number of clips of a person; they are spread over all of the person's clips.
CLIPS_A_PERSON = 12


def measured(
    clip: CameraClip, lifter: Lifter, refiner: Refiner
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Measure the errors of a refiner on a clip. Models that see rays get the clip's true lens.

    Returns:
        Errors of the refined joints, distances by which the refiner moved them, and their speeds from frame to
        frame, each ``(F, 17)`` metres.
    """
    lifter_lens, refiner_lens = (lens_options(model.sees_rays, clip, "true") for model in (lifter, refiner))
    lifted = root_relative(lifter.lift(clip.pose_2d, clip.image_size, fps=clip.fps, **lifter_lens))
    refined = root_relative(refiner.refine(clip.pose_2d, lifted, clip.image_size, fps=clip.fps, **refiner_lens))
    return errors_and_signs(refined, lifted, clip.pose_3d)


def errors_and_signs(
    refined: NDArray[Any], lifted: NDArray[Any], truth: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """`measured` for root-relative poses ``(F, 17, 3)``, metres."""
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
    """Fit the uncertainty to the people of ``clips``, each of whom counts alike.

    The clips should include training people: the errors on a single validation person mostly tell how hard that
    person's motion is.

    Args:
        clips: clips with ground truth.
        lifter: the lifter in front of the refiner.
        refiner: the refiner.
        seed: of the choice of frames.
        progress: called with a message for each clip.

    Raises:
        UsageError: there are no clips.
    """
    if not clips:
        raise UsageError("there are no clips to calibrate on")
    rng = np.random.default_rng(seed)
    parts = []
    for person in dict.fromkeys(clip.subject for clip in clips):
        own = [clip for clip in clips if clip.subject == person]
        chosen = own[:: max(1, len(own) // CLIPS_A_PERSON)][:CLIPS_A_PERSON]
        measurements = []
        for index, clip in enumerate(chosen):
            progress(f"{person}: clip {index + 1} of {len(chosen)}")
            measurements.append(measured(clip, lifter, refiner))
        whole = [np.concatenate(column) for column in zip(*measurements, strict=True)]
        rows = rng.integers(0, len(whole[0]), FRAMES_A_PERSON)
        parts.append([column[rows] for column in whole])
    error, correction, speed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return JointUncertainty.fit(error, correction, speed)


def write_uncertainty(checkpoint: Path, uncertainty: JointUncertainty, output: Path) -> None:
    """Copy a checkpoint, with ``uncertainty`` added to its configuration. The tensors stay unchanged.

    Raises:
        CheckpointError: ``checkpoint`` is no refiner's checkpoint.
    """
    read = load_checkpoint(checkpoint, "refiner")
    save_checkpoint(output, {**read.config, "uncertainty": uncertainty.to_config()}, read.tensors)
