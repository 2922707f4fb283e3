"""``refiner-train``: train a lifter or a refiner from a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.common import EXIT_CODES, HelpFormatter, run

if TYPE_CHECKING:
    from refiner.data import MotionFolder
    from refiner.training.config import Config

EXAMPLES = """\
examples:
  refiner-train lifter --config lifter-small --data FOLDER --output runs/lifter
  refiner-train refiner --config refiner-small --data FOLDER --lifter runs/lifter/best.safetensors --output runs/refiner
  refiner-train refiner --config refiner-small --set training.steps=2000 --set model.dim=96 ...
  refiner-train refiner --config refiner-small-causal --start-from runs/refiner/best.safetensors \\
                --data FOLDER --lifter runs/lifter/best.safetensors --output runs/causal
  refiner-train lifter --config finepose-small --set text.prompts=AL --data FOLDER --output runs/finepose-al
  refiner-train refiner --config refiner-small --from-predictions mine.npz --validation-person Ann --output runs/mine
  refiner-train lifter --config lifter-paper --data H36M --dataset human36m --detections cpn_ft_h36m_dbb \\
                --validation-person S8 --output runs/h36m
                                                       Human3.6M with its CPN detections, S8 held out
  refiner-train lifter --config lifter-small --data FOLDER --detections cpn --set data.detected=0.5 --output runs/mixed
                                                       every second window with real detections
  refiner-train lifter --config lifter-small --data FOLDER --data MORE --weight idle=0.1 --output runs/more
                                                       archives of two folders, data_3d_idle.npz with little weight

  refiner-train refiner --config refiner-nano-rays --data FOLDER --lifter runs/lifter/best.safetensors \\
                --estimator runs/mlp/best.safetensors --output runs/any
                                                       for any camera and the poses of any estimator
  torchrun --nproc-per-node 2 -m refiner.cli.train lifter --config lifter-small --set training.parts=2 ...
                                                       by two processes, see docs/training.md

FOLDER holds one data_3d_*.npz in VideoPose3D's layout (or several, which train together), a clips.json with the frame
rate and the split, and where there are some cameras.json and data_2d_*.npz: see docs/data.md. People of further
archives are training people; archives whose name ends with _free are seen by random cameras.

FILE of --from-predictions holds one row a frame: pose_2d (F, 17, 2) pixels, pose_3d and target_3d (F, 17, 3) metres in
camera axes, clip (F,) and person (F,) as numbers or names; and image_size (2,) or (F, 2), and fps. Predictions of
people whom the estimator was not trained on serve best.

