"""Read the checkpoints of an export: the module to export, and the module to compare the artefact with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.causal_state import CAUSAL
from refiner.errors import UsageError
from refiner.model_files.build import Runnable, module_of
from refiner.model_files.checkpoint import load_checkpoint
from refiner.model_spec import ModelSpec
from refiner.models import LiftingModule, LiftingRefiner, MirroredPass, SmoothingModule, UnrolledRefiner
from refiner.models.causal import CarriedStep, CausalStep
from refiner.models.inference_form import inference_form
from refiner.models.mixste import SpatioTemporalBlocks
from refiner_export.graph import Exportable
from refiner_export.options import Batch, ExportOptions


@dataclass(frozen=True)
class Source:
    """The modules of an export, and their description.

    Attributes:
        kind: the kind of the model, a key of `refiner.runtime.engine.OUTPUTS`.
        config: the configuration of the checkpoint; with a lifter, of the refiner's checkpoint.
        reference: the model as it was trained. A causal refiner takes whole sequences here.
        module: the same model in inference form, which is traced. A causal refiner takes one frame and its state here.
        frames: the frames in a window.
        trained_frames: the frames in a window of the training.
        steps: the number of sampling or denoising steps K; None for a model without steps.
        lifter_config: the configuration of the lifter's checkpoint; None without a lifter in front.
        actions: the names of the actions that the graph takes; empty for most models.
    """

    kind: str
    config: dict[str, Any]
    reference: Exportable
    module: Exportable | CausalStep | CarriedStep
    frames: int
    trained_frames: int
    steps: int | None
    lifter_config: dict[str, Any] | None
    actions: tuple[str, ...] = ()

    @property
    def spec(self) -> ModelSpec:
        """The description of the network in ``config``."""
        return ModelSpec.of_config(self.config)

    @property
    def rays(self) -> bool:
        """Whether the model takes keypoints and cameras instead of 2D poses and image sizes."""
        return self.reference.rays


def read_source(options: ExportOptions) -> Source:
    """Read the checkpoints that the options name.

    Raises:
        CheckpointError, ConfigError: a checkpoint cannot be used.
        UsageError: the options do not go together, or do not fit the checkpoints.
    """
    checkpoint = load_checkpoint(options.checkpoint)
    kind = checkpoint.spec.kind
    if kind == "lifter" and not checkpoint.spec.is_sampled_lifter and options.steps is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter, which has no denoising steps; leave --steps out")
    if kind == "lifter" and options.lifter is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter; --with-lifter puts one in front of a refiner")
    # The checkpoint that may hold a diffusion lifter.
    lifting = load_checkpoint(options.lifter, "lifter") if options.lifter is not None else checkpoint
    if options.hypotheses is not None and not lifting.spec.is_sampled_lifter:
        raise UsageError(f"{options.lifter or options.checkpoint} has no hypotheses; leave --hypotheses out")
    hypotheses = options.hypotheses if options.lifter is None else None
    plain = module_of(checkpoint, options.steps, str(options.checkpoint), hypotheses)
    if isinstance(plain, UnrolledRefiner) and plain.reach is not None:
        return _causal_source(plain, options)
    if options.streams is not None or options.pipelined:
        raise UsageError(
            f"{options.checkpoint} takes windows; --streams and --pipelined are for causal refiners: train one with "
            "refiner-train refiner --config refiner-small-causal"
        )
    module: Exportable = _with_frames(plain, options.frames, options.checkpoint)
    trained = checkpoint.spec.frames
    lifter_config: dict[str, Any] | None = None
    actions: tuple[str, ...] = ()
    if options.lifter is not None:
        if not isinstance(module, UnrolledRefiner):
            raise UsageError(f"{options.checkpoint} is no D3PRefiner; --with-lifter puts a lifter in front of one")
        lifter_module = module_of(lifting, None, str(options.lifter), options.hypotheses)
        lifter = _with_frames(lifter_module, options.frames, options.lifter)
        assert isinstance(lifter, LiftingModule)
        module, kind, lifter_config = LiftingRefiner(lifter, module), "lifter-refiner", lifter.config
    elif isinstance(module, LiftingModule) and module.actions:
        kind, actions = "action-lifter", module.actions
    if options.flip_test:
        if lifting.spec.is_sampled_lifter:
            raise UsageError("a diffusion lifter averages with the mirrored pass in every step; leave --flip-test out")
        module = MirroredPass(module)  # type: ignore[arg-type]
    _check_precision(module, options)
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


def _causal_source(module: UnrolledRefiner, options: ExportOptions) -> Source:
    """The source of a causal refiner. Raises UsageError for options that it does not support."""
    options_used = {
        "--with-lifter": options.lifter is not None,
        "--flip-test": options.flip_test,
        "--frames": options.frames is not None,
        "--batch": options.batch != Batch(),
        f"--precision {options.precision}": options.precision != "fp32",
    }
    unfit = [name for name, used in options_used.items() if used]
    if unfit:
        raise UsageError(
            f"{options.checkpoint} is causal and runs frame by frame, for --streams N, in fp32; leave "
            f"{', '.join(unfit)} out"
        )
    step = CausalStep(module, 1 if options.streams is None else options.streams, options.pipelined)
    # On a GPU the graph takes and returns the whole state, which stays on the device. On a CPU the engine writes only
    # the new entries into the rings.
    on_gpu = options.device == "cuda" or options.spec.on_gpu_alone
    exported = CarriedStep(step) if on_gpu else step
    return Source(CAUSAL, module.config, module, exported.eval(), module.frames, module.frames, module.steps, None)


def _check_precision(module: Exportable, options: ExportOptions) -> None:
    """Raises UsageError where MixSTE's blocks do not exist in the precision: they have no branches to choose among."""
    if not options.chooses_branches and not (options.engine == "aoti" and options.precision != "fp32"):
        return
    if any(isinstance(part, SpatioTemporalBlocks) for part in module.modules()):
        raise UsageError(
            f"--engine {options.engine} has no {options.precision} form of MixSTE's blocks (MixSTE, D3DP, FinePOSE); "
            "take fp32, or fp16 with another engine"
        )


def _steps_of(module: Exportable) -> int | None:
    if isinstance(module, LiftingModule):
        sampled = ModelSpec.of_config(module.config).is_sampled_lifter
        return int(module.config["sampling"]["steps"]) if sampled else None
    steps: int | None = getattr(module, "steps", None)
    return steps


def _with_frames(module: Runnable, frames: int | None, path: Path) -> Runnable:
    """Set the frames in a window. STC attention takes any number, but may be worse with another one than in training.

    Raises:
        UsageError: the model takes only the number of frames of its training.
    """
    if frames is None or frames == module.frames:
        return module
    if isinstance(module, SmoothingModule) or hasattr(getattr(module, "lifter", None), "frames"):
        raise UsageError(f"{path} has learnt the positions of {module.frames} frames and takes no other number")
    module.frames = frames
    return module


def checkpoints_of(options: ExportOptions) -> dict[str, Path]:
    """The checkpoints that an export reads, by the keys "checkpoint" and "lifter"."""
    files = {"checkpoint": options.checkpoint}
    if options.lifter is not None:
        files["lifter"] = options.lifter
    return files
