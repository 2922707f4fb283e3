"""``refiner-calibrate``: measure the errors of a refiner's joints, and write them into its checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from refiner import bundled
from refiner.cli.common import EXIT_CODES, HelpFormatter, run

if TYPE_CHECKING:
    from refiner.data import CameraClip, MotionFolder

# The seed of the random cameras. Models are evaluated with random cameras of another seed.
CAMERA_SEED = 20261127

EXAMPLES = """\
examples:
  refiner-calibrate --checkpoint runs/refiner/best.safetensors --data FOLDER --output refiner.safetensors

Streams take the standard deviation of each refined joint (RefinedFrame.std) from the values that this command writes.
It fits them to the training and validation people of the archive, all with the same weight, and not to its test people.

  refiner-calibrate --checkpoint runs/refiner/best.safetensors --trust lifter-small-rays mine.safetensors \\
                    --data FOLDER --output refiner.safetensors
                                                       instead: how much of its changes a refiner of rays keeps
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-calibrate``."""
    parser = argparse.ArgumentParser(
        prog="refiner-calibrate",
        description="Measure the errors of a refiner's joints, and write them into its checkpoint.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="the refiner")
    parser.add_argument(
        "--lifter",
        metavar="PATH",
        help="the lifter whose poses it refines (default: the bundled one of its kind); for a causal refiner it lifts "
        "like a live stream",
    )
    parser.add_argument(
        "--trust",
        nargs="+",
        metavar="PATH",
        help="instead, choose how much of its changes a window refiner keeps. This uses the validation people, lifted "
        "by these lifters, with the archive's cameras and with random ones",
    )
    parser.add_argument("--clips", type=int, default=24, metavar="N", help="with --trust: clips (default: 24)")
    parser.add_argument(
        "--data", metavar="FOLDER", help="motion archive (default: the environment variable REFINER_DATA)"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the checkpoint to write")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    from refiner.data.clips import motion_folder_from_env, open_motion_folder
    from refiner.runtime import Lifter, Refiner
    from refiner.training.calibration import fit_uncertainty, write_uncertainty

    arguments.checkpoint = bundled.by_name(arguments.checkpoint)
    folder = open_motion_folder(arguments.data) if arguments.data else motion_folder_from_env()

    def progress(text: str) -> None:
        if not arguments.quiet:
            print(f"\r{text:<40}", end="", file=sys.stderr, flush=True)

    if arguments.trust:
        _trust(arguments, folder, progress)
        return
    refiner = Refiner.load(arguments.checkpoint)
    rays, causal = refiner.sees_rays, refiner.causal
    # A causal refiner is for streams, which lift each frame only from the frames before it.
    default = bundled.default_checkpoint("live-lifter") if causal and rays else bundled.lifter_of(rays)
    lifter = Lifter.load(arguments.lifter or default, live=causal)
    clips = [*folder.clips("train"), *folder.clips("validation")]
    if rays:
        clips += _by_random_cameras(folder)
    uncertainty = fit_uncertainty(clips, lifter, refiner, progress=progress)
    progress("\n")
    write_uncertainty(arguments.checkpoint, uncertainty, arguments.output)
    half, most = uncertainty.radii[1:].mean(axis=0)
    print(f"half of the errors lie within {half:.2f} standard deviations, nine tenths within {most:.2f}")
    print(f"wrote {arguments.output}")


def _by_random_cameras(folder: MotionFolder) -> list[CameraClip]:
    """The clips of the training and validation people, each seen by several random cameras."""
    from refiner.data import random_camera_clips

    people = [*folder.subjects("train"), *folder.subjects("validation")]
    fps, positions = folder.description.fps, folder.positions
    return random_camera_clips(positions, people, folder.detector, fps=fps, camera_seed=CAMERA_SEED)


def _trust(arguments: argparse.Namespace, folder: MotionFolder, progress: Callable[[str], None]) -> None:
    """Choose how much of its changes the refiner keeps (`refiner.training.trust`), and write it."""
    from refiner.errors import UsageError
    from refiner.runtime import Lifter
    from refiner.training.scene_tasks import validation_clips
    from refiner.training.trust import fit_trust, write_trust

    if arguments.clips < 1 or arguments.lifter:
        raise UsageError("with --trust: --clips is at least 1, and the lifters are those of --trust, not --lifter")
    clips = [clip for _, clip in validation_clips(folder)]
    # Clips spread over all of them, so that every action and both kinds of cameras occur.
    indices = np.linspace(0, len(clips) - 1, min(arguments.clips, len(clips))).round().astype(int)
    lifters = [Lifter.load(path) for path in arguments.trust]
    trust, errors = fit_trust([clips[index] for index in indices], lifters, arguments.checkpoint, progress)
    progress("\n")
    paths = [bundled.by_name(Path(path)) for path in arguments.trust]
    write_trust(arguments.checkpoint, trust, errors, paths, arguments.output)
    for row, path in enumerate(paths):
        lifted, unlimited, trusted = (errors[name][row] for name in ("lifted", "steps", "kept"))
        print(f"{path.stem}: {lifted:.1f} mm, all changes kept {unlimited:.1f}, those that are trusted {trusted:.1f}")
    print(f"nothing is kept up to {1000 * trust[0]:g} mm, everything from {1000 * trust[1]:g} mm")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
