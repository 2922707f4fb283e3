"""Refine the poses of an estimator of your own.

    python examples/own_lifter.py

An estimator is anything that gives 3D poses in metres, with the 2D poses that it saw. Here a toy stands for it, which
takes the true poses of a synthetic person, makes the body 8 % too small, and adds noise. Replace it with your
own estimator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from refiner import Refiner
from refiner.camera import human36m_cameras
from refiner.data import CameraClip, DetectorModel, camera_clips
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.evaluation import acceleration_error, mpjpe


def my_estimator(clip: CameraClip) -> np.ndarray:
    """(frames, 17, 3) metres in camera axes: x right, y down, z away from the camera. The root may lie anywhere."""
    noise = np.random.default_rng(7).normal(scale=0.02, size=clip.pose_3d.shape)
    return 0.92 * clip.pose_3d + noise + np.array([0.0, 0.0, 4.0])


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--action", choices=SYNTHETIC_ACTIONS, default="Walking", help="default: Walking")
    parser.add_argument("--frames", type=int, default=200, help="default: 200")
    parser.add_argument("--refiner", default="refiner-base-rays", help="default: refiner-base-rays")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    motion = synthetic_motion(7, options.action, options.frames)
    camera = human36m_cameras()[0]
    (clip,) = camera_clips({"Ann": {options.action: motion}}, [camera], detector=DetectorModel.default())

    pose_3d = my_estimator(clip)
    # This model was trained on the poses of several estimators, and made for estimators that it never saw.
    refiner = Refiner.load(options.refiner)
    # Estimators of other joint sets: joints="coco17", "halpe26", "mediapipe33" or "3dhp", for both arrays.
    refined = refiner.refine(clip.pose_2d, pose_3d, clip.image_size, camera=camera)

    for title, measure, unit in (("MPJPE", mpjpe, "mm"), ("acceleration error", acceleration_error, "mm/frame^2")):
        # The errors compare poses relative to the root, joint 0.
        before, after = (
            1000 * measure(pose - pose[:, :1], clip.pose_3d).mean() for pose in (pose_3d, refined.astype(np.float64))
        )
        print(f"{title}: {before:.1f} -> {after:.1f} {unit}")
    familiarity = refiner.compare_input(clip.pose_2d, pose_3d, clip.image_size, camera=camera)
    for warning in familiarity.warnings if familiarity is not None else ():
        print(f"note: {warning}; the refinement may not help here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
