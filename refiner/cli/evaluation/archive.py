"""Score models on the clips of a motion archive."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refiner.actions import action_for_lifter
from refiner.cli.evaluation.clips import load_clips
from refiner.cli.evaluation.models import action_mode, load_models, load_noise_model
from refiner.cli.evaluation.records import model_record, settings_record, validation_curve
from refiner.data import CameraClip
from refiner.diffusion.familiarity import Familiarity, merge_familiarity
from refiner.evaluation.pipeline import ExampleCurve, lens_options, score_models
from refiner.evaluation.report import build_report, format_report
from refiner.reports import write_report

Array = NDArray[np.float32]


def score_archive(arguments: argparse.Namespace) -> None:
    """Score the models that the options name, print the report, and write it where ``--json`` is given."""
    # The models come first: they are quick to load or to refuse, and the clips are slow to make.
    lifter, refiner = load_models(arguments)
    mode = action_mode(arguments.action, lifter)
    # The noise model of a refiner of rays is in the axes of virtual cameras, which the column "linear mean" does not
    # know.
    skip_noise_model = refiner.sees_rays and arguments.noise_model is None
    noise_model = None if skip_noise_model else load_noise_model(arguments)
    data = load_clips(arguments)
    if mode is not None:
        data.record["description"] += f"; the lifter is told the action by {mode}"
    compared: list[tuple[int, Familiarity]] = []
    example = ExampleCurve()

    def lift(clip: CameraClip) -> Array:
        lens = lens_options(lifter.sees_rays, clip, arguments.focal_length)
        return lifter.lift(clip.pose_2d, clip.image_size, data.fps, action=action_of(clip), **lens)

    def hypothesise(clip: CameraClip) -> Array:
        return lifter.hypotheses(clip.pose_2d, clip.image_size, data.fps, action_of(clip))

    def action_of(clip: CameraClip) -> str | None:
        return action_for_lifter(mode, clip.action, lifter.actions)

    def refine(clip: CameraClip, pose_3d: NDArray[Any]) -> Array:
        lens = lens_options(refiner.sees_rays, clip, arguments.focal_length)
        familiarity = refiner.compare_input(clip.pose_2d, pose_3d, clip.image_size, data.fps, **lens)
        if familiarity is not None:
            compared.append((len(pose_3d), familiarity))
        return refiner.refine(clip.pose_2d, pose_3d, clip.image_size, data.fps, **lens)

    with _progress_bar(sum(clip.frames for clip in data.clips), arguments.quiet) as advance:
        columns = score_models(
            data.clips,
            lift=lift,
            refine=refine,
            noise_model=noise_model,
            on_clip=advance,
            pooled=arguments.pool_shape,
            smooth=arguments.smooth,
            example=example,
            hypothesise=hypothesise if arguments.hypotheses else None,
        )
    report = build_report(
        columns,
        data=data.record,
        models={
            "lifter": model_record(lifter, "lifter", arguments.lifter, arguments.live),
            "refiner": model_record(refiner, "refiner", arguments.refiner, arguments.live),
        },
        settings=settings_record(arguments, lifter, refiner, mode),
        acknowledgement=data.acknowledgement,
        validation_curve=validation_curve(lifter),
        familiarity=merge_familiarity(compared),
        example=example.to_report(),
        resamples=arguments.resamples,
        seed=arguments.bootstrap_seed,
    )
    if arguments.json is not None:
        write_report(arguments.json, report)
    print(format_report(report, markdown=arguments.markdown), end="")


@contextmanager
def _progress_bar(frames: int, quiet: bool) -> Iterator[Callable[[CameraClip], None]]:
    """A progress bar on a terminal, counted in frames. There is none where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda clip: None
        return
    with tqdm(total=frames, unit=" frames", disable=True if quiet else None, file=sys.stderr) as bar:

        def advance(clip: CameraClip) -> None:
            bar.set_postfix_str(f"{clip.subject} {clip.key}", refresh=False)
            bar.update(clip.frames)

        yield advance
