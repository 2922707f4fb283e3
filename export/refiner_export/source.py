"""From checkpoints to the module that is exported, and its twin that the artefact is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.errors import UsageError
from refiner.models import LiftingModule, LiftingRefiner, MirroredPass, SmoothingModule, UnrolledRefiner
from refiner.models.inference_form import inference_form
from refiner.training.checkpoints import Runnable, is_diffusion_lifter, load_checkpoint, module_of
from refiner_export.graph import Exportable
from refiner_export.options import ExportOptions


@dataclass(frozen=True)
class Source:
    """``reference``: the model as it was trained. ``module``: the same in inference form, to be traced.

    ``kind``: one of `refiner.runtime.engine.INPUTS`. ``config``: the (refining) checkpoint's. ``steps``: K of what is
    sampled or refined. ``actions``: the names of those that the graph can be told.
    """

    kind: str
    config: dict[str, Any]
    reference: Exportable
    module: Exportable
    frames: int
    trained_frames: int
    steps: int | None
    lifter_config: dict[str, Any] | None
    actions: tuple[str, ...] = ()


def read_source(options: ExportOptions) -> Source:
    """Read what ``options`` name. Raises CheckpointError, ConfigError and UsageError."""
    read = load_checkpoint(options.checkpoint)
    kind = str(read.config["kind"])
    if kind == "lifter" and not is_diffusion_lifter(read.config) and options.steps is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter, which has no denoising steps; leave --steps out")
    if kind == "lifter" and options.lifter is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter; --with-lifter puts one in front of a refiner")
    sampled = load_checkpoint(options.lifter, "lifter") if options.lifter is not None else read
    if options.hypotheses is not None and not is_diffusion_lifter(sampled.config):
        raise UsageError(f"{options.lifter or options.checkpoint} has no hypotheses; leave --hypotheses out")
    hypotheses = options.hypotheses if options.lifter is None else None
    module: Exportable = _with_frames(
        module_of(read, options.steps, str(options.checkpoint), hypotheses), options.frames, options.checkpoint
    )
    trained = int(read.config["frames"])
    lifter_config: dict[str, Any] | None = None
    actions: tuple[str, ...] = ()
    if options.lifter is not None:
        if not isinstance(module, UnrolledRefiner):
            raise UsageError(f"{options.checkpoint} is no D3PRefiner; --with-lifter puts a lifter in front of one")
        found = module_of(sampled, None, str(options.lifter), options.hypotheses)
        lifter = _with_frames(found, options.frames, options.lifter)
        assert isinstance(lifter, LiftingModule)
        module, kind, lifter_config = LiftingRefiner(lifter, module), "lifter-refiner", sampled.config
    elif isinstance(module, LiftingModule) and module.actions:
        kind, actions = "action-lifter", module.actions
    if options.flip_test:
        if is_diffusion_lifter(sampled.config):
            raise UsageError("a diffusion lifter averages with the mirrored pass in every step; leave --flip-test out")
        module = MirroredPass(module)  # type: ignore[arg-type]
    return Source(
        kind,
        module.config,
        module,
        inference_form(module),
        module.frames,
        trained,
        _steps_of(module),
        lifter_config,
        actions,
    )


def _steps_of(module: Exportable) -> int | None:
    if isinstance(module, LiftingModule):
        return int(module.config["sampling"]["steps"]) if is_diffusion_lifter(module.config) else None
    steps: int | None = getattr(module, "steps", None)
    return steps


def _with_frames(module: Runnable, frames: int | None, path: Path) -> Runnable:
    """STC attention takes any number of frames; how good it is at another than the trained one is another matter."""
    if frames is None or frames == module.frames:
        return module
    if isinstance(module, SmoothingModule) or hasattr(getattr(module, "lifter", None), "frames"):
        raise UsageError(f"{path} has learnt the positions of {module.frames} frames and takes no other number")
    module.frames = frames
    return module


def checkpoints_of(options: ExportOptions) -> dict[str, Path]:
    """The files that an export reads, by their part in it."""
    files = {"checkpoint": options.checkpoint}
    if options.lifter is not None:
        files["lifter"] = options.lifter
    return files
