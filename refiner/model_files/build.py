"""The network of a checkpoint: built from its configuration, filled with its weights, ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from refiner.errors import CheckpointError, ConfigError
from refiner.model_files.checkpoint import Checkpoint, load_checkpoint, noise_model_of
from refiner.model_spec import ModelSpec
from refiner.models import LiftingModule, PoseDenoiser, SmoothingModule, SmoothNet, UnrolledRefiner
from refiner.models.lifters import as_lifter, build_lifter, inputs_of
from refiner.skeleton import H36M17


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build the network that a checkpoint's configuration describes, with fresh weights.

    Raises:
        CheckpointError: the configuration describes no model.
        ConfigError: the configuration contradicts itself.
    """
    try:
        spec = ModelSpec.of_config(config)
        if spec.kind == "lifter":
            return build_lifter(config)
        model = config["model"]
        if spec.joints != H36M17.name:
            raise ConfigError("a refiner sees Human3.6M's joints in their own order; leave model.joints out")
        if not spec.is_denoiser:
            sizes = {name: model[name] for name in ("dim", "hidden", "blocks", "dropout")}
            return SmoothNet(spec.frames, **sizes)
        shared = {"heads": model["heads"], "mlp_ratio": model["mlp_ratio"], "joint_embedding": model["joint_embedding"]}
        band = spec.frames if spec.causal else None
        shared |= {"mlps": model.get("mlps", 1), "inputs": inputs_of(model)}
        return PoseDenoiser(dim=model["dim"], blocks=model["blocks"], band=band, **shared)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint's configuration does not describe a model: {error!r}") from error


Runnable = UnrolledRefiner | LiftingModule | SmoothingModule


def load_module(path: str | os.PathLike[str], steps: int | None = None, kind: str | None = None) -> Runnable:
    """Load the runnable module of a checkpoint, in eval mode and float32.

    Args:
        path: the checkpoint.
        steps: K of a refiner or of a diffusion lifter, instead of the K of the checkpoint.
        kind: "lifter" or "refiner", if the checkpoint must be of that kind.

    Raises:
        CheckpointError: see `load_checkpoint` and `module_of`.
        ConfigError: see `module_of`.
    """
    return module_of(load_checkpoint(path, kind), steps, str(path))


def module_of(
    checkpoint: Checkpoint, steps: int | None = None, where: str = "checkpoint", hypotheses: int | None = None
) -> Runnable:
    """`load_module` for a checkpoint that is already in memory.

    Args:
        checkpoint: the checkpoint.
        steps: see `load_module`.
        where: the name of the checkpoint in error messages.
        hypotheses: H of a diffusion lifter, instead of the H of the checkpoint.

    Raises:
        CheckpointError: the tensors do not fit the configuration.
        ConfigError: ``steps`` or ``hypotheses`` is given for a model that is not sampled.
    """
    config = _with_sampling(checkpoint.config, steps, hypotheses)
    model, spec = build_model(config), ModelSpec.of_config(config)
    frames = spec.frames
    try:
        model.load_state_dict(checkpoint.state())
        module: Runnable
        if spec.kind == "lifter":
            module = LiftingModule(as_lifter(model.eval(), config), frames, config)
        elif isinstance(model, SmoothNet):
            module = SmoothingModule(model, config)
        else:
            assert isinstance(model, PoseDenoiser)
            scale = checkpoint.tensors["error_scale"].float()
            module = UnrolledRefiner(
                model, scale, frames, config, steps, _expected_error(checkpoint), _trust(checkpoint)
            )
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{where} does not fit its own configuration: {error}") from error
    return module.eval().requires_grad_(False)


def _with_sampling(config: dict[str, Any], steps: int | None, hypotheses: int | None) -> dict[str, Any]:
    """The configuration with another K or H for a diffusion lifter. `UnrolledRefiner` handles the K of a refiner."""
    changes = {name: value for name, value in (("steps", steps), ("hypotheses", hypotheses)) if value is not None}
    spec = ModelSpec.of_config(config)
    if spec.is_sampled_lifter:
        return {**config, "sampling": {**config["sampling"], **changes}} if changes else config
    if hypotheses is not None or (steps is not None and not spec.is_denoiser):
        raise ConfigError(f"this {spec.kind} is not sampled: it has no {' and no '.join(changes)} to choose")
    return config


def _expected_error(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Eq. 5 as (gain, offset) for a refiner that starts from the corrected pose; None for all others."""
    if checkpoint.config["diffusion"].get("start", "lifter") != "corrected":
        return None
    noise = noise_model_of(checkpoint)
    offset = noise.mean_error - noise.gain @ noise.mean_condition
    return torch.from_numpy(noise.gain.copy()), torch.from_numpy(offset)


def _trust(checkpoint: Checkpoint) -> tuple[float, float] | None:
    """The two distances of `refiner.models.unrolled.apply_trust`, if the checkpoint has them."""
    if "trust" not in checkpoint.tensors:
        return None
    low, high = (float(value) for value in checkpoint.tensors["trust"])
    return low, high
