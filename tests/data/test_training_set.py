"""Archives of several folders as one training set, and real detections that must fit."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refiner.camera import human36m_cameras
from refiner.data.clips import camera_clips
from refiner.data.synthetic import SYNTHETIC_ACTIONS, synthetic_motion
from refiner.data.training_set import (
    check_detections,
    check_own_cameras,
    describe_archives,
    open_motion_folders,
    training_clips,
)
from refiner.errors import ArchiveError, LengthError, UsageError

SPLIT = {"fps": 50, "split": {"train": ["S1", "S5"], "test": ["S9"]}}
SYMMETRY = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]


def people(*names):
    return {
        name: {"Walking 1": synthetic_motion(number, SYNTHETIC_ACTIONS[0], 30)} for number, name in enumerate(names)
    }


def write_archive(folder, name, *names):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"data_3d_{name}.npz", positions_3d=people(*names))


def write_cameras(folder, cameras):
    def row(camera):
        own = {"id": camera.id, "res_w": camera.width, "res_h": camera.height, "R": camera.rotation.tolist()}
        own |= {"focal_length": camera.focal_length.tolist(), "center": camera.center.tolist()}
        own |= {"radial_distortion": camera.radial.tolist(), "tangential_distortion": camera.tangential.tolist()}
        return own | {"t": camera.translation.tolist()}

    content = {person: [row(camera) for camera in views] for person, views in cameras.items()}
    (folder / "cameras.json").write_text(json.dumps(content))


def write_detections(folder, cameras, change=lambda views: views, metadata=None, names=("S1", "S5", "S9")):
    """Two pixels off what each person's own cameras see."""
    found = {}
    for person, clips in people("S1", "S5", "S9").items():
        views = [clip.pose_2d + np.float32(2) for clip in camera_clips({person: clips}, cameras[person])]
        found[person] = {"Walking 1": change(views)}
    kept = {name: found[name] for name in names}
    np.savez(folder / "data_2d_cpn.npz", positions_2d=kept, metadata=metadata or {})


@pytest.fixture
def own():
    return {person: human36m_cameras(person) for person in ("S1", "S5", "S9")}


@pytest.fixture
def first(tmp_path, own):
    folder = tmp_path / "first"
    write_archive(folder, "lab", "S1", "S5", "S9")
    (folder / "clips.json").write_text(json.dumps(SPLIT))
    write_cameras(folder, own)
    return folder


@pytest.fixture
def more(tmp_path):
    folder = tmp_path / "more"
    write_archive(folder, "jumps_free", "J1")
    write_archive(folder, "idle", "R1", "R2")
    return folder


def test_several_folders_train_together(first, more, own):
    folder = open_motion_folders([first, more], weights={"idle": 0.1})
    parts = folder.description
    assert (set(parts.train), parts.validation, parts.test) == ({"S1", "J1", "R1", "R2"}, ("S5",), ("S9",))
    clips = {clip.subject: clip for clip in training_clips(folder, parts.train)}
    assert {name: (len(clip.cameras), clip.weight) for name, clip in clips.items()} == {
        "S1": (4, 1.0),
        "J1": (0, 1.0),
        "R1": (4, 0.1),
        "R2": (4, 0.1),
    }
    np.testing.assert_array_equal(clips["S1"].cameras[2].translation, own["S1"][2].translation)
    assert clips["J1"].positions.dtype == np.float32 and clips["J1"].action == "Walking"
    lines = describe_archives(folder)
    assert "data_3d_lab.npz: 3 people, 90 frames; its own cameras" in lines[0]
    assert any("random cameras alone" in line and "jumps_free" in line for line in lines)
    assert any("for want of its own; weight 0.1; taken to have 50 frames/s" in line for line in lines)
    with pytest.raises(ArchiveError, match="no person 'S77'"):
        training_clips(folder, ["S77"])
    with pytest.raises(ArchiveError, match="J1 has no fixed cameras"):
        camera_clips(folder.positions, folder.cameras, ["J1"])


def test_one_folder_may_hold_several_archives(first):
    write_archive(first, "another_free", "J1")
    folder = open_motion_folders([first])
    assert folder.archives[0].name == "data_3d_lab.npz" and folder.description.train == ("S1", "J1")


def test_test_people_of_a_further_folder_do_not_train(first, more):
    (more / "clips.json").write_text(json.dumps({"fps": 50, "split": {"train": ["R1"], "test": ["R2"]}}))
    assert "R2" not in open_motion_folders([first, more]).description.subjects


