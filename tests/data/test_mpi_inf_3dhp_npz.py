"""The .npz files of MPI-INF-3DHP that lifters use: what they hold, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.camera import look_at_camera
from refiner.cli import evaluate, refine
from refiner.data import load_test_set, load_training_npz
from refiner.data.mpi_inf_3dhp import camera_of
from refiner.data.mpi_inf_3dhp_npz import read_test
from refiner.data.safe_npz import load_npz
from refiner.data.synthetic import synthetic_motion
from refiner.errors import (
    ArchiveError,
    InputError,
    JointCountError,
    LengthError,
    NonFiniteError,
    UnitError,
    UnsafeArchiveError,
    UsageError,
)
from refiner.formats import read_detections
from refiner.skeleton import MPI_INF_3DHP, from_h36m17

FRAMES = 40


def arrays(seed=1, size=(2048, 2048), frames=FRAMES):
    """What the authors' scripts keep of one camera: pixels, and millimetres in camera axes."""
    width, height = size
    camera = look_at_camera((1.0, -5.0, 1.4), (0.0, 0.0, 1.0), 1.1 * width, width, height)
    points = camera.to_camera(synthetic_motion(seed, "Walking", frames).astype(np.float64))
    poses = from_h36m17(points, MPI_INF_3DHP)
    return {"data_2d": camera.project(poses), "data_3d": 1000.0 * poses}


def scored_part(seed=1, size=(2048, 2048)):
    valid = np.ones(FRAMES)
    valid[:5] = 0.0
    return arrays(seed, size) | {"valid": valid}


def training_part(**changes):
    return [{camera: arrays(int(camera)) | changes for camera in ("0", "4")}, 25]


def write(path, data):
    np.savez_compressed(path, data=data)
    return path


@pytest.fixture
def scored_file(tmp_path):
    return write(tmp_path / "data_test_3dhp.npz", {"TS5": scored_part(2, (1920, 1080)), "TS1": scored_part()})


def test_the_test_set_has_sizes_valid_frames_and_metres(scored_file):
    found = load_test_npz(scored_file)
    assert [(s.name, s.image_size, s.annotation) for s in found] == [
        ("TS1", (2048, 2048), "univ_annot3"),
        ("TS5", (1920, 1080), "univ_annot3"),
    ]
    for sequence, part in zip(found, (scored_part(), scored_part(2, (1920, 1080))), strict=True):
        np.testing.assert_allclose(sequence.pose_2d, part["data_2d"], rtol=1e-6)
        np.testing.assert_allclose(sequence.pose_3d, part["data_3d"] / 1000.0, rtol=1e-5)
        np.testing.assert_array_equal(sequence.valid, part["valid"] == 1)
    assert camera_of(found[1]).focal_length[0] == pytest.approx(1.1 * 1920, rel=1e-3)


def test_the_file_stands_for_the_folder(scored_file):
    assert [sequence.name for sequence in load_test_set(scored_file, "univ_annot3", partial=True)] == ["TS1", "TS5"]
    with pytest.raises(ArchiveError, match="lacks TS2, TS3, TS4, TS6"):
        load_test_set(scored_file, "univ_annot3")
    with pytest.raises(UsageError, match=r"data_test_3dhp\.npz holds univ_annot3, not annot3"):
        load_test_set(scored_file, "annot3")


def test_the_training_set_has_cameras_and_frame_rates(tmp_path):
    file = write(tmp_path / "data_train_3dhp.npz", {"S1 Seq2": training_part()})
    found = load_training_npz(file)
    assert [(s.subject, s.name, s.camera, s.fps, s.image_size) for s in found] == [
        ("S1", "Seq2", "0", 25.0, (2048, 2048)),
        ("S1", "Seq2", "4", 25.0, (2048, 2048)),
    ]
    np.testing.assert_allclose(found[1].pose_3d, arrays(4)["data_3d"] / 1000.0, rtol=1e-5)
    np.testing.assert_allclose(found[1].pose_2d, arrays(4)["data_2d"], rtol=1e-6)
    with pytest.raises(ArchiveError, match=r"holds the training set .* expected data_test_3dhp\.npz"):
        load_test_npz(file)
    with pytest.raises(ArchiveError, match="as in data_train_3dhp"):
        load_training_npz(write(tmp_path / "test.npz", {"TS1": scored_part()}))


