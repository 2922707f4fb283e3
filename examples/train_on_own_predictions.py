"""Train a refiner on the predictions of your own estimator.

    python examples/train_on_own_predictions.py --output runs/mine                  # about a minute; shows the way
    python examples/train_on_own_predictions.py --output runs/mine --steps 20000    # the steps of refiner-small

The example writes a file of predictions beside the ground truth, trains on it, and refines with the result. A toy
stands for the estimator: true poses of synthetic people, too small and leaning to one side. With a file of your own,
the command is

    refiner-train refiner --config refiner-small --from-predictions mine.npz --validation-person Ann --output runs/mine
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refiner import Refiner
from refiner.cli import train
from refiner.data.synthetic import synthetic_folder
from refiner.evaluation import mpjpe


def write_predictions(file: Path, frames: int) -> None:
    """Write the arrays that --from-predictions needs: one row for each frame, clips one after the other."""
    rng = np.random.default_rng(7)
    rows: dict[str, list[np.ndarray]] = {"pose_2d": [], "pose_3d": [], "target_3d": [], "clip": [], "person": []}
    folder = synthetic_folder(7, subjects=3, frames=frames, actions=("Walking", "Waving", "Squatting"))
    for number, clip in enumerate(folder.clips("all")):
        predicted = 0.95 * clip.pose_3d + rng.normal(scale=0.01, size=clip.pose_3d.shape)
        predicted[..., 0] += 0.1 * predicted[..., 1]  # the toy leans
        rows["pose_2d"].append(clip.pose_2d)
        rows["pose_3d"].append(predicted)
        rows["target_3d"].append(clip.pose_3d)
        rows["clip"].append(np.full(clip.frames, number))
        rows["person"].append(np.full(clip.frames, clip.subject))
    arrays = {name: np.concatenate(parts) for name, parts in rows.items()}
    np.savez(file, **arrays, image_size=np.array(clip.image_size), fps=clip.fps)


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/mine"), help="folder to write (default: runs/mine)")
    parser.add_argument("--steps", type=int, default=500, help="training steps (default: 500)")
    parser.add_argument("--frames", type=int, default=150, help="frames of each clip (default: 150)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    predictions = options.output / "predictions.npz"
    write_predictions(predictions, options.frames)
    arrays = np.load(predictions)

    # This is the command refiner-train. The frames of SYN3 choose the checkpoint and are not trained on.
    words = ["refiner", "--config", "refiner-small", "--from-predictions", str(predictions)]
    words += ["--validation-person", "SYN3", "--output", str(options.output / "run")]
    words += ["--set", f"training.steps={options.steps}", "--set", f"training.validate_every={options.steps}"]
    code = train.main(words)
    if code:
        return code

    refiner = Refiner.load(options.output / "run" / "best.safetensors")
    size = (float(arrays["image_size"][0]), float(arrays["image_size"][1]))
    held_out = arrays["person"] == "SYN3"
    before, after = [], []
    for clip in np.unique(arrays["clip"][held_out]):
        rows = arrays["clip"] == clip
        pose_2d, pose_3d, truth = (arrays[name][rows] for name in ("pose_2d", "pose_3d", "target_3d"))
        refined = refiner.refine(pose_2d, pose_3d, size)
        before.append(1000 * mpjpe(pose_3d, truth).mean())
        after.append(1000 * mpjpe(refined.astype(np.float64), truth).mean())
    print(f"MPJPE of the person who was not trained on: {np.mean(before):.1f} -> {np.mean(after):.1f} mm")
    return 0


if __name__ == "__main__":
    sys.exit(main())
