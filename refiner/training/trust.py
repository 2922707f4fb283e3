"""Choose on validation people how much of a refinement is used (`refiner.models.unrolled.apply_trust`)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.data import CameraClip
from refiner.errors import UsageError
from refiner.evaluation.metrics import root_relative
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.models.unrolled import apply_trust
from refiner.runtime import Lifter, Refiner
from refiner.tensor_hashes import sha256_without_hashes

Array = NDArray[np.float32]
Trust = tuple[float, float]
# Candidates in metres for the first distance, and for the difference of the second distance to the first.
LEAST_MOVED, FURTHER = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03), (0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
MILLIMETRES = 1000.0


def best_trust(errors_of: Callable[[Trust], list[float]]) -> tuple[Trust, list[float]]:
    """Find the two distances with the smallest error.

    Args:
        errors_of: computes the errors of several estimators for two distances. The mean of their logarithms is
            minimised, so that one per cent counts alike for good and for bad estimators.

    Returns:
        The distances, and the errors for them.
    """
    candidates = [(low, low + more) for low in LEAST_MOVED for more in FURTHER]
    errors = [errors_of(trust) for trust in candidates]
    best = int(np.argmin([np.log(values).mean() for values in errors]))
    return candidates[best], errors[best]


def fit_trust(
    clips: Sequence[CameraClip],
    lifters: Sequence[Lifter],
    checkpoint: Path,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Trust, dict[str, list[float]]]:
    """Choose the trust of a refiner on clips that several lifters lift. Models that see rays get the clips' lenses.

    Args:
        clips: clips with ground truth.
        lifters: the lifters; each of them lifts every clip.
        checkpoint: the checkpoint of the refiner.
        progress: called with a message for each clip.

    Returns:
        The trust, and for each lifter the MPJPE in millimetres: "lifted" without the refiner, "steps" with the whole
        refinement, and "kept" with the trust.

    Raises:
        UsageError: there are no clips or no lifters.
    """
    if not clips or not lifters:
        raise UsageError("trust needs clips, and the lifters whose poses are refined")
    with tempfile.TemporaryDirectory() as folder:
        refiner = Refiner.load(_without_trust(checkpoint, Path(folder)))
    refiner.hop = refiner.frames
    frames: list[list[tuple[Array, Array, Array]]] = [[] for _ in lifters]
    for number, clip in enumerate(clips, 1):
        progress(f"clip {number} of {len(clips)}")
        for lifter, triples in zip(lifters, frames, strict=True):
            lifted = root_relative(lifter.lift(clip.pose_2d, None, fps=clip.fps, camera=clip.lens))
            refined = refiner.refine(clip.pose_2d, lifted, None, fps=clip.fps, camera=clip.lens)
            triples.append((lifted, root_relative(refined), clip.pose_3d))
    parts = [tuple(np.concatenate(arrays) for arrays in zip(*triples, strict=True)) for triples in frames]

    def errors_of(trust: Trust) -> list[float]:
        return [_mpjpe_mm(_with_trust(lifted, refined, trust), truth) for lifted, refined, truth in parts]

    trust, errors = best_trust(errors_of)
    measured = {"lifted": [_mpjpe_mm(lifted, truth) for lifted, _, truth in parts]}
    measured["steps"] = [_mpjpe_mm(refined, truth) for _, refined, truth in parts]
    return trust, measured | {"kept": errors}


def write_trust(
    checkpoint: Path, trust: Trust, errors: dict[str, list[float]], lifters: Sequence[Path], output: Path
) -> None:
    """Copy a checkpoint in half precision with another trust, and with the measured errors in its metrics."""
    loaded = load_checkpoint(checkpoint, "refiner")
    rows = [
        {
            "lifter": path.stem,
            "sha256": sha256_without_hashes(path),
            **{name: round(values[row], 3) for name, values in errors.items()},
        }
        for row, path in enumerate(lifters)
    ]
    metrics = {**loaded.config.get("metrics", {}), "trust_mpjpe_mm": rows}
    tensors = {**loaded.tensors, "trust": torch.tensor(trust, dtype=torch.float64)}
    save_checkpoint(output, {**loaded.config, "metrics": metrics}, tensors, half=True)


def _without_trust(checkpoint: Path, folder: Path) -> Path:
    loaded = load_checkpoint(checkpoint, "refiner")
    plain = folder / "plain.safetensors"
    save_checkpoint(plain, loaded.config, {name: value for name, value in loaded.tensors.items() if name != "trust"})
    return plain


def _with_trust(lifted: Array, refined: Array, trust: Trust) -> Array:
    blended: Array = apply_trust(torch.from_numpy(lifted), torch.from_numpy(refined), trust).numpy()
    return blended


def _mpjpe_mm(pose: Array, truth: Array) -> float:
    return MILLIMETRES * float(np.linalg.norm(pose - truth, axis=-1).mean())
