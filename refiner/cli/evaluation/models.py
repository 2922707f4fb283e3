"""Load the models that ``refiner-evaluate`` scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from refiner import bundled
from refiner.actions import UNKNOWN_ACTION
from refiner.errors import MissingComponentError, UsageError
from refiner.runtime import Lifter, Refiner

if TYPE_CHECKING:
    from refiner.diffusion import ConditionalGaussian


def load_models(
    arguments: argparse.Namespace, pool_shape: bool = False, smoothing: bool = False
) -> tuple[Lifter, Refiner]:
    """Load the lifter and the refiner that the options name, by default the bundled ones.

    ``pool_shape`` and ``smoothing``: see `refiner.Refiner`.
    """
    lifter = Lifter.load(
        arguments.lifter or default_checkpoint("lifter", arguments.live),
        engine=arguments.engine,
        flip_test=arguments.flip_test,
        live=arguments.live,
    )
    refiner = Refiner.load(
        arguments.refiner or default_checkpoint("refiner", arguments.live),
        engine=arguments.engine,
        steps=arguments.steps,
        flip_test=arguments.flip_test,
        pool_shape=pool_shape,
        smoothing=smoothing,
    )
    return lifter, refiner


def default_checkpoint(role: str, live: bool) -> Path:
    """The bundled checkpoint of a role, "lifter" or "refiner". ``live``: the one for streams."""
    stream_roles = {"lifter": "live-lifter", "refiner": "causal-refiner"}
    return bundled.default_checkpoint(stream_roles[role] if live else role)


def action_mode(requested: str | None, lifter: Lifter) -> str | None:
    """How the lifter gets the action of a clip: "guess", "unknown" or "label"; None for a lifter without actions.

    Args:
        requested: the value of ``--action``.
        lifter: the loaded lifter.

    Raises:
        UsageError: the lifter does not support the requested mode.
    """
    if not lifter.actions:
        if requested is not None:
            raise UsageError(
                "--action is for a lifter with prompts (FinePOSE); this one knows no actions: leave it out"
            )
        return None
    guesses = lifter.guesses_action
    if requested == "guess" and not guesses:
        raise UsageError("this lifter was trained without a classifier and cannot guess: --action unknown or label")
    return requested or ("guess" if guesses else UNKNOWN_ACTION)


def load_noise_model(arguments: argparse.Namespace) -> ConditionalGaussian | None:
    """Load the noise model of the refiner, or of the checkpoint that ``--noise-model`` names.

    Returns:
        None without ``--noise-model`` where the refiner has no noise model: an exported graph, or SmoothNet.
    """
    path = arguments.noise_model or arguments.refiner or default_checkpoint("refiner", arguments.live)
    if arguments.noise_model is None and Path(path).suffix != ".safetensors":
        return None
    try:
        from refiner.model_files.arrays import NOISE_PREFIX
        from refiner.model_files.checkpoint import load_checkpoint, noise_model_of
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading the noise model of {path} needs PyTorch: pip install 'pose-refiner[train]'"
        ) from error
    checkpoint = load_checkpoint(path, "refiner")
    if arguments.noise_model is None and not checkpoint.state(NOISE_PREFIX):
        return None
    return noise_model_of(checkpoint)
