"""Build lifters from configurations: the network for training, and the module that lifts with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from refiner.actions import UNKNOWN_ACTION
from refiner.errors import CheckpointError, ConfigError
from refiner.models.canonical import RAY_FEATURES, sees_rays
from refiner.models.d3dp import D3DP, CleanPoseDenoiser, SampledLifter
from refiner.models.finepose import (
    PROMPT_SETS,
    ActionClassifier,
    CachedText,
    FinePOSE,
    FinePoseDenoiser,
    PromptedLifter,
    PromptedText,
    TextTower,
    TokenTable,
    WordVocabulary,
)
from refiner.models.finepose.prompts import texts_of
from refiner.models.frame_mlp import FrameMLP
from refiner.models.mixste import MixSTE
from refiner.models.stcformer import STCFormer
from refiner.models.temporal_convolutions import TemporalConvolutions
from refiner.skeleton import H36M17

# Number of tokens in the vocabulary of CLIP's text tower.
CLIP_VOCABULARY = 49408
# Lifters without attention.
CONVENTIONAL: dict[str, Callable[..., nn.Module]] = {"mlp": FrameMLP, "tcn": TemporalConvolutions}


def build_lifter(config: Mapping[str, Any]) -> nn.Module:
    """Build the network of a lifter's configuration, with fresh weights.

    Raises:
        KeyError: the configuration lacks a part.
        ConfigError: the architecture is no lifter, or a diffusion lifter is configured to see rays.
    """
    model = config["model"]
    architecture = model.get("architecture", "default")
    inputs = inputs_of(model)
    order = model.get("joints", H36M17.name)
    if architecture in ("default", "stcformer"):
        return STCFormer(
            dim=model["dim"],
            layers=model["blocks"],
            heads=model["heads"],
            mlp_ratio=model["mlp_ratio"],
            joint_embedding=model["joint_embedding"],
            inputs=inputs,
            # Checkpoints of older versions lack these two.
            dropout=model.get("dropout", 0.0),
            drop_part=model.get("drop_path", 0.0),
            joint_order=order,
        )
    if architecture in CONVENTIONAL:
        if order != H36M17.name:
            raise ConfigError(f"{architecture} sees Human3.6M's joints in their own order; leave model.joints out")
        sizes = {name: model[name] for name in ("dim", "blocks", "dropout")}
        return CONVENTIONAL[architecture](**sizes, inputs=inputs)
    sizes = {
        "dim": model["dim"],
        "depth": model["blocks"],
        "heads": model["heads"],
        "mlp_ratio": model["mlp_ratio"],
        "frames": int(config["frames"]),
        "drop_path": model["drop_path"],
        "joint_order": order,
    }
    if architecture == "mixste":
        return MixSTE(**sizes, inputs=inputs)
    if architecture not in ("d3dp", "finepose"):
        raise ConfigError(f"{architecture} is no lifter; expected stcformer, mixste, mlp, tcn, d3dp or finepose")
    if inputs != 2:
        raise ConfigError(f"{architecture} sees screen coordinates alone; leave model.input out")
    process = {name: config["sampling"][name] for name in ("timesteps", "offset", "limit")}
    if architecture == "d3dp":
        return D3DP(CleanPoseDenoiser(**sizes), **process)
    return _build_finepose(sizes, process, config["text"])


def inputs_of(model: Mapping[str, Any]) -> int:
    """How many numbers a network sees of a joint in 2D; ``model`` is that entry of its configuration."""
    return RAY_FEATURES if sees_rays(model) else 2


def as_lifter(network: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """The module that lifts with a trained network: the network itself or, for a diffusion lifter, its sampler.

    A sampler draws with the steps, hypotheses and noise in ``config["sampling"]`` and returns the mean of the
    hypotheses. FinePOSE's text features are computed once, here, and become constants of the module.

    Returns:
        A module ``(B, T, J, inputs)`` -> ``(B, T, J, 3)`` metres.
    """
    if not isinstance(network, D3DP):
        return network
    options = {name: config["sampling"][name] for name in ("steps", "hypotheses", "eta", "flip", "seed")}
    kind = PromptedLifter if isinstance(network, FinePOSE) else SampledLifter
    return kind(network, **options).to(network.signal.device).eval()  # type: ignore[arg-type]


def build_text(text: Mapping[str, Any]) -> PromptedText | CachedText | None:
    """FinePOSE's text side as the ``text`` entry of a configuration describes it; None without prompts.

    For CLIP's tokens and for cached features it reads ``text["tokens"]``, which `refiner.training.text` wrote.

    Raises:
        CheckpointError: the entry does not say where its cached texts end.
    """
    prompts, actions = PROMPT_SETS[text["prompts"]], text["actions"]
    if not prompts:
        return None
    if text["tower"] == "cached":
        return _empty_cache(text)
    if text["tower"] == "small":
        vocabulary: WordVocabulary | TokenTable = WordVocabulary(texts_of(prompts, actions))
        tower = TextTower(vocabulary.size, text["width"], text["layers"], text["heads"])
    else:
        vocabulary = TokenTable(text["tokens"], CLIP_VOCABULARY)
        tower = TextTower(CLIP_VOCABULARY, text["width"], text["layers"], text["heads"]).requires_grad_(False)
    return PromptedText(tower, vocabulary, actions, prompts, text["published"])


def _build_finepose(sizes: Mapping[str, Any], process: Mapping[str, Any], text: Mapping[str, Any]) -> FinePOSE:
    text_side = build_text(text)
    denoiser = FinePoseDenoiser(
        text_side,
        encoder_layers=text["encoder_layers"],
        encoder_hidden=text["encoder_hidden"],
        encoder_heads=text["encoder_heads"],
        fpc=text["fpc"],
        pts=text["pts"],
        published=text["published"],
        **sizes,
    )
    guesses_action = text_side is not None and text["classifier"] > 0
    classifier = ActionClassifier(len(text["actions"]), text["classifier"]) if guesses_action else None
    return FinePOSE(denoiser, classifier, **process)


def _empty_cache(text: Mapping[str, Any]) -> CachedText:
    """Zero features, to be filled from the checkpoint; ``text["tokens"]`` holds their length and the texts' ends."""
    rows = dict(row.rpartition(":")[::2] for row in text["tokens"])
    try:
        length, *ends = (int(rows[name]) for name in ("length", *text["actions"], UNKNOWN_ACTION))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the configuration does not say where its cached texts end: {error}") from error
    return CachedText(torch.zeros(len(ends), length, text["width"]), torch.tensor(ends), text["actions"])
