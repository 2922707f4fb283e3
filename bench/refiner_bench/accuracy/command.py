"""``refiner-bench accuracy``: the reports of the bundled models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write the accuracy reports of the bundled models"
DESCRIPTION = """\
Scores the bundled models by random cameras, without the lens, live, and on estimators that they never saw. Writes the
reports below --reports from which the tables of README and docs are made (then: refiner-bench readme). Nothing is
trained; a report takes minutes.

The accuracy study, which trains models, is a command of the checkout: python -m studies.accuracy --help"""
# Options that this command had while it ran the study, too.
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
    parser.add_argument("--bundled", action="store_true", help="the bundled models, which is what it scores anyway")
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="motion archive (default: REFINER_DATA)")
    parser.add_argument("--quick", action="store_true", help="two clips of built-in motion: shows that it runs")
    parser.add_argument("--table", metavar="FILE", type=Path, help="another table of reports (default: bundled.toml)")
    parser.add_argument("--rows", metavar="REPORT", nargs="+", default=[], help="these reports alone")
    parser.add_argument("--list", action="store_true", help="print the reports and exit")
    parser.add_argument("--reports", metavar="DIR", type=Path, help="where they lie (default: bench/reports)")
    for name in OF_STUDY:
        parser.add_argument(f"--{name}", dest=f"study_{name}", nargs="*", help=argparse.SUPPRESS)
    parser.set_defaults(run=run_accuracy)


def run_accuracy(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from refiner.errors import UsageError
    from refiner_bench.accuracy.bundled import TABLE, load_evaluations, run_evaluations, select
    from refiner_bench.accuracy.motion import archive_folder

    given = [f"--{name}" for name in OF_STUDY if getattr(arguments, f"study_{name}") is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: of the study, which a checkout runs: python -m studies.accuracy")
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
