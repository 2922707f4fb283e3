"""``refiner-bench trajectory``: the command and its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter

DESCRIPTION = """\
Finds where people are in front of the camera, and scores it by what is known besides the 2D poses: the lens, the height
of the person, the pitch and the height of the camera. The test people of a motion archive are seen by random cameras; a
real take that ships with the command is scored too. Nothing is trained; the report takes minutes."""


def add_trajectory(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "trajectory",
        help="where people are in front of the camera: errors by what is known",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="motion archive (default: REFINER_DATA)")
    parser.add_argument(
        "--quick", action="store_true", help="score one clip of built-in motion, to see that the command runs"
    )
    parser.add_argument(
        "--part", choices=["test", "validation"], default="test", help="people of the archive (default: test)"
    )
    parser.add_argument("--cameras", type=int, default=1, metavar="N", help="random cameras of each clip (default: 1)")
    parser.add_argument("--lifter", default="lifter-small-rays", help="lifter (default: the bundled one)")
    parser.add_argument("--refiner", default="refiner-nano-rays-long", help="refiner (default: the bundled one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write what is printed")
    parser.set_defaults(run=run_trajectory)


def run_trajectory(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from refiner.data import open_motion_folder
    from refiner.data.synthetic import synthetic_folder
    from refiner.errors import UsageError
    from refiner.runtime import Lifter, Refiner
    from refiner_bench.accuracy.motion import archive_folder
    from refiner_bench.real.estimates import Models
    from refiner_bench.real.packages import POSE2SIM
    from refiner_bench.real.take import load_take
    from refiner_bench.report import publish
    from refiner_bench.trajectory.format import format_trajectory
    from refiner_bench.trajectory.report import settings_of, trajectory_report

    if arguments.cameras < 1:
        raise UsageError(f"--cameras must be at least 1, got {arguments.cameras}")
    data = archive_folder(arguments.data, arguments.quick, "the report needs motion", "for built-in motion")
    folder = synthetic_folder(7) if data is None else open_motion_folder(data, detections="simulated")
    limit = 1 if arguments.quick else None
    models = Models(Lifter.load(arguments.lifter, threads=1), Refiner.load(arguments.refiner, threads=1))
    take = f"{POSE2SIM.requirement}, MediaPipe's detections as bundled"
    names = (Path(arguments.lifter).stem, Path(arguments.refiner).stem)
    settings = settings_of(folder, arguments.part, arguments.cameras, names, take, limit)
    report = trajectory_report(
        folder, load_take(), models, settings, limit, lambda line: print(line, file=sys.stderr, flush=True)
    )
    text = format_trajectory(report)
    publish(report, text, arguments.json, arguments.markdown)
    print(text)
