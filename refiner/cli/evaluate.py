"""``refiner-evaluate``: errors before and after refinement, in a table and as JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.errors import RefinerError, UsageError

if TYPE_CHECKING:
    from refiner.data import CameraClip
    from refiner.diffusion import ConditionalGaussian

PROGRAM = "refiner-evaluate"
DESCRIPTION = """\
Lifts every clip of an archive from its 2D poses, refines the result, and reports the error of both against
the ground truth: MPJPE, P-MPJPE, N-MPJPE, velocity and acceleration error, per action, action-wise and
frame-wise. The column between them, 'linear mean', subtracts the conditional mean of the refiner's noise
model alone: what a linear regression achieves. Gains come with a 95 % bootstrap interval over whole clips."""
EXAMPLES = """\
examples:
  refiner-evaluate --synthetic 7                       the built-in synthetic motion; needs no data
  refiner-evaluate --data FOLDER --json result.json    the test people of an archive, simulated detections
  refiner-evaluate --data H36M --dataset human36m --detections cpn_ft_h36m_dbb
                                                       Human3.6M, S9 and S11, with its CPN detections
  refiner-evaluate --subjects validation --lifter lifter.safetensors --refiner refiner.safetensors

FOLDER holds one data_3d_*.npz in VideoPose3D's layout and a clips.json with the frame rate and the split.
exit codes: 0 done, 2 usage, 3 a component is missing, 5 bad input, 130 interrupted"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    source.add_argument(
        "--data", metavar="FOLDER", help="motion archive (default: the environment variable REFINER_DATA)"
    )
    source.add_argument(
        "--synthetic", metavar="SEED", type=_seed, help="score built-in synthetic motion of this seed instead"
    )
    data.add_argument(
        "--dataset", choices=["human36m"], help="take Human3.6M's split instead of the folder's clips.json"
    )
    data.add_argument(
        "--subjects",
        metavar="WHO",
        default="test",
        help="test, validation, train, or names with commas: S2,S14 (default: test)",
    )
    data.add_argument(
        "--detections",
        metavar="2D",
        default="simulated",
        help="simulated, ground-truth, a data_2d file, or the name of one in the folder (default: simulated)",
    )
    data.add_argument("--seed", type=_seed, help="seed of the simulated detector (default: the detector model's)")
    data.add_argument(
        "--limit-clips", metavar="N", type=_count, help="score at most N clips, spread evenly over the archive"
    )
    models = parser.add_argument_group("models")
    models.add_argument("--lifter", metavar="PATH", help="lifter checkpoint or .onnx file (default: the bundled one)")
    models.add_argument("--refiner", metavar="PATH", help="refiner checkpoint or .onnx file (default: the bundled one)")
    models.add_argument(
        "--noise-model",
        metavar="PATH",
        help="checkpoint whose noise model gives the 'linear mean' column (default: the refiner checkpoint)",
    )
    models.add_argument("--engine", choices=["torch", "onnx"], help="what runs the models (default: by file and extras)")
    models.add_argument("--steps", metavar="K", type=_count, help="denoising steps (default: the checkpoint's)")
    models.add_argument(
        "--flip-test", action="store_true", help="lift the mirrored 2D poses too and average the two"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    output.add_argument("--markdown", action="store_true", help="print Markdown tables")
    output.add_argument(
        "--resamples", metavar="N", type=_count, default=10_000, help="bootstrap resamples (default: 10000)"
    )
    output.add_argument("--bootstrap-seed", metavar="SEED", type=_seed, default=0, help="seed of the bootstrap")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        _run(arguments)
    except RefinerError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return RefinerError.exit_code
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


@dataclass(frozen=True)
class _Data:
    clips: list[CameraClip]
    record: dict[str, Any]
    acknowledgement: str | None


def _run(arguments: argparse.Namespace) -> None:
    if arguments.json is not None and Path(arguments.json).is_dir():
        raise UsageError(f"--json {arguments.json}: is a folder, expected a file to write")
    from tqdm import tqdm

    from refiner.evaluation.pipeline import score_models
    from refiner.evaluation.report import build_report, format_report, write_report
    from refiner.runtime import Lifter, Refiner

    data = _load_data(arguments)
    lifter = Lifter.load(arguments.lifter, engine=arguments.engine, flip_test=arguments.flip_test)
    refiner = Refiner.load(arguments.refiner, engine=arguments.engine, steps=arguments.steps)
    noise_model = _noise_model(arguments)
    frames = sum(clip.frames for clip in data.clips)
    with tqdm(total=frames, unit=" frames", disable=arguments.quiet or None, file=sys.stderr) as progress:

        def advance(clip: CameraClip) -> None:
            progress.set_postfix_str(f"{clip.subject} {clip.key}", refresh=False)
            progress.update(clip.frames)

        columns = score_models(
            data.clips,
            lift=lambda pose_2d, size: lifter.lift(pose_2d, image_size=size),
            refine=lambda pose_2d, pose_3d, size: refiner.refine(pose_2d, pose_3d, image_size=size),
            noise_model=noise_model,
            on_clip=advance,
        )
    report = build_report(
        columns,
        data=data.record,
        models={"lifter": _model_record(lifter), "refiner": _model_record(refiner)},
        settings={
            "flip_test": arguments.flip_test,
            "steps": arguments.steps,
            "engine": arguments.engine,
            "limit_clips": arguments.limit_clips,
        },
        acknowledgement=data.acknowledgement,
        validation_curve=_validation_curve(_config(lifter)),
        resamples=arguments.resamples,
        seed=arguments.bootstrap_seed,
    )
    if arguments.json is not None:
        write_report(arguments.json, report)
    print(format_report(report, markdown=arguments.markdown), end="")
