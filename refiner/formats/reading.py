"""A detector's file or folder, recognised by its content."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refiner.data.mpi_inf_3dhp_npz import is_3dhp
from refiner.data.safe_npz import load_npz
from refiner.errors import ArchiveError
from refiner.formats import alphapose, coco, mediapipe, mmpose, mpi_inf_3dhp, openpose, videopose3d
from refiner.formats.detections import Detections
from refiner.formats.json_files import read_json

KNOWN = (
    "a folder of OpenPose's frames, AlphaPose's or COCO's results, COCO annotations, MMPose's predictions, MediaPipe's "
    "landmarks (all .json), VideoPose3D's custom detections, or data_test_3dhp and data_train_3dhp (.npz)"
)


def read_detections(path: str | os.PathLike[str], video: str | None = None) -> Detections:
    """2D poses of people from a detector's file.

    Args:
        path: a folder of OpenPose's JSON files, or a .json or .npz file. The content decides what it is, not the name.
        video: which video of VideoPose3D's file, or sequence of MPI-INF-3DHP's, where it holds several.

    Returns:
        The people of every frame. Joints that the detector did not find are NaN with confidence 0.

    Raises:
        ArchiveError: the path does not exist, or its content is none of the known layouts or is damaged.
        UsageError: ``video`` is missing or is not in the file.
    """
    source = Path(path)
    if source.is_dir():
        return openpose.read_folder(source)
    if not source.is_file():
        raise ArchiveError(f"there is no file or folder {source}; expected {KNOWN}")
    with source.open("rb") as opened:
        is_zip = opened.read(2) == b"PK"
    if is_zip:
        return detections_in_npz(load_npz(source), source, video)
    content = read_json(source)
    return _whole(lambda: _of_json(content, source), source)


def detections_in_npz(content: Mapping[str, Any], source: Path, video: str | None = None) -> Detections:
    """The 2D poses in the arrays of an .npz file; the arguments and errors are those of `read_detections`."""
    if videopose3d.is_custom(content):
        return _whole(lambda: videopose3d.read_custom(content, source, video), source)
    if is_3dhp(content):
        return _whole(lambda: mpi_inf_3dhp.read_sequence(content, source, video), source)
    raise ArchiveError(f"{source} holds {', '.join(content) or 'nothing'}; expected {KNOWN}")


def videos_in_npz(content: Mapping[str, Any], source: Path) -> list[str]:
    """The videos or sequences in the arrays of an .npz file of detections, which `detections_in_npz` takes by name.

    Raises:
        ArchiveError: the file has no layout that is known.
    """
    if videopose3d.is_custom(content) and isinstance(content["positions_2d"], Mapping):
        return [str(name) for name in content["positions_2d"]]
    if is_3dhp(content):
        return mpi_inf_3dhp.sequence_names(content)
    raise ArchiveError(f"{source} holds {', '.join(content) or 'nothing'}; expected {KNOWN}")


def _whole(read: Callable[[], Detections], file: Path) -> Detections:
    """Read a file. What a reader stumbles over is damage that it had not foreseen."""
    try:
        return read()
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise ArchiveError(f"{file} is damaged, or has another layout than its beginning says: {error!r}") from error


def _of_json(content: Any, file: Path) -> Detections:
    if openpose.is_openpose(content):
        return openpose.read_frames([file])
    if alphapose.is_alphapose(content):
        return alphapose.read_images(content, file)
    if coco.is_annotations(content):
        return coco.read_annotations(content, file)
    if coco.is_results(content):
        return coco.read_results(content, file)
    if mmpose.is_mmpose(content):
        return mmpose.read_predictions(content, file)
    if mediapipe.is_mediapipe(content):
        return mediapipe.read_landmarks(content, file)
    raise ArchiveError(f"{file} has the layout of no detector that is known; expected {KNOWN}")
