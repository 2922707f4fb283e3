"""Pose archives in the common formats, the model of detector errors, camera clips, and windows."""

from __future__ import annotations

from refiner.data.archives import Detections, load_positions_2d, load_positions_3d
from refiner.data.clips import (
    CameraClip,
    MotionFolder,
    action_of,
    camera_clips,
    motion_folder_from_env,
    open_motion_folder,
    random_camera_clips,
)
from refiner.data.description import ArchiveDescription, FolderDescription
from refiner.data.detector import DetectorModel, detector_rng
from refiner.data.mpi_inf_3dhp import Sequence3dhp, load_test_set
from refiner.data.mpi_inf_3dhp_npz import TrainingSequence3dhp, load_training_npz
from refiner.data.safe_npz import load_npz, load_user_array
from refiner.data.training_set import TrainingClip, open_motion_folders, training_clips
from refiner.data.windows import (
    blend_phases,
    blend_refined,
    blend_weights,
    merge_phases,
    merge_windows,
    score_mask,
    split_windows,
    tds_phases,
    window_indices,
    window_starts,
)

__all__ = [
    "ArchiveDescription",
    "CameraClip",
    "Detections",
    "DetectorModel",
    "FolderDescription",
    "MotionFolder",
    "Sequence3dhp",
    "TrainingClip",
    "TrainingSequence3dhp",
    "action_of",
    "blend_phases",
    "blend_refined",
    "blend_weights",
    "camera_clips",
    "detector_rng",
    "load_npz",
    "load_positions_2d",
    "load_positions_3d",
    "load_test_set",
    "load_training_npz",
    "load_user_array",
    "merge_phases",
    "merge_windows",
    "motion_folder_from_env",
    "open_motion_folder",
    "open_motion_folders",
    "random_camera_clips",
    "score_mask",
    "split_windows",
    "tds_phases",
    "training_clips",
    "window_indices",
    "window_starts",
]
