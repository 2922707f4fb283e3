"""From checkpoints to the module that is exported, and its twin that the artefact is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.errors import UsageError
from refiner.models import LiftingModule, LiftingRefiner, MirroredPass, UnrolledRefiner
from refiner.models.inference_form import inference_form
from refiner.training.checkpoints import load_checkpoint, module_of
from refiner_export.graph import Exportable
from refiner_export.options import ExportOptions


@dataclass(frozen=True)
class Source:
    """``reference``: the model as it was trained. ``module``: the same in inference form, to be traced.

    ``kind``: "refiner", "lifter" or "lifter-refiner". ``config``: the (refining) checkpoint's.
    """

    kind: str
    config: dict[str, Any]
    reference: Exportable
    module: Exportable
    frames: int
    trained_frames: int
    steps: int | None
    lifter_config: dict[str, Any] | None


def read_source(options: ExportOptions) -> Source:
    """Read what ``options`` name. Raises CheckpointError, ConfigError and UsageError."""
    read = load_checkpoint(options.checkpoint)
    kind = str(read.config["kind"])
    if kind == "lifter" and options.steps is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter, which has no denoising steps; leave --steps out")
    if kind == "lifter" and options.lifter is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter; --with-lifter puts one in front of a refiner")
    module: Exportable = _with_frames(module_of(read, options.steps, str(options.checkpoint)), options.frames)
    trained = int(read.config["frames"])
    steps = module.steps if isinstance(module, UnrolledRefiner) else None
    lifter_config = None
    if options.lifter is not None:
        assert isinstance(module, UnrolledRefiner)
        lifter_checkpoint = load_checkpoint(options.lifter, "lifter")
        lifter = _with_frames(module_of(lifter_checkpoint, None, str(options.lifter)), options.frames)
        assert isinstance(lifter, LiftingModule)
        module, kind, lifter_config = LiftingRefiner(lifter, module), "lifter-refiner", lifter_checkpoint.config
    if options.flip_test:
        module = MirroredPass(module)  # type: ignore[arg-type]
    return Source(kind, read.config, module, inference_form(module), module.frames, trained, steps, lifter_config)


def _with_frames(module: UnrolledRefiner | LiftingModule, frames: int | None) -> UnrolledRefiner | LiftingModule:
    """The attention takes any number of frames; how good it is at another than the trained one is another matter."""
    if frames is not None:
        module.frames = frames
    return module


def checkpoints_of(options: ExportOptions) -> dict[str, Path]:
    """The files that an export reads, by their part in it."""
    files = {"checkpoint": options.checkpoint}
    if options.lifter is not None:
        files["lifter"] = options.lifter
    return files
