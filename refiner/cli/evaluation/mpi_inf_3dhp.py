"""Score models on the test set of MPI-INF-3DHP by its own protocol."""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
from numpy.typing import NDArray

from refiner import data
from refiner.actions import UNKNOWN_ACTION
from refiner.camera import Camera
from refiner.cli.evaluation.models import action_mode, load_models
from refiner.errors import UsageError
from refiner.evaluation.mpi_inf_3dhp import evaluate_3dhp, format_3dhp
from refiner.runtime.window_model import ImageSize

Array = NDArray[np.float32]


def score_3dhp(arguments: argparse.Namespace) -> None:
    """Score the models that the options name, and print the table."""
    _check_options(arguments)
    sequences = data.load_test_set(arguments.mpi_inf_3dhp, arguments.annotation, partial=True)
    lifter, refiner = load_models(arguments, pool_shape=arguments.pool_shape == "clip", smoothing=arguments.smooth)
    action = UNKNOWN_ACTION if action_mode(arguments.action, lifter) == UNKNOWN_ACTION else None

    def lift(pose_2d: Array, size: ImageSize, camera: Camera) -> Array:
        return lifter.lift(pose_2d, size, action=action, camera=camera if lifter.sees_rays else None)

    def refine(pose_2d: Array, pose_3d: Array, size: ImageSize, camera: Camera) -> Array:
        return refiner.refine(pose_2d, pose_3d, size, camera=camera if refiner.sees_rays else None)

    if (lifter.sees_rays or refiner.sees_rays) and arguments.focal_length == "true":
        scores = evaluate_3dhp(sequences, lift, refine, cameras=True)
    else:
        scores = evaluate_3dhp(sequences, partial(lifter.lift, action=action), refiner.refine)
    print(format_3dhp(scores, markdown=arguments.markdown), end="")


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not fit the test set."""
    if arguments.mpi_inf_3dhp is None or arguments.annotation is None:
        raise UsageError(
            "--mpi-inf-3dhp and --annotation go together: a figure is nothing without the annotation's name"
        )
    if arguments.action not in (None, "guess", "unknown"):
        raise UsageError("MPI-INF-3DHP's sequences have no labels of actions; --action guess or unknown")
    if arguments.json is not None or arguments.hypotheses:
        raise UsageError(
            "--json and --hypotheses are not for --mpi-inf-3dhp, whose result is the table that is printed"
        )
    if arguments.pool_shape not in (None, "clip"):
        raise UsageError(
            f"--pool-shape {arguments.pool_shape} needs several clips of a person; MPI-INF-3DHP's test set has one of "
            "each: --pool-shape clip"
        )
