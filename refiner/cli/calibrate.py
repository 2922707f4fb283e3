"""``refiner-calibrate``: how far a refiner's joints may be off, measured and written into its checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run

EXAMPLES = """\
examples:
  refiner-calibrate --checkpoint runs/refiner/best.safetensors --data FOLDER --output refiner.safetensors

Streams give each refined joint a standard deviation (RefinedFrame.std) from what is written here. It is fitted to the
training and validation people of the archive, each counting alike, and not to its test people.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="refiner-calibrate",
        description="Measure how far the joints of a refiner are off, and write it into the checkpoint.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="the refiner")
    parser.add_argument("--lifter", metavar="PATH", help="whose poses it refines (default: the bundled one)")
    parser.add_argument(
        "--data", metavar="FOLDER", help="motion archive (default: the environment variable REFINER_DATA)"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the checkpoint to write")
    parser.add_argument("--quiet", action="store_true", help="do not tell how far it is")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    from refiner.data.clips import motion_folder_from_env, open_motion_folder
    from refiner.runtime import Lifter, Refiner
    from refiner.training.calibration import fit_uncertainty, write_uncertainty

    refiner, lifter = Refiner.load(arguments.checkpoint), Lifter.load(arguments.lifter)
    folder = open_motion_folder(arguments.data) if arguments.data else motion_folder_from_env()

    def progress(text: str) -> None:
        if not arguments.quiet:
            print(f"\r{text:<40}", end="", file=sys.stderr, flush=True)

    clips = [*folder.clips("train"), *folder.clips("validation")]
    uncertainty = fit_uncertainty(clips, lifter, refiner, progress=progress)
    progress("\n")
    write_uncertainty(arguments.checkpoint, uncertainty, arguments.output)
    half, most = uncertainty.radii[1:].mean(axis=0)
    print(f"half of the errors lie within {half:.2f} standard deviations, nine tenths within {most:.2f}")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
