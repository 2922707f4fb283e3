"""Print a table of the papers beside figures of reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from refiner.errors import ArchiveError, UsageError
from refiner.evaluation.paper_tables import format_paper_table, paper_table
from refiner.evaluation.study_rows import load_reports

# Options of a run, which have no meaning for a table.
RUN_OPTIONS = ("data", "synthetic", "dataset", "lifter", "refiner", "engine", "json")


def print_table(arguments: argparse.Namespace) -> None:
    """Print the table that ``--table`` names, with the reports that ``--reports`` names. Raises UsageError."""
    if arguments.table is None:
        raise UsageError("--reports belongs to --table, which says what they stand beside")
    unused = [f"--{name}" for name in RUN_OPTIONS if getattr(arguments, name) is not None]
    unused += ["--cameras"] if arguments.cameras == "random" else []
    if unused:
        raise UsageError(f"--table prints reports and runs nothing: leave {', '.join(unused)} out")
    reports = []
    for path in map(Path, arguments.reports or ()):
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            try:
                reports += load_reports(file)
            except ArchiveError:
                # A folder of reports may hold other files too. A file that an option names must be a report.
                if not path.is_dir():
                    raise
    print(format_paper_table(paper_table(arguments.table, reports), markdown=arguments.markdown), end="")