--config is a TOML file, or one of the bundled. Lifters: lifter-small and lifter-paper (STCFormer), mixste-, d3dp- and
finepose-small and -paper. Refiners: refiner-small, refiner-small-correlated and, started from it,
refiner-small-recombined (the bundled model named refiner), refiner-small-causal (for streams, frame by frame),
refiner-paper; smoothnet-small and -paper, which look at the lifter's 3D poses alone. For any camera: lifters
lifter-nano-rays, -small-rays and -base-rays, mixste-nano-rays, mlp-small-rays, tcn-small-rays; refiners that train on a
pool of them refiner-nano-rays and refiner-base-rays, started from the first refiner-nano-rays-long (the default
refiner) and refiner-nano-rays-causal, and started from that refiner-nano-rays-live (docs/any-camera.md).
A stopped run goes on from its last interval when you give the same command again. The best checkpoint by
the validation person's MPJPE is OUTPUT/best.safetensors, the last one OUTPUT/last.safetensors, and the validation curve
OUTPUT/history.json.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-train``."""
    parser = argparse.ArgumentParser(
        prog="refiner-train",
        description="Train a lifter, or a refiner for a lifter, on a motion archive.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=["lifter", "refiner"], help="what to train")
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration, a file or a bundled name")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        action="append",
        help="motion archive (default: the environment variable REFINER_DATA); again for each further folder to train "
        "on, the first says who validates and tests",
    )
    parser.add_argument(
        "--dataset", choices=["human36m"], help="take Human3.6M's split instead of the first folder's clips.json"
    )
    parser.add_argument(
        "--detections",
        metavar="2D",
        help="simulated, ground-truth, a data_2d file, or the name of one in the folder: real detections, for the "
        "share data.detected of the windows (all of them where the configuration states none) and for validation",
    )
    parser.add_argument(
        "--weight",
        metavar="ARCHIVE=X",
        action="append",
        default=[],
        help="how often a frame of an archive is drawn beside those of others, like idle=0.1 for data_3d_idle.npz",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--lifter", metavar="PATH", help="refiner only: the lifter's checkpoint")
    parser.add_argument(
        "--estimator",
        metavar="PATH",
        action="append",
        default=[],
        help='refiner only, for a configuration that trains on a pool (diffusion.train_on = "unrolled"): a further '
        "lifter that sees rays; again for more",
    )
    parser.add_argument(
        "--held-out",
        metavar="PATH",
        action="append",
        default=[],
        help="like --estimator, but the lifters are not trained on; they help to choose the checkpoint",
    )
    parser.add_argument(
        "--cross-fit", metavar="PATH", nargs="+", help="refiner only: the lifters of the folds, for cross-fitted errors"
    )
    parser.add_argument(
        "--start-from", metavar="PATH", help="begin with the weights of this checkpoint of the same network"
    )
    parser.add_argument(
        "--from-predictions",
        metavar="FILE",
        help="refiner only: train for another estimator, on an .npz of its 2D, its 3D and the ground truth",
    )
    parser.add_argument(
        "--validation-person",
        metavar="WHO",
        help="the person whose frames choose the checkpoint: one of --from-predictions, or a training person of the "
        "split, who is then held out",
    )
    parser.add_argument(
        "--without", metavar="WHO", default="", help="lifter only: training people to leave out, with commas"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one value of the configuration"
    )
    parser.add_argument(
        "--half", action="store_true", help="also write OUTPUT/half.safetensors, the best checkpoint in half precision"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="stop after N minutes from the start of this command, validated and saved; the same command goes on from "
        "there later",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="let the learning rate follow the time where the time is further on than the steps, so that its schedule "
        "ends with --minutes; the learning rates then differ from run to run",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    began = time.perf_counter()
    from refiner.errors import InputWarning, MissingComponentError

    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
        import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"training needs {error.name}, which is not installed: pip install 'pose-refiner[train]'"
        ) from error
    from refiner.training.processes import joined

    with joined() as processes:
        if not processes.first:  # the first process says it all
            arguments.quiet = True
            warnings.simplefilter("ignore", InputWarning)
        best = _train(arguments, began)
        if processes.first:
            _finish(best, Path(arguments.output), arguments.half)


def _train(arguments: argparse.Namespace, began: float) -> Path:
    """Train as the options say; returns the path of the best checkpoint."""
    from refiner.errors import UsageError
    from refiner.training.runs import train_lifter, train_refiner

    if arguments.minutes is not None and not 0 < arguments.minutes < math.inf:
        raise UsageError(f"--minutes {arguments.minutes:g}: expected a time above 0")
    if arguments.finish and arguments.minutes is None:
        raise UsageError("--finish ends the schedule with --minutes N: give that too")
    config = configuration_of(arguments)
    output = Path(arguments.output)
    if arguments.from_predictions:
        return _train_on_predictions(arguments, config, output, began)
    folder = open_folders(arguments, config)
    if arguments.kind == "lifter":
        without = [name.strip() for name in arguments.without.split(",") if name.strip()]
        unknown = sorted(set(without) - set(folder.description.train))
        if unknown:
            raise UsageError(f"--without: {', '.join(unknown)} is no training person")
        return train_lifter(config, folder, output, without, *_last_options(arguments, began))
    return train_refiner(config, folder, output, *_last_options(arguments, began))


def configuration_of(arguments: argparse.Namespace) -> Config:
    """Read the configuration, and change it as the options say.

    Raises:
        UsageError: the options do not go together.
        ConfigError: the configuration is wrong.
    """
    from refiner.errors import UsageError
    from refiner.training.config import load_config

    config = load_config(arguments.config, arguments.set)
    if arguments.kind == "lifter" and (arguments.lifter or arguments.cross_fit):
        raise UsageError("--lifter and --cross-fit belong to: refiner-train refiner")
    if arguments.kind == "refiner" and arguments.without:
        raise UsageError("--without belongs to: refiner-train lifter")
    if arguments.lifter:
        config = dataclasses.replace(config, lifter=arguments.lifter)
    if arguments.start_from:
        config = dataclasses.replace(config, start_from=arguments.start_from)
    if arguments.cross_fit:
        config = dataclasses.replace(
            config, noise=dataclasses.replace(config.noise, cross_fit=tuple(arguments.cross_fit))
        )
    config = _with_pool(config, arguments.estimator, arguments.held_out)
    return config if arguments.from_predictions else _with_detections(config, arguments.detections)


def _with_pool(config: Config, others: Sequence[str], held_out: Sequence[str]) -> Config:
    """The configuration with the lifters of ``--estimator`` and ``--held-out``."""
    from refiner.errors import UsageError

    if not others and not held_out:
        return config
    if config.kind != "refiner" or config.diffusion.train_on != "unrolled":
        raise UsageError(
            "--estimator and --held-out belong to a refiner's configuration that trains on a pool, like "
            'refiner-nano-rays (diffusion.train_on = "unrolled")'
        )
    estimators = dataclasses.replace(
        config.estimators, others=tuple(others) or config.estimators.others, held_out=tuple(held_out)
    )
    return dataclasses.replace(config, estimators=estimators)


def _with_detections(config: Config, source: str | None) -> Config:
    """The configuration with the 2D poses that ``--detections`` names."""
    if source is None:
        return config
    if source == "simulated":
        data = dataclasses.replace(config.data, detections="simulated", detected=0.0)
    elif source == "ground-truth":
        data = dataclasses.replace(config.data, detections="ground-truth", detected=0.0)
    else:
        data = dataclasses.replace(config.data, detected=config.data.detected or 1.0)
    return dataclasses.replace(config, data=data)


def open_folders(arguments: argparse.Namespace, config: Config) -> MotionFolder:
    """Open the training set that the options name, and print its contents.

    Raises:
        MissingComponentError: neither an option nor the environment names a folder.
        UsageError: the options do not go together.
    """
    from refiner.data.clips import DATA_VARIABLE, data_folder_from_env
    from refiner.data.training_set import describe_archives, open_motion_folders
    from refiner.errors import MissingComponentError, UsageError

    folders = arguments.data or [data_folder_from_env()]
    if folders == [None]:
        raise MissingComponentError(
            f"the environment variable {DATA_VARIABLE} is not set; let it, or --data, name a folder with a "
            "data_3d_*.npz"
        )
    weights = {}
    for text in arguments.weight:
        name, _, value = text.rpartition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"--weight {text}: expected ARCHIVE=X, like idle=0.1")
    people = [name.strip() for name in (arguments.validation_person or "").split(",") if name.strip()]
    folder = open_motion_folders(
        folders,
        dataset=arguments.dataset,
        validation=people or "default",
        detections="simulated" if arguments.detections == "ground-truth" else arguments.detections,
        weights=weights,
    )
    if arguments.quiet:
        return folder
    for line in describe_archives(folder):
        print(line, file=sys.stderr)
    file = folder.archives[0].detections
    if file and not config.data.detected and config.data.detections == "simulated":
        print(
            f"note: {file} validates, and the training simulates: --detections {file} trains on it, "
            "--detections simulated leaves it out",
            file=sys.stderr,
        )
    return folder


def _last_options(arguments: argparse.Namespace, began: float) -> tuple[bool, float | None, bool]:
    """The last arguments of the training functions: quiet, the remaining minutes of ``--minutes``, and finish.

    ``began``: the value of `time.perf_counter` when the command started.
    """
    minutes = arguments.minutes
    if minutes is not None:
        minutes = max(0.0, minutes - (time.perf_counter() - began) / 60.0)
    return arguments.quiet, minutes, arguments.finish


def _train_on_predictions(arguments: argparse.Namespace, config: Config, output: Path, began: float) -> Path:
    from refiner.errors import UsageError
    from refiner.training.predictions import load_predictions
    from refiner.training.runs import train_refiner_on_predictions

    if arguments.kind == "lifter" or arguments.lifter or arguments.cross_fit or arguments.data:
        raise UsageError("--from-predictions trains a refiner without a lifter of ours: leave --data and --lifter out")
    if arguments.dataset or arguments.detections or arguments.weight:
        raise UsageError("--dataset, --detections and --weight are of archives: leave them out with --from-predictions")
    predictions = load_predictions(arguments.from_predictions)
    person = arguments.validation_person or predictions.people[-1]
    return train_refiner_on_predictions(config, predictions, person, output, *_last_options(arguments, began))


def _finish(best: Path, output: Path, half: bool) -> None:
    print(f"best checkpoint: {best}")
    if half:
        from refiner.model_files.checkpoint import compress_checkpoint

        compress_checkpoint(best, output / "half.safetensors")


if __name__ == "__main__":
    sys.exit(main())