def test_the_2d_poses_are_read_as_a_detector_s(scored_file, tmp_path):
    with pytest.raises(UsageError, match="holds the sequences TS1, TS5; name one"):
        read_detections(scored_file)
    found = read_detections(scored_file, "TS5")
    assert (found.joints, found.image_size, found.fps) == (MPI_INF_3DHP, (1920.0, 1080.0), None)
    np.testing.assert_allclose(found.frames[7][0].keypoints, scored_part(2, (1920, 1080))["data_2d"][7], rtol=1e-6)
    training = write(tmp_path / "data_train_3dhp.npz", {"S3 Seq1": training_part()})
    assert read_detections(training, "S3 Seq1 4").fps == 25.0


def load_test_npz(path):
    return read_test(load_npz(path), path)


def without(part, name):
    return {key: value for key, value in part.items() if key != name}


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({}, ArchiveError, "expected 'data' with the sequences"),
        ({"TS1": without(scored_part(), "valid")}, ArchiveError, "expected 'data' with the sequences"),
        ({"TS9": scored_part()}, ArchiveError, "holds the sequence 'TS9'"),
        (
            {"TS1": scored_part() | {"data_3d": arrays()["data_3d"] / 1000}},
            UnitError,
            "legs of 0.8",
        ),
        ({"TS1": scored_part() | {"data_2d": arrays()["data_2d"] / 1024 - 1}}, UnitError, "looks normalised"),
        ({"TS1": scored_part() | {"data_3d": arrays()["data_3d"][:, ::-1]}}, InputError, "limbs of different lengths"),
        ({"TS1": scored_part() | {"data_3d": arrays()["data_3d"][:, :16]}}, JointCountError, r"shape \(40, 16, 3\)"),
        ({"TS1": scored_part() | {"data_3d": arrays()["data_3d"][:9]}}, LengthError, "40 frames and data_3d 9"),
        ({"TS1": scored_part() | {"valid": np.ones(9)}}, LengthError, "valid_frame 9"),
        ({"TS1": scored_part() | {"valid": np.full(FRAMES, 7)}}, ArchiveError, "other numbers than 0 and 1"),
        ({"TS1": scored_part() | {"data_3d": np.full((FRAMES, 17, 3), np.nan)}}, NonFiniteError, "NaN"),
        ({"TS1": scored_part() | {"data_2d": "pixels"}}, ArchiveError, "TS1: data_2d holds str"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(data, error, words, tmp_path):
    file = write(tmp_path / "data_test_3dhp.npz", data)
    with pytest.raises(error, match=words) as raised:
        load_test_npz(file)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"S1Seq1": training_part()}, "keys like 'S1 Seq1'"),
        ({"S1 Seq1": [training_part()[0], 0]}, "frame rate is 0"),
        ({"S1 Seq1": [training_part()[0], "25"]}, "frame rate is '25'"),
        ({"S1 Seq1": training_part(data_2d=np.ones((3, 28, 2)))}, r"S1 Seq1, camera 0: data_2d has shape \(3, 28, 2\)"),
    ],
)
def test_training_files_that_cannot_be_used_are_refused(data, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_training_npz(write(tmp_path / "data_train_3dhp.npz", data))


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


def test_no_code_of_a_file_runs(tmp_path, capsys):
    with pytest.raises(UnsafeArchiveError, match="print"):
        load_test_npz(write(tmp_path / "data_test_3dhp.npz", {"TS1": scored_part() | {"valid": Hostile()}}))
    assert capsys.readouterr().out == ""


def test_the_commands_take_the_file(scored_file, tmp_path, capsys):
    assert evaluate.main(["--mpi-inf-3dhp", str(scored_file), "--annotation", "univ_annot3"]) == 0
    table = capsys.readouterr().out
    assert "TS5" in table and "TS1" in table and "Not all of TS1" in table
    errors = {line.split()[0]: [float(v) for v in line.split()[1:]] for line in table.splitlines() if line[:2] == "TS"}
    assert all(values[0] == 35 and values[1] > 90.0 and values[-1] < 90.0 for values in errors.values()), errors
    output = tmp_path / "people"
    assert refine.main([str(scored_file), "--name", "TS1", "--fps", "25", "--output", str(output)]) == 0
    with np.load(output / "person0.npz") as written:
        assert written["refined_pose_3d"].shape == (FRAMES, 17, 3)
        truth = load_test_npz(scored_file)[0].pose_3d
        found = written["refined_pose_3d"]
    names = [MPI_INF_3DHP.joint_names.index(name) for name in ("left_knee", "right_wrist")]
    apart = found[:, [5, 16]] - found[:, :1] - (truth[:, names] - truth[:, 14:15])
    assert np.linalg.norm(apart, axis=-1).mean() < 0.12
