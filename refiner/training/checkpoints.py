"""Checkpoints: one ``.safetensors`` file with its configuration, metrics and data description inside.

Nothing is unpickled. Bundled weights are stored in half precision and computed with in float32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.noise_model import ConditionalGaussian
from refiner.errors import CheckpointError, ConfigError
from refiner.files import atomic_path
from refiner.models import LiftingModule, PoseDenoiser, SmoothingModule, SmoothNet, UnrolledRefiner
from refiner.models.lifters import as_lifter, build_lifter, inputs_of
from refiner.models.weights import read_safetensors

FORMAT, VERSION = "refiner-checkpoint", "1"
MODEL_PREFIX, NOISE_PREFIX, INPUTS_PREFIX = "model.", "noise.", "inputs."


@dataclass(frozen=True)
class Checkpoint:
    """``config`` as written by `save_checkpoint`; ``tensors`` by their full names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def state(self, prefix: str = MODEL_PREFIX) -> dict[str, Tensor]:
        """The tensors under a prefix, without it; half precision brought back to float32."""
        return {
            name.removeprefix(prefix): tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def save_checkpoint(
    path: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], half: bool = False
) -> None:
    """Write a checkpoint atomically; ``half`` stores the model's weights (not the noise model) in float16."""
    from safetensors.torch import save_file

    stored = {
        name: (tensor.half() if half and name.startswith(MODEL_PREFIX) else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    metadata = {"format": FORMAT, "version": VERSION, "config": json.dumps(config)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata)


def load_checkpoint(path: str | os.PathLike[str], kind: str | None = None) -> Checkpoint:
    """Read a checkpoint; ``kind`` ("lifter", "refiner") is what it must be.

    Raises CheckpointError for a file that is missing, truncated, foreign or of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}; expected a .safetensors file")
    tensors, metadata = read_safetensors(file)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} was not written by refiner: its metadata has format {metadata.get('format')!r}, "
            f"expected {FORMAT!r}"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{file} has version {metadata.get('version')!r}, this refiner reads {VERSION!r}")
    try:
        config = json.loads(metadata["config"])
        found = config["kind"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} holds no usable configuration ({error!r})") from error
    if kind is not None and found != kind:
        raise CheckpointError(f"{file} holds a {found}, expected a {kind}")
    return Checkpoint(config, tensors)


def compress_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the checkpoint ``source`` again with its weights in half precision, as the bundled ones are."""
    checkpoint = load_checkpoint(source)
    save_checkpoint(target, without_folders(checkpoint.config), checkpoint.tensors, half=True)


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with other checkpoints by file name alone: a checkpoint travels, its maker's folders do not."""
    published = dict(config)
    for key in ("lifter", "start_from"):
        if key in config:
            published[key] = Path(config[key]).name
    if config.get("noise", {}).get("cross_fit"):
        names = [Path(path).name for path in config["noise"]["cross_fit"]]
        published["noise"] = {**config["noise"], "cross_fit": names}
    if "estimators" in config:
        lists = {name: [Path(path).name for path in config["estimators"][name]] for name in ("others", "held_out")}
        published["estimators"] = {**config["estimators"], **lists}
    if "text" in config:
        files = {name: Path(config["text"][name]).name for name in ("file", "merges")}
        published["text"] = {**config["text"], **files}
    return published


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """The network that a checkpoint's configuration names, with fresh weights. Raises CheckpointError."""
    try:
        if config["kind"] == "lifter":
            return build_lifter(config)
        model = config["model"]
        if not is_denoiser(config):
            sizes = {name: model[name] for name in ("dim", "hidden", "blocks", "dropout")}
            return SmoothNet(int(config["frames"]), **sizes)
        shared = {"heads": model["heads"], "mlp_ratio": model["mlp_ratio"], "joint_embedding": model["joint_embedding"]}
        band = config["frames"] if model.get("causal") else None
        shared |= {"mlps": model.get("mlps", 1), "inputs": inputs_of(model)}
        return PoseDenoiser(dim=model["dim"], blocks=model["blocks"], band=band, **shared)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint's configuration does not describe a model: {error!r}") from error


Runnable = UnrolledRefiner | LiftingModule | SmoothingModule


def load_module(path: str | os.PathLike[str], steps: int | None = None, kind: str | None = None) -> Runnable:
    """The runnable module of a checkpoint, in eval mode and float32; ``steps`` replaces the K of a refiner or of a
    diffusion lifter."""
    return module_of(load_checkpoint(path, kind), steps, str(path))


def module_of(
    checkpoint: Checkpoint, steps: int | None = None, where: str = "checkpoint", hypotheses: int | None = None
) -> Runnable:
    """`load_module` for a checkpoint that is already read; ``hypotheses`` replaces a diffusion lifter's H.

    Raises CheckpointError where it does not fit its configuration, ConfigError for steps that it has none of.
    """
    config = _with_sampling(checkpoint.config, steps, hypotheses)
    model = build_model(config)
    try:
        model.load_state_dict(checkpoint.state())
        frames = int(config["frames"])
        module: Runnable
        if config["kind"] == "lifter":
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


def is_diffusion_lifter(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a lifter that is sampled in steps."""
    return config["kind"] == "lifter" and config["model"].get("architecture", "default") in ("d3dp", "finepose")


def is_denoiser(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a refiner that denoises in steps; SmoothNet does not."""
    return bool(config["kind"] == "refiner" and config["model"].get("architecture", "default") != "smoothnet")


def _with_sampling(config: dict[str, Any], steps: int | None, hypotheses: int | None) -> dict[str, Any]:
    """The configuration with other K and H of a diffusion lifter; a refiner's K is `UnrolledRefiner`'s business."""
    given = {name: value for name, value in (("steps", steps), ("hypotheses", hypotheses)) if value is not None}
    if is_diffusion_lifter(config):
        return {**config, "sampling": {**config["sampling"], **given}} if given else config
    if hypotheses is not None or (steps is not None and not is_denoiser(config)):
        raise ConfigError(f"this {config['kind']} is not sampled: it has no {' and no '.join(given)} to choose")
    return config


def input_model_of(checkpoint: Checkpoint) -> InputModel | None:
    """What a refiner's training inputs looked like; None for a lifter, or a refiner that was trained without."""
    tensors = checkpoint.state(INPUTS_PREFIX)
    if not tensors:
        return None
    return InputModel.from_tensors({name: np.asarray(tensor.double()) for name, tensor in tensors.items()})


def _expected_error(checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Eq. 5 as gain and offset, where the refiner starts from the corrected pose."""
    if checkpoint.config["diffusion"].get("start", "lifter") != "corrected":
        return None
    noise = noise_model_of(checkpoint)
    offset = noise.mean_error - noise.gain @ noise.mean_condition
    return torch.from_numpy(noise.gain.copy()), torch.from_numpy(offset)


def _trust(checkpoint: Checkpoint) -> tuple[float, float] | None:
    """How much of a refinement is kept, where the training found that out; see `refiner.models.unrolled.trusted`."""
    if "trust" not in checkpoint.tensors:
        return None
    low, high = (float(value) for value in checkpoint.tensors["trust"])
    return low, high


def load_noise_model(path: str | os.PathLike[str]) -> ConditionalGaussian:
    """The conditional Gaussian that a refiner was trained with."""
    return noise_model_of(load_checkpoint(path, "refiner"))


def noise_model_of(checkpoint: Checkpoint) -> ConditionalGaussian:
    """`load_noise_model` for a checkpoint that is already read."""
    return ConditionalGaussian.from_tensors(
        {name: np.asarray(tensor.double()) for name, tensor in checkpoint.state(NOISE_PREFIX).items()}
    )
