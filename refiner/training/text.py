"""Prepare FinePOSE's text side for training: its actions, CLIP's weights and tokens, and cached features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from refiner.actions import UNKNOWN_ACTION
from refiner.errors import ConfigError
from refiner.models import FinePOSE
from refiner.models.finepose import PROMPT_SETS, CachedText, ClipVocabulary, PromptedText, TokenTable
from refiner.models.finepose.prompts import texts_of
from refiner.models.finepose.text_tower import tower_from_state
from refiner.models.weights import load_exactly, read_weights
from refiner.training.config import Config


def complete_text(config: Config, actions: Iterable[str]) -> Config:
    """Complete the configuration of a FinePOSE, so that its checkpoint works without other files.

    The function fills in the actions, if the configuration names none, and ``text.tokens``: the tokens of CLIP's texts,
    or the length and the ends of cached texts. Configurations of other models stay unchanged.

    Args:
        config: the configuration of the run.
        actions: the actions of the training clips.

    Raises:
        ConfigError: the configuration does not name a file that it needs.
        CheckpointError: a file cannot be read.
    """
    text = config.text
    if config.model.architecture != "finepose" or text.prompts == "none":
        return config
    text = dataclasses.replace(text, actions=text.actions or tuple(sorted(set(actions))))
    prompts = PROMPT_SETS[text.prompts]
    if text.tower == "clip":
        if not (text.file and text.merges):
            raise ConfigError(
                "text.tower = 'clip' needs text.file, a local file of CLIP's weights, and text.merges, its "
                "bpe_simple_vocab_16e6.txt.gz or merges.txt; both are read once and are then part of the checkpoint"
            )
        words = ClipVocabulary.from_file(text.merges)
        text = dataclasses.replace(text, tokens=TokenTable.rows_of(words, texts_of(prompts, text.actions)))
    elif text.tower == "cached":
        if not text.file:
            raise ConfigError("text.tower = 'cached' needs text.file, which CachedText.of(...).save(FILE) writes")
        cached = CachedText.load(text.file)
        ends = dict(zip((*cached.actions, UNKNOWN_ACTION), cached.end_of.tolist(), strict=True))
        rows = {"length": cached.table.shape[1], **ends}
        text = dataclasses.replace(
            text,
            actions=cached.actions,
            width=cached.width,
            tokens=tuple(f"{name}: {number}" for name, number in rows.items()),
        )
    return dataclasses.replace(config, text=text)


def fill_text(model: nn.Module, config: Config) -> None:
    """Load the weights of CLIP's text tower, or cached features, into a fresh FinePOSE. Other models stay unchanged."""
    if not isinstance(model, FinePOSE):
        return
    text_side = model.pose_estimator.text
    if isinstance(text_side, PromptedText) and config.text.tower == "clip":
        tower = tower_from_state(read_weights(config.text.file), config.text.file)
        load_exactly(
            text_side.clip_text, tower.state_dict(), f"{config.text.file}, read with text.width, layers and heads"
        )
    elif isinstance(text_side, CachedText):
        text_side.load_state_dict(CachedText.load(config.text.file).state_dict())
