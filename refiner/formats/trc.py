"""TRC, the marker files of biomechanics: OpenSim, Pose2Sim and others open them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refiner.errors import ShapeError, UsageError
from refiner.files import atomic_write_text
from refiner.skeleton import H36M17

# The axes of TRC are those of a room, y upwards; a camera's are x right, y down, z away. Both are right-handed.
FROM_CAMERA = np.array([1.0, -1.0, -1.0])
# A marker's name holds no blank and no slash.
MARKERS = tuple({"Neck/Nose": "Nose"}.get(name, name) for name in H36M17.joint_names)


def write_trc(
    path: str | os.PathLike[str],
    pose_3d: ArrayLike,
    fps: float,
    markers: Sequence[str] = MARKERS,
    first_frame: int = 0,
) -> None:
    """Write poses as the trajectories of markers, in metres.

    Args:
        path: the file; it is replaced as a whole.
        pose_3d: ``(F, J, 3)`` metres in camera axes; NaN is written as a missing marker. In the file y points upwards.
        fps: frames/s.
        markers: ``J`` names without blanks.
        first_frame: the number of the first frame in the video; times count from frame 0.

    Raises:
        ShapeError: the poses and the names do not fit together.
        UsageError: a frame rate that is not above 0, or a name with a blank.
    """
    pose = np.asarray(pose_3d, dtype=np.float64)
    if pose.ndim != 3 or pose.shape[1:] != (len(markers), 3) or not len(pose):
        raise ShapeError(f"pose_3d has shape {pose.shape}, expected (frames, {len(markers)}, 3)")
    if not fps > 0 or not np.isfinite(fps):
        raise UsageError(f"fps is {fps}, expected frames per second above 0")
    if any(not name or set(name) & set(" \t\r\n") for name in markers):
        raise UsageError(f"marker names hold no blanks, got {', '.join(markers)}")
    atomic_write_text(Path(path), _text(Path(path).name, pose * FROM_CAMERA, fps, markers, first_frame))


def _text(name: str, pose: NDArray[np.float64], fps: float, markers: Sequence[str], first_frame: int) -> str:
    frames, count = len(pose), len(markers)
    rate = f"{fps:.6g}"
    header = ["DataRate", "CameraRate", "NumFrames", "NumMarkers", "Units", "OrigDataRate", "OrigDataStartFrame"]
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "\t".join([*header, "OrigNumFrames"]),
        "\t".join([rate, rate, str(frames), str(count), "m", rate, str(first_frame + 1), str(frames)]),
        "Frame#\tTime\t" + "\t\t\t".join(markers) + "\t\t",
        "\t\t" + "\t".join(f"X{number}\tY{number}\tZ{number}" for number in range(1, count + 1)),
        "",
    ]
    for index, row in enumerate(pose.reshape(frames, -1)):
        cells = ("" if np.isnan(value) else f"{value:.6f}" for value in row)
        number = first_frame + index
        lines.append(f"{number + 1}\t{number / fps:.6f}\t" + "\t".join(cells))
    return "\n".join(lines) + "\n"
