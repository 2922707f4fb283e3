"""Score the predictions of an estimator of one's own, before and after refinement."""

from __future__ import annotations

import argparse

from refiner.cli.evaluation.models import default_checkpoint
from refiner.errors import UsageError
from refiner.evaluation.protocol import METRICS, EvaluationResult, Evaluator, Sequence
from refiner.evaluation.tables import markdown_table, text_table
from refiner.runtime import Refiner
from refiner.training.predictions import load_predictions

# Options that belong to archives, and their defaults.
FOR_ARCHIVES = {
    "dataset": None,
    "subjects": "test",
    "detections": "simulated",
    "cameras": "archive",
    "seed": None,
    "limit_clips": None,
    "lifter": None,
    "noise_model": None,
    "action": None,
    "hypotheses": False,
    "focal_length": "true",
    "json": None,
}


def score_predictions(arguments: argparse.Namespace) -> None:
    """Score the file of the option ``--predictions`` and print the table."""
    unfit = [f"--{name.replace('_', '-')}" for name, usual in FOR_ARCHIVES.items() if getattr(arguments, name) != usual]
    if unfit:
        raise UsageError(f"{', '.join(unfit)}: not for --predictions, whose result is the table that is printed")
    if arguments.pool_shape not in (None, "clip"):
        raise UsageError(f"--pool-shape {arguments.pool_shape}: not for --predictions; --pool-shape clip")
    predictions = load_predictions(arguments.predictions)
    refiner = Refiner.load(
        arguments.refiner or default_checkpoint("refiner", arguments.live),
        engine=arguments.engine,
        steps=arguments.steps,
        flip_test=arguments.flip_test,
        pool_shape=arguments.pool_shape == "clip",
        smoothing=arguments.smooth,
    )
    columns = {"predicted": Evaluator(), "refined": Evaluator()}
    for number, clip in enumerate(predictions.clips):
        refined = refiner.refine(clip.pixels, clip.lifted, clip.image_size, predictions.fps)
        for name, poses in (("predicted", clip.lifted), ("refined", refined)):
            columns[name].add(Sequence(f"{clip.name} ({number})", clip.person, clip.name, "", poses, clip.truth))
    results = {name: evaluator.result() for name, evaluator in columns.items()}
    print(format_predictions(arguments.predictions, results, arguments.markdown), end="")


def format_predictions(file: str, results: dict[str, EvaluationResult], markdown: bool = False) -> str:
    """Format the frame-wise means of both columns as a table."""
    first = next(iter(results.values()))
    rows = [
        [f"{info.label} ({info.unit})", *(f"{result.frame_mean(metric):.1f}" for result in results.values())]
        for metric, info in METRICS.items()
    ]
    title = f"{file}: {len(first.sequences)} clips, {first.frames} frames; frame-wise means"
    return f"{title}\n\n" + (markdown_table if markdown else text_table)(["metric", *results], rows) + "\n"