def test_folders_that_do_not_go_together_are_refused(first, more):
    with pytest.raises(UsageError, match="at least one folder"):
        open_motion_folders([])
    with pytest.raises(UsageError, match="named twice"):
        open_motion_folders([first, first])
    for name, weight, words in (("walk", 1.0, "no archive 'walk' to weigh"), ("idle", 0.0, "weight of idle is 0")):
        with pytest.raises(UsageError, match=words):
            open_motion_folders([first, more], weights={name: weight})
    (more / "clips.json").write_text(json.dumps({"fps": 24}))
    with pytest.raises(ArchiveError, match="24 frames/s, the first folder 50"):
        open_motion_folders([first, more])
    (more / "clips.json").write_text(json.dumps({"archives": {"data_3d_none.npz": {}}}))
    with pytest.raises(ArchiveError, match=r"tells of data_3d_none\.npz, which is not there"):
        open_motion_folders([first, more])
    (more / "clips.json").unlink()
    write_archive(more, "double", "S1")
    with pytest.raises(ArchiveError, match=r"S1 is in data_3d_lab\.npz and in data_3d_double\.npz"):
        open_motion_folders([first, more])


def test_detections_that_fit_come_with_the_clips(first, more, own):
    write_detections(first, own, metadata={"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": SYMMETRY})
    folder = open_motion_folders([first, more], detections="cpn")
    check_detections(folder, folder.description.train)
    clips = {clip.subject: clip for clip in training_clips(folder, folder.description.train, detected=True)}
    assert {name: len(clip.detections) for name, clip in clips.items()} == {"S1": 4, "J1": 0, "R1": 0, "R2": 0}
    seen = camera_clips(people("S1"), own["S1"])[3].pose_2d + np.float32(2)
    np.testing.assert_array_equal(clips["S1"].detections[3], seen)
    with pytest.raises(ArchiveError, match="no real detections"):
        check_detections(open_motion_folders([first], detections="simulated"), ["S1"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"names": ("S5", "S9")}, ArchiveError, "no person 'S1'"),
        ({"change": lambda views: views[:3]}, ArchiveError, "detections of 3 cameras, expected 4"),
        ({"change": lambda views: [view[:-1] for view in views]}, LengthError, "29 frames of detections for 30"),
        ({"change": lambda views: views[::-1]}, ArchiveError, "S1 by camera 54138969 lie .* own cameras, in the order"),
    ],
)
def test_detections_of_something_else_are_refused(options, error, words, first, own):
    write_detections(first, own, **options)
    with pytest.raises(error, match=words):
        check_detections(open_motion_folders([first], detections="cpn"), ["S1"])


@pytest.mark.parametrize(
    "metadata",
    [
        {"layout_name": "coco"},
        {"layout_name": "coco", "keypoints_symmetry": SYMMETRY},
        {"layout_name": "h36m", "keypoints_symmetry": [[1, 3], [2, 4]]},
        {"layout_name": "mine"},
        {"num_joints": 16},
        {"keypoints_symmetry": [[1, 3], [2, 4]]},
        {"keypoints_symmetry": 3},
    ],
)
def test_another_layout_is_refused(metadata, first, own):
    write_detections(first, own, metadata=metadata)
    with pytest.raises(ArchiveError, match=r"data_2d_cpn\.npz has another layout of joints"):
        open_motion_folders([first], detections="cpn")


def test_real_detections_need_everybody_s_own_cameras(first, own):
    write_detections(first, own)
    # Seen by S1's cameras, S5 is not where S5's were.
    write_cameras(first, dict.fromkeys(own, own["S1"]))
    with pytest.raises(ArchiveError, match="detections of S5 by camera"):
        check_detections(open_motion_folders([first], detections="cpn"), ["S1", "S5"])
    (first / "cameras.json").unlink()
    with pytest.raises(ArchiveError, match=r"data_3d_lab\.npz: the detections of S1 .* and the folder names none"):
        check_own_cameras(open_motion_folders([first], detections="cpn"), ["S1"])
    (first / "clips.json").write_text(json.dumps(SPLIT | {"archives": {"data_3d_lab.npz": {"cameras": "random"}}}))
    with pytest.raises(ArchiveError, match="one for random cameras alone"):
        check_own_cameras(open_motion_folders([first], detections="cpn"), ["S1"])
