"""From checkpoints to the module that is exported, and its twin that the artefact is compared with."""

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
    """``reference``: the model as it was trained. ``module``: the same in inference form, to be traced.

    ``kind``: one of `refiner.runtime.engine.OUTPUTS`; the module of a "causal-refiner" is one frame with its state,
    where the reference takes whole sequences. ``config``: the (refining) checkpoint's. ``steps``: K of what is sampled
    or refined. ``actions``: the names of those that the graph can be told.
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
        """What the (refining) checkpoint says of its network."""
        return ModelSpec.of_config(self.config)

    @property
    def rays(self) -> bool:
        """Whether it takes keypoints and cameras instead of 2D poses and image sizes."""
        return self.reference.rays


def read_source(options: ExportOptions) -> Source:
    """Read what ``options`` name. Raises CheckpointError, ConfigError and UsageError."""
    read = load_checkpoint(options.checkpoint)
    kind = read.spec.kind
    if kind == "lifter" and not read.spec.is_sampled_lifter and options.steps is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter, which has no denoising steps; leave --steps out")
    if kind == "lifter" and options.lifter is not None:
        raise UsageError(f"{options.checkpoint} holds a lifter; --with-lifter puts one in front of a refiner")
    sampled = load_checkpoint(options.lifter, "lifter") if options.lifter is not None else read
    if options.hypotheses is not None and not sampled.spec.is_sampled_lifter:
        raise UsageError(f"{options.lifter or options.checkpoint} has no hypotheses; leave --hypotheses out")
    hypotheses = options.hypotheses if options.lifter is None else None
    plain = module_of(read, options.steps, str(options.checkpoint), hypotheses)
    if isinstance(plain, UnrolledRefiner) and plain.reach is not None:
        return _causal_source(plain, options)
    if options.streams is not None or options.pipelined:
        raise UsageError(
            f"{options.checkpoint} takes windows; --streams and --pipelined are for causal refiners: train one with "
            "refiner-train refiner --config refiner-small-causal"
        )
    module: Exportable = _with_frames(plain, options.frames, options.checkpoint)
    trained = read.spec.frames
    lifter_config: dict[str, Any] | None = None
    actions: tuple[str, ...] = ()
    if options.lifter is not None:
        if not isinstance(module, UnrolledRefiner):
            raise UsageError(f"{options.checkpoint} is no D3PRefiner; --with-lifter puts a lifter in front of one")
        found = module_of(sampled, None, str(options.lifter), options.hypotheses)
        lifter = _with_frames(found, options.frames, options.lifter)
        assert isinstance(lifter, LiftingModule)
        module, kind, lifter_config = LiftingRefiner(lifter, module), "lifter-refiner", lifter.config
    elif isinstance(module, LiftingModule) and module.actions:
        kind, actions = "action-lifter", module.actions
    if options.flip_test:
        if sampled.spec.is_sampled_lifter:
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
    """Raises UsageError for what a causal refiner cannot be exported with."""
    given = {
        "--with-lifter": options.lifter is not None,
        "--flip-test": options.flip_test,
        "--frames": options.frames is not None,
        "--batch": options.batch != Batch(),
        f"--precision {options.precision}": options.precision != "fp32",
    }
    unfit = [name for name, is_given in given.items() if is_given]
    if unfit:
        raise UsageError(
            f"{options.checkpoint} is causal and runs frame by frame, for --streams N, in fp32; leave "
            f"{', '.join(unfit)} out"
        )
    step = CausalStep(module, 1 if options.streams is None else options.streams, options.pipelined)
    # On a device the state stays where it is; on a CPU the engine writes what is new into the rings.
    on_gpu = options.device == "cuda" or options.spec.on_gpu_alone
    whole = CarriedStep(step) if on_gpu else step
    return Source(CAUSAL, module.config, module, whole.eval(), module.frames, module.frames, module.steps, None)


def _check_precision(module: Exportable, options: ExportOptions) -> None:
    """Raises UsageError where MixSTE's blocks, which have no branches to choose among, would not be typed as asked."""
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
