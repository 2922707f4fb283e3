"""The 2D poses of ``data_test_3dhp.npz`` and ``data_train_3dhp.npz`` (`refiner.data.mpi_inf_3dhp_npz`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refiner.data.mpi_inf_3dhp_npz import TRAINING_IMAGE_SIZE, holds_test_set, read_test, read_training
from refiner.errors import UsageError
from refiner.formats.detections import Detections, person_of
from refiner.skeleton import MPI_INF_3DHP


def sequence_names(content: Mapping[str, Any]) -> list[str]:
    """The names of the sequences, as `read_sequence` takes them."""
    entries = {str(key): entry for key, entry in content["data"].items()}
    if holds_test_set(content):
        return sorted(entries)
    return [f"{key} {camera}" for key, entry in entries.items() for camera in entry[0]]


def read_sequence(content: Mapping[str, Any], file: Path, video: str | None = None) -> Detections:
    """The 2D poses of one sequence.

    Args:
        content: the arrays of the file by name.
        file: its name, for messages.
        video: the sequence: "TS1" of the test set, or subject, sequence and camera of the training set ("S1 Seq1 0").

    Raises:
        UsageError: ``video`` is missing or is not in the file.
        InputError: the file is damaged.
    """
    found: dict[str, tuple[Any, tuple[int, int], float | None]]
    if holds_test_set(content):
        found = {part.name: (part.pose_2d, part.image_size, None) for part in read_test(content, file)}
    else:
        found = {
            f"{part.subject} {part.name} {part.camera}": (part.pose_2d, TRAINING_IMAGE_SIZE, part.fps)
            for part in read_training(content, file)
        }
    if video is None and len(found) == 1:
        video = next(iter(found))
    if video not in found:
        raise UsageError(f"{file} holds the sequences {', '.join(found)}; name one of them")
    poses, size, fps = found[video]
    sure = np.ones(MPI_INF_3DHP.joints)
    frames = tuple(
        (person_of(pose, sure, MPI_INF_3DHP, f"{file}, {video}, frame {index}", 0),) for index, pose in enumerate(poses)
    )
    return Detections(frames, MPI_INF_3DHP, "MPI-INF-3DHP", (float(size[0]), float(size[1])), fps)
