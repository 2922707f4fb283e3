"""``refiner-bench archive``: the command and its options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter

DESCRIPTION = """\
Makes an archive of synthetic motion and refines it: beside the engine alone, in turns within one run; as a command,
whose memory is compared with that for a tenth of the archive; and with --ray on a local Ray, by one actor and by two in
turns. Bytes of a frame are counted in every output format. From these follows an estimate for a large archive."""


def add_archive(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "archive",
        help="an archive of many sequences: beside its engine, in memory, on Ray, and an estimate",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--sequences", type=int, default=100, metavar="N", help="of the archive (default: 100)")
    parser.add_argument("--frames", type=int, default=500, metavar="F", help="of a sequence (default: 500)")
    parser.add_argument("--chunk-frames", type=int, metavar="F", help="frames of a chunk (default: the job's)")
    parser.add_argument("--model", default="refiner-nano-rays", help="bundled refiner (default: refiner-nano-rays)")
    parser.add_argument("--ray", action="store_true", help="also measure one actor and two on Ray")
    parser.add_argument("--rounds", type=int, default=3, help="of one actor and two in turns (default: 3)")
    parser.add_argument("--ray-sequences", type=int, metavar="N", help="that they refine (default: all of the archive)")
    parser.add_argument("--no-memory", action="store_true", help="do not compare the memory")
    parser.add_argument(
        "--cards", type=Path, metavar="REPORT", help="report of refiner-bench cards, for lifters at published sizes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write what is printed")
    parser.set_defaults(run=run_archive)


def run_archive(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from refiner.archive.job import CHUNK_FRAMES
    from refiner.arguments import check_whole
    from refiner.errors import InputError
    from refiner.reports import report_kind
    from refiner_bench.archive.format import format_archive
    from refiner_bench.archive.report import ArchiveOptions, archive_report
    from refiner_bench.measures import read_measured
    from refiner_bench.report import publish

    cards = None if arguments.cards is None else read_measured(arguments.cards)
    if cards is not None and report_kind(cards) != "cards":
        raise InputError(f"{arguments.cards.name} is a report of {report_kind(cards)}, not of cards")
    options = ArchiveOptions(
        sequences=check_whole(arguments.sequences, "--sequences", 10, 1_000_000),
        frames=check_whole(arguments.frames, "--frames", 27, 1_000_000),
        chunk_frames=check_whole(arguments.chunk_frames or CHUNK_FRAMES, "--chunk-frames", 1, 10_000_000),
        model=arguments.model,
        rounds=check_whole(arguments.rounds, "--rounds", 1, 1000),
        ray=arguments.ray,
        ray_sequences=check_whole(arguments.ray_sequences or arguments.sequences, "--ray-sequences", 1, 1_000_000),
        memory=not arguments.no_memory,
    )
    report = archive_report(options, cards, lambda line: print(line, file=sys.stderr, flush=True))
    text = format_archive(report)
    publish(report, text, arguments.json, arguments.markdown)
    print(text)
