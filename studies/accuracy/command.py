"""``python -m studies.accuracy``: the command and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run, thread_count

DESCRIPTION = """\
Trains every row of a table of runs (lifters, refiners, ablations, controls), scores it on people that it was not
trained on, and writes one report with intervals, and plots. After an interruption the study continues: a row that is
trained and scored in the folder --output does not run again. With --quick the same rows run as toys on built-in motion,
in minutes."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.accuracy",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help="motion archive (default: REFINER_DATA)")
    parser.add_argument(
        "--quick", action="store_true", help="train toy models on built-in motion, to see that every row runs"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("runs/accuracy"), help="the runs' folder")
    parser.add_argument("--table", metavar="FILE", type=Path, help="another table of runs (default: the study's)")
    parser.add_argument(
        "--rows", metavar="ROW", nargs="+", default=[], help="run only these rows and the rows that they need"
    )
    parser.add_argument("--list", action="store_true", help="print the rows and exit")
    parser.add_argument("--report-only", action="store_true", help="run nothing; only report finished rows")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", help="seeds (default: the table's)")
    parser.add_argument("--jobs", metavar="N", type=int, help="runs at a time (default: one per processor)")
    parser.add_argument("--threads", metavar="N", type=thread_count, default=1, help="threads of each run (default: 1)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the tables")
    parser.add_argument(
        "--earlier",
        metavar="REPORT",
        type=Path,
        help="use rows of this JSON report of the study if they are not in the output folder",
    )
    parser.add_argument("--pictures", metavar="DIR", type=Path, help="draw plots into this folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(_run_study, build_parser(), argv)


def _run_study(arguments: argparse.Namespace) -> None:
    from refiner_bench.accuracy.markdown import format_accuracy
    from refiner_bench.accuracy.motion import archive_folder
    from refiner_bench.report import publish
    from tqdm import tqdm

    from refiner.errors import TrainingError
    from studies.accuracy.earlier import load_earlier
    from studies.accuracy.report import accuracy_report, report_settings
    from studies.accuracy.runner import Runner
    from studies.accuracy.spec import Spec, claim_folder
    from studies.accuracy.study import check_request, default_jobs, run_study
    from studies.accuracy.table import TABLE, load_table

    source = arguments.table or TABLE
    table = load_table(source, arguments.quick)
    if arguments.list:
        for row in table.rows:
            print(f"{row.name:28s} {row.kind:8s} {row.title}")
        return
    data = archive_folder(arguments.data, arguments.quick, "the study needs motion", "for toys")
    jobs = default_jobs() if arguments.jobs is None else arguments.jobs
    seeds = arguments.seeds or list(table.seeds)
    check_request(jobs, seeds)
    spec = Spec(source.resolve(), data, arguments.output.resolve(), arguments.quick, arguments.threads)
    claim_folder(spec)
    runner = Runner(spec, *spec.load())
    settings = report_settings(runner, seeds)
    # The earlier report is checked before the study runs for hours.
    earlier = None if arguments.earlier is None else load_earlier(arguments.earlier, settings)
    failed: list[tuple[str, int]] = []
    if not arguments.report_only:
        total = len(table.select(arguments.rows)) * len(seeds)
        with tqdm(total=total, unit="row", file=sys.stderr, disable=None) as bar:

            def done(name: str, seed: int, seconds: float) -> None:
                bar.update()
                bar.write(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr)

            def failure(name: str, seed: int, error: Exception) -> None:
                bar.write(f"{name}, seed {seed}: {type(error).__name__}: {error} (see its log)", file=sys.stderr)

            failed = run_study(spec, arguments.rows, seeds, jobs, done, failure)
    report = accuracy_report(runner, settings, earlier)
    for name, why in report["left_out"].items():
        print(f"{name}: not taken from {arguments.earlier}: {why}", file=sys.stderr)
    text = format_accuracy(report)
    publish(report, text, arguments.json, arguments.markdown)
    if arguments.pictures is not None:
        from refiner_bench.accuracy.plots import draw_study

        from studies.accuracy.skeletons import draw_skeletons

        draw_study(report, arguments.pictures)
        draw_skeletons(runner, seeds[0], arguments.pictures)
    print(text)
    if failed:
        names = ", ".join(f"{name} (seed {seed})" for name, seed in failed)
        raise TrainingError(f"failed, or without a row that they need: {names}; all other rows are in the report")
