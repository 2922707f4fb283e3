"""Lift and refine all clips of a folder, with one body shape for each person.

    python examples/archive.py clips --image-size 1920 1080 --focal-length 1450 --output refined
    python examples/archive.py --synthetic --trajectory --output refined

The folder holds one .npy file for each clip, (frames, 17, 2) pixels in Human3.6M's joints (--joints names others). The
name of a file begins with the person, up to the first "-": Ann-walking.npy, Ann-sitting.npy, Bob-walking.npy. The
results have the names of the clips: (frames, 17, 3) metres in camera axes. With --trajectory they are in their place in
front of the camera.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refiner import Lifter, Refiner, RefinerError
from refiner.data import load_user_array
from refiner.errors import UsageError
from refiner.shape import pool_together
from refiner.skeleton import to_h36m17
from refiner.trajectory import root_trajectory


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of clips")
    parser.add_argument("--synthetic", action="store_true", help="clips of two synthetic people instead of a folder")
    parser.add_argument("--image-size", nargs=2, type=float, metavar=("W", "H"), help="pixels")
    parser.add_argument(
        "--focal-length", type=float, metavar="F", help="pixels (default: the longer side of the image)"
    )
    parser.add_argument("--fps", type=float, help="frames per second (default: the model's 50)")
    parser.add_argument("--joints", default="h36m17", help="joint set of the clips (default: h36m17)")
    parser.add_argument("--trajectory", action="store_true", help="also find where the people are")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    return parser


def synthetic_clips(folder: Path) -> tuple[tuple[float, float], float]:
    """Write clips of two synthetic people into ``folder``; returns the size of their image and the focal length."""
    from refiner.camera import human36m_cameras
    from refiner.data import DetectorModel, camera_clips
    from refiner.data.synthetic import synthetic_archive

    archive = synthetic_archive(7, ["Ann", "Bob"], frames=100, actions=("Walking", "Waving"))
    folder.mkdir(parents=True, exist_ok=True)
    camera = human36m_cameras()[0]
    for clip in camera_clips(archive, [camera], detector=DetectorModel.default()):
        np.save(folder / f"{clip.subject}-{clip.key.lower()}.npy", clip.pose_2d)
    return camera.image_size, float(camera.focal_length.mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    try:
        run(options)
    except RefinerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(options: argparse.Namespace) -> None:
    """Lift and refine the 2D poses of all files, and write the refined 3D poses."""
    folder, size, focal_length = options.folder, options.image_size, options.focal_length
    if options.synthetic:
        folder = options.output / "clips"
        size, focal_length = synthetic_clips(folder)
    if folder is None or size is None:
        raise UsageError("name a folder of clips and --image-size W H, or give --synthetic")
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UsageError(f"{folder} holds no .npy file")
    lens = {"image_size": tuple(size), "focal_length": focal_length, "fps": options.fps}
    lifter, refiner = Lifter.load(), Refiner.load()
    # The lifter's result has Human3.6M's joints, and the refiner needs the same joints in 2D and 3D.
    clips = [to_h36m17(load_user_array(file), options.joints) for file in files]
    refined = [refiner.refine(clip, lifter.lift(clip, **lens), **lens) for clip in clips]
    # Estimated bone lengths change from frame to frame. Here each person gets one length of every bone.
    people = [file.stem.split("-")[0] for file in files]
    options.output.mkdir(parents=True, exist_ok=True)
    for file, person, clip, poses in zip(files, people, clips, pool_together(refined, people), strict=True):
        if options.trajectory:
            poses = root_trajectory(clip, poses, **lens | {"fps": options.fps or refiner.fps}).place(poses)
        np.save(options.output / file.name, poses)
        print(f"{file.name}: {len(poses)} frames of {person}")


if __name__ == "__main__":
    sys.exit(main())
