"""The field's archives, written here as VideoPose3D writes them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from refiner.data.archives import load_positions_2d, load_positions_3d
from refiner.errors import (
    ArchiveError,
    EmptySequenceError,
    JointCountError,
    NonFiniteError,
    ShapeError,
    UnitError,
    UnsafeArchiveError,
)

# VideoPose3D drops joints 4 5 9 10 11 16 20-24 28-31 of Human3.6M's 32.
KEPT = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
METADATA = {
    "layout_name": "h36m",
    "num_joints": 17,
    "keypoints_symmetry": [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]],
}


def write(path, protocol=None, **members):
    """An .npz of pickled dicts; ``protocol`` 2 is what Python 2 and old tools wrote."""
    if protocol is None:
        np.savez_compressed(path, **members)
        return path
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
            boxed = np.empty((), dtype=object)
            boxed[()] = value
            archive.writestr(f"{name}.npy", buffer.getvalue() + pickle.dumps(boxed, protocol=protocol))
    return path


def people_3d(seed=0, joints=17, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        subject: {key: rng.uniform(-1, 1, (frames, joints, 3)).astype(dtype) for key, frames in clips.items()}
        for subject, clips in {"S1": {"Walking": 5, "Walking 1": 3}, "S9": {"Photo 1": 4}}.items()
    }


def people_2d(seed=0, cameras=4):
    rng = np.random.default_rng(seed)
    return {
        subject: {
            key: [rng.uniform(0, 1000, (len(poses), 17, 2)).astype(np.float32) for _ in range(cameras)]
            for key, poses in clips.items()
        }
        for subject, clips in people_3d().items()
    }


@pytest.mark.parametrize("protocol", [None, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_17_joints_are_read_as_they_are(tmp_path, protocol, dtype):
    people = people_3d(dtype=dtype)
    loaded = load_positions_3d(write(tmp_path / "data_3d.npz", protocol, positions_3d=people))
    assert {subject: list(clips) for subject, clips in loaded.items()} == {
        "S1": ["Walking", "Walking 1"],
        "S9": ["Photo 1"],
    }
    for subject, clips in people.items():
        for key, poses in clips.items():
            assert loaded[subject][key].dtype == np.float32
            np.testing.assert_array_equal(loaded[subject][key], poses.astype(np.float32))


def test_32_joints_are_reduced_to_videopose3ds_17(tmp_path):
    people = people_3d(joints=32)
    loaded = load_positions_3d(write(tmp_path / "data_3d_h36m.npz", positions_3d=people))
    np.testing.assert_array_equal(loaded["S9"]["Photo 1"], people["S9"]["Photo 1"][:, KEPT])
    assert loaded["S9"]["Photo 1"].flags.c_contiguous


@pytest.mark.parametrize("protocol", [None, 2])
def test_detections_and_their_metadata_are_read(tmp_path, protocol):
    people = people_2d()
    path = write(tmp_path / "data_2d_h36m_cpn.npz", protocol, positions_2d=people, metadata=METADATA)
    loaded = load_positions_2d(path)
    assert loaded.metadata == METADATA
    for camera in range(4):
        np.testing.assert_array_equal(loaded.positions["S1"]["Walking"][camera], people["S1"]["Walking"][camera])


def test_odd_memory_layouts_are_read(tmp_path):
    base = np.random.default_rng(3).uniform(-1, 1, (6, 17, 3)).astype(np.float32)
    views = {"fortran": np.asfortranarray(base), "reversed": base[::-1], "big": base.astype(">f4")}
    loaded = load_positions_3d(write(tmp_path / "data_3d.npz", positions_3d={"S1": views}))
    for key, view in views.items():
        np.testing.assert_array_equal(loaded["S1"][key], view)
        assert loaded["S1"][key].flags.c_contiguous


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [None, 2])
def test_an_archive_that_would_run_code_is_refused_and_does_not(tmp_path, protocol):
    mark = tmp_path / "mark"
    people = people_3d()
    people["S1"]["Walking 2"] = Attack(mark)
    path = write(tmp_path / "data_3d.npz", protocol, positions_3d=people)
    with pytest.raises(UnsafeArchiveError, match=r"data_3d\.npz, positions_3d\.npy asks to load \w+\.system"):
        load_positions_3d(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("poses", "error", "match"),
    [
        (np.ones((4, 16, 3)), JointCountError, "has 16 joints, expected 17 or 32"),
        (np.ones((4, 17, 2)), ShapeError, r"shape \(4, 17, 2\), expected \(frames, joints, 3\)"),
        (np.ones((17, 3)), ShapeError, "expected"),
        (np.ones((0, 17, 3)), EmptySequenceError, "no frames"),
        (np.full((4, 17, 3), np.nan), NonFiniteError, "first in frame 0"),
        (np.linspace(0, 1700, 4 * 51).reshape(4, 17, 3), UnitError, "millimetres"),
        ([1, 2], ArchiveError, "holds list"),
        (np.array(["a"]), ArchiveError, "expected an array of numbers"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(tmp_path, poses, error, match):
    people = people_3d()
    people["S9"]["Photo 1"] = poses
    path = write(tmp_path / "data_3d.npz", positions_3d=people)
    with pytest.raises(error, match=match) as caught:
        load_positions_3d(path)
    assert "S9 'Photo 1'" in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"S1": 3}, 3, [1], {"S1": {}, "S2": None}])
def test_another_structure_is_refused(tmp_path, content):
    with pytest.raises(ArchiveError, match="positions_3d is not a dict subject -> action -> poses"):
        load_positions_3d(write(tmp_path / "data_3d.npz", positions_3d=content))


def test_the_other_archive_is_told_apart(tmp_path):
    path = write(tmp_path / "data_2d.npz", positions_2d=people_2d(), metadata=METADATA)
    with pytest.raises(ArchiveError, match="no 'positions_3d'; it holds: metadata, positions_2d"):
        load_positions_3d(path)


@pytest.mark.parametrize(
    ("views", "error", "match"),
    [
        ([], ArchiveError, "one per camera"),
        (3, ArchiveError, "one per camera"),
        (np.ones((4, 17, 2)), ArchiveError, "one array per camera"),
        ([np.ones((4, 16, 2))], JointCountError, "camera 0 has 16 joints, expected 17"),
        ([np.ones((4, 17, 2)), np.ones((4, 17, 3))], ShapeError, "camera 1 has shape"),
    ],
)
def test_detections_that_cannot_be_used_are_named(tmp_path, views, error, match):
    people = people_2d()
    people["S9"]["Photo 1"] = views
    with pytest.raises(error, match=match):
        load_positions_2d(write(tmp_path / "data_2d.npz", positions_2d=people, metadata=METADATA))


def test_one_array_for_all_cameras_is_read_and_metadata_may_lack(tmp_path):
    views = np.random.default_rng(5).uniform(0, 1000, (4, 6, 17, 2))
    loaded = load_positions_2d(write(tmp_path / "data_2d.npz", positions_2d={"S1": {"Walking": views}}))
    np.testing.assert_array_equal(loaded.positions["S1"]["Walking"][2], views[2].astype(np.float32))
    assert loaded.metadata == {}
    path = write(tmp_path / "odd.npz", 2, positions_2d={"S1": {"Walking": views}}, metadata=[1])
    with pytest.raises(ArchiveError, match="metadata is a list"):
        load_positions_2d(path)
