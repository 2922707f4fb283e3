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
  refiner-convert stcformer model_27.pth --frames 27 --output stcformer-27.safetensors
  refiner-convert d3dp h36m_best_epoch.bin --set sampling.steps=5 --set sampling.hypotheses=5 --output d3dp.safetensors
  refiner-convert finepose best_epoch_20_10.bin --merges bpe_simple_vocab_16e6.txt.gz --output finepose.safetensors

FILE is a .pth, .pt, .bin or .safetensors file; no code in it is run. The commands take the checkpoint like one of
refiner-train: refiner-evaluate --lifter, refiner-train refiner --lifter, refiner-export --checkpoint, refiner-refine
--lifter. The root of the model's pose is set to 0, as its authors do, instead of being subtracted from all joints. A
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
    parser.add_argument("--merges", metavar="FILE", help="FinePOSE: CLIP's bpe_simple_vocab_16e6.txt.gz or merges.txt")
    parser.add_argument("--clip", metavar="FILE", help="FinePOSE: CLIP's weights, where FILE does not carry them")
    parser.add_argument(
        "--as-published",
        action="store_true",
        help="FinePOSE: with the defects of its authors' code, to compare with it",
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
    if arguments.name != "finepose" and (arguments.merges or arguments.clip or arguments.as_published):
        raise UsageError("--merges, --clip and --as-published belong to finepose")
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
        arguments.as_published,
        arguments.set,
    )
    model = config.model
    print(f"wrote {output}: {model.architecture}, width {model.dim}, {model.blocks} blocks, {config.frames} frames")


if __name__ == "__main__":
    sys.exit(main())
