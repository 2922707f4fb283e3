"""``refiner-evaluate``: print the errors before and after refinement, and write them as JSON.

The parts of the command are in `refiner.cli.evaluation`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from refiner.cli.common import let_threads_wait, run
from refiner.cli.evaluation.options import build_parser, check_options

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    # The modules are imported here because --help and wrong options must be answered quickly.
    check_options(arguments)
    let_threads_wait()
    if arguments.table is not None or arguments.reports:
        from refiner.cli.evaluation.paper_tables import print_table

        print_table(arguments)
    elif arguments.predictions is not None:
        from refiner.cli.evaluation.predictions import score_predictions

        score_predictions(arguments)
    elif arguments.mpi_inf_3dhp is not None or arguments.annotation is not None:
        from refiner.cli.evaluation.mpi_inf_3dhp import score_3dhp

        score_3dhp(arguments)
    else:
        from refiner.cli.evaluation.archive import score_archive

        score_archive(arguments)


if __name__ == "__main__":
    sys.exit(main())
