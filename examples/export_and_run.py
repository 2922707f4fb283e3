"""Export the bundled refiner to ONNX, and run the graph without PyTorch.

    python examples/export_and_run.py --output artefacts

The export needs PyTorch (pip install '.[cpu,train,export]'). The second part runs in a process of its own, which fails
if PyTorch is loaded: a machine that only refines needs '.[cpu]' and the files that the export wrote.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The code of the second process.
WITHOUT_PYTORCH = """
import sys
import numpy as np
from refiner import Refiner

refiner = Refiner.load(sys.argv[1])
arrays = np.load(sys.argv[2])
refined = refiner.refine(arrays["pose_2d"], arrays["pose_3d"], arrays["image_size"], focal_length=1145.0)
np.save(sys.argv[3], refined)
if "torch" in sys.modules:
    sys.exit("PyTorch was loaded")
print(f"{refiner.metadata['engine']} refined {len(refined)} frames without PyTorch: {sys.argv[3]}")
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("artefacts"), help="folder to write (default: artefacts)")
    parser.add_argument("--checkpoint", type=Path, help="a refiner of rays (default: the bundled one)")
    parser.add_argument("--windows", type=int, default=100, help="windows of the comparison (default: 100)")
    parser.add_argument("--frames", type=int, default=200, help="frames that are refined (default: 200)")
    return parser


def export(options: argparse.Namespace) -> Path:
    """Export the graph. It is compared with PyTorch before it gets its name."""
    from refiner_export import ExportOptions, export_artefact

    from refiner import bundled

    checkpoint = options.checkpoint or bundled.default_checkpoint("refiner")
    export_options = ExportOptions(engine="onnx", output=options.output, checkpoint=checkpoint, windows=options.windows)
    result = export_artefact(export_options, report=print)
    largest = result.manifest["parity"]["total"]["largest_mm"]
    print(f"wrote {result.path}; joints differ from PyTorch's by {largest:.4f} mm at most")
    return result.path


def write_poses(file: Path, frames: int) -> None:
    """Write poses of a synthetic person: 2D detections, and 3D poses with an error of 3 cm."""
    import numpy as np

    from refiner.camera import human36m_cameras
    from refiner.data import DetectorModel, camera_clips
    from refiner.data.synthetic import synthetic_motion

    motion = {"Ann": {"Walking": synthetic_motion(7, "Walking", frames)}}
    (clip,) = camera_clips(motion, human36m_cameras()[:1], detector=DetectorModel.default())
    noise = np.random.default_rng(7).normal(scale=0.03, size=clip.pose_3d.shape)
    np.savez(file, pose_2d=clip.pose_2d, pose_3d=clip.pose_3d + noise, image_size=clip.image_size)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; returns its exit code."""
    options = build_parser().parse_args(argv)
    graph = export(options)
    poses, refined = options.output / "poses.npz", options.output / "refined.npy"
    write_poses(poses, options.frames)
    command = [sys.executable, "-c", WITHOUT_PYTORCH, str(graph), str(poses), str(refined)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
