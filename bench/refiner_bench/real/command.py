"""``refiner-bench real``: the command and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from refiner import bundled
from refiner.cli.common import EXIT_CODES, HelpFormatter
from refiner.errors import MissingComponentError, UsageError

BUNDLED = "bundled"
DESCRIPTION = """\
Scores the 3D poses of MediaPipe and of our lifter, each without and with refinement, on real videos: four calibrated
cameras around one person. The truth is triangulated from the detector's 2D keypoints. By default the command scores the
detections and the truth that ship with it. With --rebuild it gets the videos and the detector from the Python registry
(with pip; about 200 MB), and makes detections and truth again. If the packages of a part are not available, the command
names the part, and scores the file that ships with it instead. MediaPipe runs in its own environment in the cache
folder."""

Part = TypeVar("Part")


def add_real(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "real",
        help="real videos and a real detector: MediaPipe's 3D and ours, refined",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--lifter", type=Path, metavar="PATH", help="another lifter (default: the bundled one)")
    parser.add_argument(
        "--refiner",
        type=Path,
        metavar="PATH",
        help="another refiner (default: the bundled one; for MediaPipe's poses the one for other estimators)",
    )
    parser.add_argument("--take", type=Path, metavar="FILE", help="score a take that --save has written")
    parser.add_argument("--rebuild", action="store_true", help="download, detect and triangulate again")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="folder of downloads (default: ~/.cache/refiner/real)"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="with --rebuild: write the new files to this folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write what is printed")
    parser.set_defaults(run=run_real)


def run_real(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if arguments.save is not None and not arguments.rebuild:
        raise UsageError("--save writes the files that --rebuild makes; give both options")
    if arguments.take is not None and arguments.rebuild:
        raise UsageError("--take scores a file and --rebuild makes one; give one of them")
    from importlib.util import find_spec

    if find_spec("torch") is None and (arguments.lifter is None or arguments.refiner is None):
        raise MissingComponentError("real runs the bundled models in PyTorch; run: pip install 'pose-refiner[train]'")
    from refiner.runtime.lifter import Lifter
    from refiner.runtime.refiner import Refiner
    from refiner_bench.real.estimates import Models
    from refiner_bench.real.packages import MEDIAPIPE, POSE2SIM, SPORTS2D, cache_folder
    from refiner_bench.real.report import RealSettings, format_real, real_report
    from refiner_bench.real.take import CLIP, TAKE, load_clip, load_take, save_clip, save_take
    from refiner_bench.report import publish

    for_estimators = arguments.refiner or bundled.default_checkpoint("refiner-of-other-estimators")
    models = Models(Lifter.load(arguments.lifter), Refiner.load(arguments.refiner), Refiner.load(for_estimators))
    skipped: list[str] = []
    take = clip = None
    if arguments.rebuild:
        from refiner_bench.real.build import rebuild_clip, rebuild_take

        cache = (arguments.cache or cache_folder()).resolve()
        take = _or_skip(lambda: rebuild_take(cache), f"the take of {POSE2SIM.requirement}", skipped)
        clip = _or_skip(lambda: rebuild_clip(cache), f"the clip of {SPORTS2D.requirement}", skipped)
        if arguments.save is not None:
            if take is None or clip is None:
                raise MissingComponentError(f"nothing is saved, because a part could not be made: {skipped[0]}")
            save_take(arguments.save / TAKE.name, take)
            save_clip(arguments.save / CLIP.name, clip)
    source = f"made anew with {MEDIAPIPE}"
    settings = RealSettings(
        take=str(arguments.take or f"{POSE2SIM.requirement}, {'as bundled' if take is None else source}"),
        clip=f"{SPORTS2D.requirement}, {'as bundled' if clip is None else source}",
        lifter=str(arguments.lifter or BUNDLED),
        refiner=str(arguments.refiner or f"{BUNDLED}; of MediaPipe's poses {for_estimators.stem}"),
        skipped=skipped,
    )
    take = load_take(arguments.take or TAKE) if take is None else take
    if arguments.take is None:
        clip = load_clip() if clip is None else clip
    report = real_report(take, clip, models, settings)
    text = format_real(report)
    publish(report, text, arguments.json, arguments.markdown)
    print(text)


def _or_skip(make: Callable[[], Part], what: str, skipped: list[str]) -> Part | None:
    """Make a part; if its packages are not available, add the reason to ``skipped`` and print it.

    Args:
        make: Makes the part.
        what: The name of the part.
        skipped: Receives the reason.

    Returns:
        The part, or None.
    """
    from refiner_bench.real.packages import UnavailableError

    try:
        return make()
    except UnavailableError as error:
        skipped.append(f"{what} is not made again, the bundled one is scored: {error}")
        print(f"skipped: {skipped[-1]}", file=sys.stderr, flush=True)
        return None
