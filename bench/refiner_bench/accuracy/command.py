"""``refiner-bench accuracy``: the reports of the bundled models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the accuracy reports of the bundled models"
DESCRIPTION = """\
Scores the bundled models with random cameras, without the lens, on a live stream, and on estimators that they were
not trained on. Writes the reports into the folder --reports. The tables of README and docs come from these reports;
write the tables with "refiner-bench readme" afterwards. Nothing is trained; a report takes minutes.

The accuracy study, which trains models, is a command of the checkout: python -m studies.accuracy --help"""
# Options of the accuracy study, which this command ran in earlier versions.
OF_STUDY = ("output", "report-only", "seeds", "jobs", "threads", "json", "markdown", "earlier", "pictures")


def add_accuracy(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "accuracy",
        help=HELP,
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bundled", action="store_true", help="no effect: the command always scores the bundled models"
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="motion archive (default: REFINER_DATA)")
    parser.add_argument(
        "--quick", action="store_true", help="score two clips of built-in motion, to see that the command runs"
    )
    parser.add_argument("--table", metavar="FILE", type=Path, help="another table of reports (default: bundled.toml)")
    parser.add_argument("--rows", metavar="REPORT", nargs="+", default=[], help="write only these reports")
    parser.add_argument("--list", action="store_true", help="print the reports and exit")
    parser.add_argument("--reports", metavar="DIR", type=Path, help="folder of the reports (default: bench/reports)")
    for name in OF_STUDY:
        parser.add_argument(f"--{name}", dest=f"study_{name}", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(run=run_accuracy)


def run_accuracy(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from refiner.errors import UsageError
    from refiner_bench.accuracy.bundled import TABLE, load_evaluations, run_evaluations, select
    from refiner_bench.accuracy.motion import archive_folder

    unsupported = [f"--{name}" for name in OF_STUDY if getattr(arguments, f"study_{name}") is not None]
    if unsupported:
        raise UsageError(f"{', '.join(unsupported)}: of the study, which a checkout runs: python -m studies.accuracy")
    evaluations = select(load_evaluations(arguments.table or TABLE), arguments.rows)
    if arguments.list:
        for entry in evaluations:
            print(f"{entry.file:36s} {' '.join(entry.arguments)}")
        return
    data = archive_folder(arguments.data, arguments.quick, "the reports need motion", "for built-in motion")
    if arguments.quick and arguments.reports is None:
        raise UsageError("--quick writes reports that are no figures of the README: --reports DIR says where")
    more = ("--limit-clips", "2", "--resamples", "200") if arguments.quick else ()
    reports = arguments.reports or Path("bench/reports")
    for file in run_evaluations(evaluations, data, reports, lambda text: print(text, file=sys.stderr), more):
        print(f"wrote {file}")
