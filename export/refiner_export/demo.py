"""``refiner-demo``: lift and refine the built-in synthetic motion with an exported graph, and print the errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refiner import bundled
from refiner.cli.common import EXIT_CODES, HelpFormatter, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Training runs do not use this seed: the seeds of their synthetic people begin at 1000.
DEMO_SEED = 7
FRAMES = 250


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
    errors: dict[str, list[NDArray[np.float64]]] = {}
    drawn = None
    for clip in clips:
        lifted = lifter.lift(clip.pose_2d, clip.image_size, camera=clip.lens)
        refined = refiner.refine(clip.pose_2d, lifted, clip.image_size, camera=clip.lens)
        both = [
            np.array([measure(pose, clip.pose_3d).mean() * 1000 for measure in (mpjpe, p_mpjpe, acceleration_error)])
            for pose in (lifted, refined)
        ]
        errors.setdefault(clip.action, []).append(np.stack(both))
        if drawn is None or clip.action == "Boxing":
            drawn = (clip, lifted, refined)
    rows = {action: np.mean(values, axis=0) for action, values in errors.items()}
    rows["mean"] = np.mean(list(rows.values()), axis=0)
    for action, (before, after) in rows.items():
        cells = "".join(
            f"{f'{b:.2f} -> {a:.2f}':>{18 if i < 2 else 20}}"
            for i, (b, a) in enumerate(zip(before, after, strict=True))
        )
        print(f"{action:<16}{cells}")
    before, after = rows["mean"]
    change = (after / before - 1.0) * 100.0
    print(
        f"\nBefore -> after refinement: MPJPE {change[0]:+.1f} %, P-MPJPE {change[1]:+.1f} %, acceleration error "
        f"{change[2]:+.1f} %.\nThis motion is synthetic; for the accuracy on recorded people see the README."
    )
    if not arguments.no_picture:
        from refiner.evaluation.figures import before_after_figure

        assert drawn is not None
        picture = before_after_figure(output / "demo.png", *drawn)
        print(f"picture: {picture}")


if __name__ == "__main__":
    sys.exit(main())
