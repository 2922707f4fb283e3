"""The entries of a report that describe the models and the settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refiner import bundled
from refiner.cli.evaluation.models import default_checkpoint
from refiner.runtime import Lifter, Refiner
from refiner.tensor_hashes import sha256_without_hashes

# The entries of a model's metadata that a report repeats: all but the training curve and the like.
METADATA = (
    *("kind", "model", "frames", "stride", "steps", "diffusion", "noise", "sampling", "text", "engine"),
    "data_description",
)


def model_record(model: Lifter | Refiner, role: str, path: str | None, live: bool) -> dict[str, Any]:
    """Describe a model by its file and its configuration.

    Args:
        model: the loaded model.
        role: "lifter" or "refiner".
        path: the file that the options name; None for a bundled checkpoint.
        live: whether the bundled checkpoint is the one for streams.
    """
    file = default_checkpoint(role, live) if path is None else bundled.by_name(Path(path))
    record = {"file": file.name, "bundled": path is None, "sha256": sha256_without_hashes(file)}
    windows = {} if model.causal else {"hop": model.hop}
    return record | windows | {name: model.metadata[name] for name in METADATA if name in model.metadata}


def settings_record(
    arguments: argparse.Namespace, lifter: Lifter, refiner: Refiner, action: str | None
) -> dict[str, Any]:
    """Describe the options that change the scores. ``action``: see `refiner.cli.evaluation.models.action_mode`.

    The first five options are always recorded, the others only where they are used.
    """
    record: dict[str, Any] = {
        "flip_test": arguments.flip_test,
        "pool_shape": arguments.pool_shape is not None,
        "steps": arguments.steps,
        "engine": arguments.engine,
        "limit_clips": arguments.limit_clips,
    }
    if arguments.pool_shape not in (None, "clip"):
        record["shape_of"] = arguments.pool_shape
    if arguments.smooth:
        record["smoothing"] = True
    if arguments.live:
        record["live"] = True
    if action is not None:
        record["action"] = action
    if lifter.sees_rays or refiner.sees_rays:
        record["focal_length"] = arguments.focal_length
    return record


def validation_curve(lifter: Lifter) -> list[dict[str, float]] | None:
    """The validation curve of the lifter's checkpoint; None for a graph, whose manifest has none."""
    return [{"step": step, "mpjpe_mm": error} for step, error in lifter.validation_curve] or None
