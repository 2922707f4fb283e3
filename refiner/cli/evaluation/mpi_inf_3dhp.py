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
from refiner.cli.evaluation.records import model_record, settings_record
from refiner.data.mpi_inf_3dhp import Sequence3dhp
from refiner.errors import UsageError
from refiner.evaluation.mpi_inf_3dhp import evaluate_3dhp, format_3dhp, report_3dhp, results_of_report
from refiner.reports import write_report
from refiner.runtime.window_model import ImageSize

Array = NDArray[np.float32]


def score_3dhp(arguments: argparse.Namespace) -> None:
    """Score the models that the options name, print the table, and write the report where ``--json`` is given."""
    _check_options(arguments)
    sequences = _sequences(arguments)
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
    models = {
        "lifter": model_record(lifter, "lifter", arguments.lifter, arguments.live),
        "refiner": model_record(refiner, "refiner", arguments.refiner, arguments.live),
    }
    report = report_3dhp(scores, models, settings_record(arguments, lifter, refiner, arguments.action))
    if arguments.json is not None:
        write_report(arguments.json, report)
    print(format_3dhp(results_of_report(report), markdown=arguments.markdown), end="")


def _sequences(arguments: argparse.Namespace) -> list[Sequence3dhp]:
    """Read the sequences that ``--sequences`` names, or all that the folder holds."""
    if arguments.sequences is None:
        return data.load_test_set(arguments.mpi_inf_3dhp, arguments.annotation, partial=True)
    names = [name.strip() for name in arguments.sequences.split(",") if name.strip()]
    return data.load_test_set(arguments.mpi_inf_3dhp, arguments.annotation, sequences=names)


def _check_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not fit the test set."""
    if arguments.mpi_inf_3dhp is None or arguments.annotation is None:
        raise UsageError(
            "--mpi-inf-3dhp and --annotation go together: a figure is nothing without the annotation's name"
        )
    if arguments.action not in (None, "guess", "unknown"):
        raise UsageError("MPI-INF-3DHP's sequences have no labels of actions; --action guess or unknown")
    if arguments.hypotheses:
        raise UsageError("--hypotheses is not for --mpi-inf-3dhp, whose table has a lifter and a refiner alone")
    if arguments.pool_shape not in (None, "clip"):
        raise UsageError(
            f"--pool-shape {arguments.pool_shape} needs several clips of a person; MPI-INF-3DHP's test set has one of "
            "each: --pool-shape clip"
        )
