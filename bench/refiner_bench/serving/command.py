"""``refiner-bench serve``: the command and its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter

DESCRIPTION = """\
Starts refiner-stream --serve on one processor and clients with 50 frames a second each on the others: 1, 2, 4, ... of
them up to the server's limit, where one more client asks, and where one client sends as fast as it can. A second server
without a limit takes more than that. The report takes two minutes."""


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "serve",
        help="a stream server under load: how many clients a core holds, and their latency",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each number of clients (default: 10)")
    parser.add_argument("--lifter", action="store_true", help="clients send 2D alone; the bundled lifter lifts it")
    parser.add_argument(
        "--beyond",
        type=float,
        nargs="*",
        default=[1.5, 2.0],
        metavar="X",
        help="multiples of the limit, for a server without one (default: 1.5 2)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write what is printed")
    parser.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from refiner_bench.report import publish
    from refiner_bench.serving.format import format_serve
    from refiner_bench.serving.report import ServeOptions, serve_report

    options = ServeOptions(arguments.seconds, arguments.lifter, tuple(arguments.beyond))
    report = serve_report(options, lambda line: print(line, file=sys.stderr, flush=True))
    text = format_serve(report)
    publish(report, text, arguments.json, arguments.markdown)
    print(text)
