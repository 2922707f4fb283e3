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
from torch import Tensor

from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.noise_model import ConditionalGaussian
from refiner.errors import CheckpointError
from refiner.files import atomic_path
from refiner.model_spec import ModelSpec
from refiner.models.weights import read_safetensors

FORMAT, VERSION = "refiner-checkpoint", "1"
MODEL_PREFIX, NOISE_PREFIX, INPUTS_PREFIX = "model.", "noise.", "inputs."


@dataclass(frozen=True)
class Checkpoint:
    """``config`` as written by `save_checkpoint`; ``tensors`` by their full names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def spec(self) -> ModelSpec:
        """What the configuration says of the network. Raises CheckpointError where it describes none."""
        return ModelSpec.of_config(self.config)

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


def input_model_of(checkpoint: Checkpoint) -> InputModel | None:
    """What a refiner's training inputs looked like; None for a lifter, or a refiner that was trained without."""
    tensors = checkpoint.state(INPUTS_PREFIX)
    if not tensors:
        return None
    return InputModel.from_tensors({name: np.asarray(tensor.double()) for name, tensor in tensors.items()})


def load_noise_model(path: str | os.PathLike[str]) -> ConditionalGaussian:
    """The conditional Gaussian that a refiner was trained with."""
    return noise_model_of(load_checkpoint(path, "refiner"))


def noise_model_of(checkpoint: Checkpoint) -> ConditionalGaussian:
    """`load_noise_model` for a checkpoint that is already read."""
    return ConditionalGaussian.from_tensors(
        {name: np.asarray(tensor.double()) for name, tensor in checkpoint.state(NOISE_PREFIX).items()}
    )
