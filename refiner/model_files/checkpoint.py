"""Checkpoints: one ``.safetensors`` file that holds the tensors and the configuration, metrics and data description.

Nothing is unpickled. The bundled checkpoints store weights in half precision; computation is in float32.
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

from refiner import bundled
from refiner.diffusion.familiarity import InputModel
from refiner.diffusion.noise_model import ConditionalGaussian
from refiner.errors import CheckpointError
from refiner.files import atomic_path
from refiner.json_text import JsonError, parse_json
from refiner.model_files.arrays import FORMAT, INPUTS_PREFIX, MODEL_PREFIX, NOISE_PREFIX, VERSION
from refiner.model_spec import ModelSpec
from refiner.models.weights import read_safetensors
from refiner.tensor_hashes import add_hashes


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        config: the configuration as `save_checkpoint` wrote it.
        tensors: all tensors by their full names (with the prefixes ``model.``, ``noise.``, ``inputs.``).
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def spec(self) -> ModelSpec:
        """The description of the network in the configuration. Raises CheckpointError if it describes none."""
        return ModelSpec.of_config(self.config)

    def state(self, prefix: str = MODEL_PREFIX) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix``, without the prefix; half precision converted to float32."""
        return {
            name.removeprefix(prefix): tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def save_checkpoint(
    path: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], half: bool = False
) -> None:
    """Write a checkpoint atomically; ``half`` stores the model's weights (but not the noise model) in float16."""
    from safetensors.torch import save_file

    stored = {
        name: (tensor.half() if half and name.startswith(MODEL_PREFIX) else tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }
    metadata = {"format": FORMAT, "version": VERSION, "config": json.dumps(config)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata)
        add_hashes(temporary)


def load_checkpoint(path: str | os.PathLike[str], kind: str | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a ``.safetensors`` file that `save_checkpoint` wrote.
        kind: "lifter" or "refiner", if the checkpoint must be of that kind.

    Raises:
        CheckpointError: the file is missing, truncated, of another program, format version or kind, or differs from
            the hashes in it.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}; {bundled.expected_at(file)}")
    tensors, metadata = read_safetensors(file)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} was not written by refiner: its metadata has format {metadata.get('format')!r}, "
            f"expected {FORMAT!r}"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(f"{file} has version {metadata.get('version')!r}, this refiner reads {VERSION!r}")
    try:
        config = parse_json(metadata["config"])
        stored_kind = config["kind"]
    except (KeyError, TypeError, JsonError) as error:
        raise CheckpointError(f"{file} holds no usable configuration ({error!r})") from error
    if kind is not None and stored_kind != kind:
        raise CheckpointError(f"{file} holds a {stored_kind}, expected a {kind}")
    return Checkpoint(config, tensors)


def compress_checkpoint(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a checkpoint with its weights in half precision, like the bundled ones."""
    checkpoint = load_checkpoint(source)
    save_checkpoint(target, without_folders(checkpoint.config), checkpoint.tensors, half=True)


def without_folders(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with paths of other files shortened to file names: checkpoints must not carry folder names."""
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
    """The model of a refiner's training inputs; None for a lifter, or for a refiner that was trained without one."""
    tensors = checkpoint.state(INPUTS_PREFIX)
    if not tensors:
        return None
    return InputModel.from_tensors({name: np.asarray(tensor.double()) for name, tensor in tensors.items()})


def load_noise_model(path: str | os.PathLike[str]) -> ConditionalGaussian:
    """Read the conditional Gaussian that a refiner was trained with."""
    return noise_model_of(load_checkpoint(path, "refiner"))


def noise_model_of(checkpoint: Checkpoint) -> ConditionalGaussian:
    """`load_noise_model` for a checkpoint that is already in memory."""
    return ConditionalGaussian.from_tensors(
        {name: np.asarray(tensor.double()) for name, tensor in checkpoint.state(NOISE_PREFIX).items()}
    )
