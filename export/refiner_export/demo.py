"""``refiner-demo``: lift and refine the built-in synthetic motion with an exported graph, and print the errors."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refiner import bundled
from refiner.cli.common import EXIT_CODES, HelpFormatter, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from refiner.data import CameraClip

    Measure = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]

# Training runs do not use this seed: the seeds of their synthetic people begin at 1000.
DEMO_SEED = 7
FRAMES = 250


@dataclass(frozen=True, eq=False)
class Result:
    """One camera clip, its poses before and after refinement, and the ratio of their MPJPE, after to before."""

    clip: CameraClip
    lifted: NDArray[np.float32]
    refined: NDArray[np.float32]
    ratio: float


def build_parser() -> argparse.ArgumentParser:
    """The options of ``refiner-demo``."""
    parser = argparse.ArgumentParser(
        prog="refiner-demo",
        description="Lift and refine the built-in synthetic motion with the bundled checkpoints, through ONNX.",
        epilog=EXIT_CODES,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--output", default="demo-output", metavar="DIR", help="folder to write (default: demo-output)")
    parser.add_argument("--seed", type=int, default=DEMO_SEED, help=f"seed of the motion (default: {DEMO_SEED})")
    parser.add_argument("--no-picture", action="store_true", help="do not draw (matplotlib is not needed then)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_command, build_parser(), argv)


def _command(arguments: argparse.Namespace) -> None:
    import numpy as np

    from refiner.camera import human36m_cameras
    from refiner.data import DetectorModel, camera_clips
    from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
    from refiner.evaluation import acceleration_error, mpjpe, p_mpjpe
    from refiner.runtime import Lifter, Refiner
    from refiner_export import ExportOptions, export_artefact

    measures = (mpjpe, p_mpjpe, acceleration_error)
    output = Path(arguments.output)
    print(
        f"Synthetic motion of {len(SYNTHETIC_ACTIONS)} actions, {FRAMES} frames each (procedural, not a recording; "
        f"seed {arguments.seed}),\nseen by Human3.6M's four cameras, 2D detections simulated.\n"
    )
    options = ExportOptions(engine="onnx", output=output, checkpoint=bundled.default_checkpoint("refiner"))
    exported = export_artefact(options, report=lambda line: print(f"  {line}"))
    lifter, refiner = Lifter.load(), Refiner.load(exported.path)
    motion = {action: synthetic_motion(arguments.seed, action, FRAMES) for action in SYNTHETIC_ACTIONS}
    clips = camera_clips({"SYN": motion}, human36m_cameras(), detector=DetectorModel.default())
    print(f"\n{'action':<16}{'MPJPE mm':>18}{'P-MPJPE mm':>18}{'accel. mm/frame^2':>20}")
    rows: dict[str, NDArray[np.float64]] = {}
    results = []
    for action, group in itertools.groupby(clips, key=lambda clip: clip.action):
        scores = []
        for clip in group:
            lifted = lifter.lift(clip.pose_2d, clip.image_size, camera=clip.lens)
            refined = refiner.refine(clip.pose_2d, lifted, clip.image_size, camera=clip.lens)
            scores.append(
                np.array([[_mean_mm(measure, pose, clip) for measure in measures] for pose in (lifted, refined)])
            )
            results.append(Result(clip, lifted, refined, scores[-1][1, 0] / scores[-1][0, 0]))
        rows[action] = np.mean(scores, axis=0)
        _print_row(action, rows[action])
    rows["mean"] = np.mean(list(rows.values()), axis=0)
    _print_row("mean", rows["mean"])
    before, after = rows["mean"]
    change = (after / before - 1.0) * 100.0
    print(
        f"\nBefore -> after refinement: MPJPE {change[0]:+.1f} %, P-MPJPE {change[1]:+.1f} %, acceleration error "
        f"{change[2]:+.1f} %.\nThis motion is synthetic; for the accuracy on recorded people see the README."
    )
    if not arguments.no_picture:
        from refiner.evaluation.figures import before_after_figure

        shown = typical(results, after[0] / before[0])
        picture = before_after_figure(output / "demo.png", shown.clip, shown.lifted, shown.refined)
        print(f"picture of the clip whose gain is nearest to the mean: {picture}")


def typical(results: Sequence[Result], mean_ratio: float) -> Result:
    """The result whose ratio of the errors, after to before, is nearest to that of all clips together."""
    return min(results, key=lambda result: abs(result.ratio - mean_ratio))


def _mean_mm(measure: Measure, pose: NDArray[np.float32], clip: CameraClip) -> float:
    return float(measure(pose, clip.pose_3d).mean()) * 1000


def _print_row(action: str, scores: NDArray[np.float64]) -> None:
    """Print the ``(2, 3)`` scores before and after refinement."""
    cells = "".join(
        f"{f'{before:.2f} -> {after:.2f}':>{18 if index < 2 else 20}}"
        for index, (before, after) in enumerate(zip(*scores, strict=True))
    )
    print(f"{action:<16}{cells}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
