"""``refiner-convert``: convert the weights that a lifter's authors published to a checkpoint of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refiner.cli.common import EXIT_CODES, HelpFormatter, run

EXAMPLES = """\
examples:
  refiner-convert mixste best_epoch.bin --output mixste-243.safetensors
  refiner-convert stcformer no_refine_6_4406.pth --frames 27 --output stcformer-27.safetensors
  refiner-convert d3dp h36m_best_epoch.bin --set sampling.steps=5 --set sampling.hypotheses=5 --output d3dp.safetensors
  refiner-convert d3dp 3dhp_best_epoch.bin --joints 3dhp --output d3dp-3dhp.safetensors
  refiner-convert finepose best_epoch_20_10.bin --merges bpe_simple_vocab_16e6.txt.gz --output finepose.safetensors

FILE is a .pth, .pt, .bin or .safetensors file; no code in it is run. The commands take the checkpoint like one of
refiner-train: refiner-evaluate --lifter, refiner-train refiner --lifter, refiner-export --checkpoint, refiner-refine
--lifter. The model runs as its authors run it: the root of its pose is set to 0 instead of being subtracted from all
joints, an STCFormer takes every third frame (--set stride=1: every frame), and FinePOSE keeps the defects of its
authors' code (--mended: without them). The authors also average with the mirrored pass: --flip-test of the commands. A
diffusion lifter is sampled with one step and one hypothesis unless --set says otherwise.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-convert``."""
    parser = argparse.ArgumentParser(
        prog="refiner-convert",
        description="Write a published STCFormer, MixSTE, D3DP or FinePOSE as a checkpoint.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", choices=["stcformer", "mixste", "d3dp", "finepose"], help="whose weights they are")
    parser.add_argument("file", metavar="FILE", help="the published file")
    parser.add_argument("--output", required=True, metavar="CHECKPOINT", help="the .safetensors file to write")
    parser.add_argument("--frames", type=int, metavar="T", help="frames in a window; STCFormer's file does not say it")
    parser.add_argument(
        "--joints",
        choices=["h36m17", "3dhp"],
        default="h36m17",
        help="the joints that the weights were trained on: Human3.6M's (default) or MPI-INF-3DHP's; the checkpoint "
        "takes and gives Human3.6M's either way",
    )
    parser.add_argument("--merges", metavar="FILE", help="FinePOSE: CLIP's bpe_simple_vocab_16e6.txt.gz or merges.txt")
    parser.add_argument("--clip", metavar="FILE", help="FinePOSE: CLIP's weights, where FILE does not carry them")
    parser.add_argument(
        "--mended",
        action="store_true",
        help="FinePOSE: without the defects of its authors' code, for weights that were trained without them; "
        "published weights need these defects",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="change one value of the configuration"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    from refiner.errors import MissingComponentError, UsageError

    output = Path(arguments.output)
    if output.suffix != ".safetensors":
        raise UsageError(f"--output {output}: expected a name that ends in .safetensors")
    if arguments.name != "finepose" and (arguments.merges or arguments.clip or arguments.mended):
        raise UsageError("--merges, --clip and --mended belong to finepose")
    try:
        from refiner.training.published import import_published
    except ModuleNotFoundError as error:
        raise MissingComponentError(
            f"reading weights needs {error.name}, which is not installed: pip install 'pose-refiner[train]'"
        ) from error
    config = import_published(
        arguments.name,
        arguments.file,
        output,
        arguments.frames,
        arguments.merges,
        arguments.clip,
        not arguments.mended,
        arguments.set,
        arguments.joints,
    )
    model = config.model
    every = f" of every {config.stride}" if config.stride > 1 else ""
    print(
        f"wrote {output}: {model.architecture}, width {model.dim}, {model.blocks} blocks, {config.frames} frames{every}"
    )
    print(f"trained with the joints of {model.joints}; the checkpoint takes and gives those of h36m17")


if __name__ == "__main__":
    sys.exit(main())
