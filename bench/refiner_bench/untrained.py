"""Models with random weights: what one costs does not depend on what it has learnt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import MODEL_PREFIX, Checkpoint, save_checkpoint
from refiner.training.config import Config, load_config

# For the text side of FinePOSE, whose actions are those of the archive that it is trained on.
ANY_ACTION = "Walking"


def describe(config: Config) -> dict[str, Any]:
    """A configuration as a checkpoint has it; FinePOSE's text side is the small one, which needs no file, and knows one
    action."""
    if config.model.architecture == "finepose":
        config = dataclasses.replace(
            config, text=dataclasses.replace(config.text, tower="small", actions=(ANY_ACTION,))
        )
    return dataclasses.asdict(config)


def untrained(name: str, overrides: Sequence[str] = ()) -> Checkpoint:
    """A named configuration, changed by ``overrides``, with random weights."""
    described = describe(load_config(name, list(overrides)))
    torch.manual_seed(0)
    tensors = {MODEL_PREFIX + key: value for key, value in build_model(described).state_dict().items()}
    return Checkpoint(described, tensors | {"error_scale": torch.full((51,), 0.03)})


def random_checkpoint(path: Path, name: str = "refiner-paper", overrides: Sequence[str] = ()) -> Path:
    """`untrained` as a file."""
    checkpoint = untrained(name, overrides)
    save_checkpoint(path, checkpoint.config, checkpoint.tensors)
    return path
