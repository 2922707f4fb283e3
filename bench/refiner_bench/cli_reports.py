"""The commands of refiner-bench that read reports of other commands and measure nothing."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from refiner.cli.common import EXIT_CODES, REGRESSION, HelpFormatter


def add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``refiner-bench compare`` and its options."""
    parser = commands.add_parser(
        "compare",
        help="regressions between two reports of the same command",
        description="Give a verdict on every number of two reports. Counts must be equal, and accuracies must agree "
        "within 0.02 mm. A ratio to a peer of the same run has changed if it differs by 15 % and by 3.5 standard "
        "errors. Times are shown and not judged. The exit code is 6 if anything got worse or is no longer measured.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("before", type=Path, help="report (JSON)")
    parser.add_argument("after", type=Path, help="report (JSON) of the same command")
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=["count", "accuracy", "ratio"],
        default=["count", "accuracy", "ratio"],
        help="judge only these kinds (CI on shared machines: count accuracy)",
    )
    parser.add_argument("--all", action="store_true", help="print every measure, not only what changed")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the printed text")
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> int:
    from refiner.files import atomic_write_text
    from refiner_bench.compare import compare_reports, format_comparison, regressions
    from refiner_bench.measures import read_measured

    changes = compare_reports(read_measured(arguments.before), read_measured(arguments.after), arguments.kinds)
    text = format_comparison(changes, arguments.all)
    if arguments.markdown is not None:
        atomic_write_text(arguments.markdown, text + "\n")
    print(text)
    return REGRESSION if regressions(changes) else 0


def add_page(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``refiner-bench page`` and its options."""
    parser = commands.add_parser(
        "page",
        help="one HTML page of many reports, with their plots",
        description="Write one self-contained page with the tables and the plots of all given reports. Reading it "
        "needs no network.",
        allow_abbrev=False,
    )
    parser.add_argument("reports", type=Path, nargs="+", help="reports (JSON), or a folder of them")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.set_defaults(run=_run_page)


def _run_page(arguments: argparse.Namespace) -> None:
    from refiner.files import atomic_write_text
    from refiner_bench.page import page_of, reports_of

    atomic_write_text(arguments.output, page_of(reports_of(arguments.reports)))
    print(f"wrote {arguments.output}")


def add_readme(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``refiner-bench readme`` and its options."""
    parser = commands.add_parser(
        "readme",
        help="write the tables of README and other pages from the reports that they name",
        description="Write every '<!-- figures KIND REPORT -->' ... '<!-- end -->' block of a page again from the "
        "reports that it names. REPORT is relative to the page's folder, and may be a glob. With --check nothing is "
        "written, and the exit code is 6 if a block differs.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="pages (default: README.md)")
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    parser.set_defaults(run=_run_readme)


def _run_readme(arguments: argparse.Namespace) -> int:
    return max([_write_tables(file, arguments.check) for file in arguments.files or [Path("README.md")]])


def _write_tables(file: Path, check: bool) -> int:
    """Write the tables of one page, or with ``check`` compare them with the reports; returns the exit code."""
    from refiner.errors import InputError
    from refiner.files import atomic_write_text
    from refiner_bench.readme import with_figures

    if not file.is_file():
        raise InputError(f"{file} is not there; name the README, or run this in its folder")
    text = file.read_text(encoding="utf-8")
    updated = with_figures(text, file.resolve().parent)
    if updated == text:
        print(f"{file}: every table is that of its report")
        return 0
    if check:
        lines = text.splitlines(), updated.splitlines()
        print("\n".join(difflib.unified_diff(*lines, file.name, "reports", "", "", 0, "")))
        return REGRESSION
    atomic_write_text(file, updated)
    print(f"wrote {file}")
    return 0
