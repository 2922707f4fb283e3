"""Models with random weights, for measurements of cost: the cost of a model does not depend on its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from refiner.model_files.arrays import MODEL_PREFIX
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import Checkpoint, save_checkpoint
from refiner.reports import Report
from refiner.training.config import Config, load_config

# The action of FinePOSE's text encoder. A trained FinePOSE has the actions of its training archive.
ANY_ACTION = "Walking"


def describe(config: Config) -> Report:
    """A configuration in the form that a checkpoint stores.

    FinePOSE gets its small text encoder, which needs no file, with a single action.
    """
    if config.model.architecture == "finepose":
        config = dataclasses.replace(
            config, text=dataclasses.replace(config.text, tower="small", actions=(ANY_ACTION,))
        )
    return dataclasses.asdict(config)


def untrained(name: str, overrides: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint of a named configuration with random weights.

    Args:
        name: The name of the configuration.
        overrides: Changes of its values, such as ``model.dim=32``.
    """
    described = describe(load_config(name, list(overrides)))
    torch.manual_seed(0)
    tensors = {MODEL_PREFIX + key: value for key, value in build_model(described).state_dict().items()}
    return Checkpoint(described, tensors | {"error_scale": torch.full((51,), 0.03)})


def random_checkpoint(path: Path, name: str = "refiner-paper", overrides: Sequence[str] = ()) -> Path:
    """Write the checkpoint of `untrained` to ``path``, and return the path."""
    checkpoint = untrained(name, overrides)
    save_checkpoint(path, checkpoint.config, checkpoint.tensors)
    return path
