"""How much of a refinement is kept: two distances, chosen on validation people (`refiner.models.unrolled.trusted`)."""

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
from refiner.files import sha256_of
from refiner.model_files.checkpoint import load_checkpoint, save_checkpoint
from refiner.models.unrolled import trusted
from refiner.runtime import Lifter, Refiner

Array = NDArray[np.float32]
Trust = tuple[float, float]
# Metres: what is tried for the two distances, the second above the first.
LEAST_MOVED, FURTHER = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03), (0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
MILLIMETRES = 1000.0


def best_trust(errors_of: Callable[[Trust], list[float]]) -> tuple[Trust, list[float]]:
    """The two distances with the least error, and the errors with them.

    ``errors_of``: the error of each of several estimators with two distances. They are compared by their logarithms, so
    that a per cent counts alike for good and for bad estimators.
    """
    tried = [(low, low + more) for low in LEAST_MOVED for more in FURTHER]
    found = [errors_of(trust) for trust in tried]
    place = int(np.argmin([np.log(errors).mean() for errors in found]))
    return tried[place], found[place]


def fit_trust(
    clips: Sequence[CameraClip],
    lifters: Sequence[Lifter],
    checkpoint: Path,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Trust, dict[str, list[float]]]:
    """Choose the trust of the refiner of ``checkpoint`` on ``clips``, each lifted by every one of ``lifters``.

    Returns it with the MPJPE in millimetres of each lifter: "lifted", "steps" (all of the refinement kept) and "kept".
    Models that see rays are told the clips' lenses. Raises UsageError for no clips or no lifters.
    """
    if not clips or not lifters:
        raise UsageError("trust needs clips, and the lifters whose poses are refined")
    with tempfile.TemporaryDirectory() as folder:
        refiner = Refiner.load(_without_trust(checkpoint, Path(folder)))
    refiner.hop = refiner.frames
    frames: list[list[tuple[Array, Array, Array]]] = [[] for _ in lifters]
    for number, clip in enumerate(clips, 1):
        progress(f"clip {number} of {len(clips)}")
        for lifter, kept in zip(lifters, frames, strict=True):
            lifted = root_relative(lifter.lift(clip.pose_2d, None, fps=clip.fps, camera=clip.lens))
            refined = refiner.refine(clip.pose_2d, lifted, None, fps=clip.fps, camera=clip.lens)
            kept.append((lifted, root_relative(refined), clip.pose_3d))
    parts = [tuple(np.concatenate(arrays) for arrays in zip(*kept, strict=True)) for kept in frames]

    def errors_of(trust: Trust) -> list[float]:
        return [_mpjpe_mm(_kept(given, refined, trust), truth) for given, refined, truth in parts]

    trust, errors = best_trust(errors_of)
    told = {"lifted": [_mpjpe_mm(given, truth) for given, _, truth in parts]}
    told["steps"] = [_mpjpe_mm(refined, truth) for _, refined, truth in parts]
    return trust, told | {"kept": errors}


def write_trust(
    checkpoint: Path, trust: Trust, errors: dict[str, list[float]], lifters: Sequence[Path], output: Path
) -> None:
    """The checkpoint with another trust, and in its metrics what was measured on which lifters; in half precision."""
    found = load_checkpoint(checkpoint, "refiner")
    rows = [
        {
            "lifter": path.stem,
            "sha256": sha256_of(path),
            **{name: round(values[row], 3) for name, values in errors.items()},
        }
        for row, path in enumerate(lifters)
    ]
    metrics = {**found.config.get("metrics", {}), "trust_mpjpe_mm": rows}
    tensors = {**found.tensors, "trust": torch.tensor(trust, dtype=torch.float64)}
    save_checkpoint(output, {**found.config, "metrics": metrics}, tensors, half=True)


def _without_trust(checkpoint: Path, folder: Path) -> Path:
    found = load_checkpoint(checkpoint, "refiner")
    plain = folder / "plain.safetensors"
    save_checkpoint(plain, found.config, {name: value for name, value in found.tensors.items() if name != "trust"})
    return plain


def _kept(given: Array, refined: Array, trust: Trust) -> Array:
    kept: Array = trusted(torch.from_numpy(given), torch.from_numpy(refined), trust).numpy()
    return kept


def _mpjpe_mm(pose: Array, truth: Array) -> float:
    return MILLIMETRES * float(np.linalg.norm(pose - truth, axis=-1).mean())
