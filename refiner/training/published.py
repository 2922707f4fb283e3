"""Convert a checkpoint that a lifter's authors published to our format, which every command accepts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from refiner.errors import ConfigError, UsageError
from refiner.model_files.arrays import MODEL_PREFIX
from refiner.model_files.build import build_model
from refiner.model_files.checkpoint import save_checkpoint
from refiner.models import D3DP, FinePOSE, MixSTE, STCFormer, from_published
from refiner.models.finepose import PROMPT_SETS, ClipVocabulary, PromptedText, TokenTable
from refiner.models.finepose.prompts import texts_of
from refiner.models.lifters import as_lifter
from refiner.models.mixste import SpatioTemporalBlocks
from refiner.training.config import Config, apply_override, config_from_dict

# The training data of published lifters, by the joint set. Half of MPI-INF-3DHP's recordings have 25 frames/s, the
# others 50; the authors do not resample them.
TRAINED_ON: Mapping[str, Mapping[str, Any]] = {
    "h36m17": {
        "name": "Human3.6M (weights published by the authors)",
        "fps": 50.0,
        "train": ["S1", "S5", "S6", "S7", "S8"],
        "validation": [],
    },
    "3dhp": {
        "name": "MPI-INF-3DHP (weights published by the authors)",
        "fps": 50.0,
        "train": [f"S{number}" for number in range(1, 9)],
        "validation": [],
    },
}
# The authors of STCFormer train and evaluate on every third frame (--t_downsample 3), with 27 and with 81 frames.
STCFORMER_STRIDE = 3


def import_published(
    name: str,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    frames: int | None = None,
    merges: str | os.PathLike[str] | None = None,
    clip: str | os.PathLike[str] | None = None,
    published: bool = True,
    overrides: Sequence[str] = (),
    joints: str = "h36m17",
) -> Config:
    """Read a published file and write it as a checkpoint.

    Args:
        name: see `from_published`.
        source: see `from_published`.
        output: the checkpoint to write.
        frames: the window length of an STCFormer, whose file does not contain it; the other files do.
        merges: see `from_published`.
        clip: see `from_published`.
        published: see `from_published`.
        overrides: changes of the configuration, such as ``sampling.steps=10``.
        joints: see `from_published`.

    Returns:
        The configuration that the checkpoint stores.

    Raises:
        UsageError: ``frames`` is missing or contradicts the file.
        CheckpointError: see `from_published`.
        ConfigError: the weights do not fit the configuration, or it cannot be sampled.
    """
    model = from_published(name, source, merges=merges, clip=clip, published=published, joints=joints)
    content = {"kind": "lifter", "frames": _frames_of(model, frames), **_sections_of(model, published)}
    content["model"]["joints"] = joints
    if isinstance(model, STCFormer):
        content["stride"] = STCFORMER_STRIDE
    if isinstance(model, FinePOSE):
        content["text"]["tokens"] = list(_token_rows(model, merges))
    for override in overrides:
        apply_override(content, override)
    config = config_from_dict(content)
    stored = dataclasses.asdict(config)
    own = build_model(stored).state_dict()
    state = model.state_dict()
    if {n: value.shape for n, value in own.items()} != {n: value.shape for n, value in state.items()}:
        raise ConfigError(
            f"{source} does not have the parts that a configuration can name"
            + (f"; changed by {', '.join(overrides)}" if overrides else ", like a FinePOSE with other prompts")
        )
    as_lifter(model, stored)  # raises an error for steps, hypotheses and seeds that cannot be sampled
    tensors = {f"{MODEL_PREFIX}{n}": value for n, value in state.items()}
    description = {**TRAINED_ON[joints], "file": Path(source).name}
    save_checkpoint(output, {**stored, "data_description": description}, tensors)
    return config


def _frames_of(model: nn.Module, frames: int | None) -> int:
    if isinstance(model, STCFormer):
        if frames is None:
            raise UsageError("an STCFormer's file does not say for how many frames it was trained: give --frames")
        if frames < 1:
            raise UsageError(f"--frames must be at least 1, got {frames}")
        return frames
    known = model.frames
    assert isinstance(known, int)
    if frames not in (None, known):
        raise UsageError(f"the file was trained for windows of {known} frames; leave --frames {frames} out")
    return known


def _sections_of(model: nn.Module, published: bool) -> dict[str, Any]:
    """Describe a model as sections of a configuration: architecture, sizes, sampling and text."""
    if isinstance(model, STCFormer):
        block: Any = model.stcformer.stc_block[0]
        shape = {"heads": block.stc_att.heads, "mlp_ratio": len(block.mlp.fc1.weight) // block.stc_att.dim}
        sizes = {"dim": block.stc_att.dim, "blocks": len(model.stcformer.stc_block), **shape}
        return {"model": {"architecture": "stcformer", "root": "zeroed", **sizes}}
    blocks = model.pose_estimator if isinstance(model, D3DP) else model
    assert isinstance(blocks, SpatioTemporalBlocks)
    first: Any = blocks.STEblocks[0]
    sizes = {
        "dim": blocks.dim,
        "blocks": len(blocks.STEblocks),
        "heads": first.attn.heads,
        "mlp_ratio": len(first.mlp.fc1.weight) // blocks.dim,
        "root": "zeroed",
    }
    if isinstance(model, MixSTE):
        return {"model": {"architecture": "mixste", **sizes}}
    assert isinstance(model, D3DP)
    sampling = {"timesteps": model.timesteps}
    if not isinstance(model, FinePOSE):
        return {"model": {"architecture": "d3dp", **sizes}, "sampling": sampling}
    denoiser = model.pose_estimator
    text = denoiser.text
    assert isinstance(text, PromptedText)
    layer: Any = denoiser.textTransEncoder.layers[0]
    tower: Any = text.clip_text.transformer.resblocks
    text_section = {
        "prompts": _prompts_of(text),
        "tower": "clip",
        "width": text.width,
        "layers": len(tower),
        "heads": tower[0].attn.num_heads,
        "encoder_layers": len(denoiser.textTransEncoder.layers),
        "encoder_hidden": layer.linear1.out_features,
        "encoder_heads": layer.self_attn.num_heads,
        "published": published,
        "actions": list(text.actions),
        "classifier": 0,
    }
    return {"model": {"architecture": "finepose", **sizes}, "sampling": sampling, "text": text_section}


def _token_rows(model: FinePOSE, merges: str | os.PathLike[str] | None) -> tuple[str, ...]:
    assert merges is not None  # otherwise from_published has raised an error
    text = model.pose_estimator.text
    assert isinstance(text, PromptedText)
    return TokenTable.rows_of(ClipVocabulary.from_file(merges), texts_of(text.prompts, text.actions))


def _prompts_of(text: PromptedText) -> str:
    """The name of the set of prompts. A set that has no name is called "full", and refused when it is compared."""
    return next((name for name, prompts in PROMPT_SETS.items() if prompts == text.prompts), "full")
