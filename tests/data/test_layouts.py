"""What the metadata of a file say about its joints."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.cli import refine, stream
from refiner.data.layouts import check_layout, check_stated_layout, stated_joints
from refiner.errors import ArchiveError
from refiner.skeleton import COCO17, H36M17

COCO = {"layout_name": "coco", "num_joints": 17, "keypoints_symmetry": [list(COCO17.left), list(COCO17.right)]}
H36M = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": [list(H36M17.left), list(H36M17.right)]}


def test_layouts_have_joint_sets():
    names = ["h36m", "Human36M", "coco", "coco_wholebody", "mpi_inf_3dhp", "3dhp", "halpe26", "BODY_25", "mine", None]
    sets = ["h36m17", "h36m17", "coco17", "coco17", "3dhp", "3dhp", "halpe26", "body25"]
    assert [stated_joints(name) for name in names] == [*((name,) for name in sets), (), ()]
    assert stated_joints("openpose") == ("body25", "coco18")


@pytest.mark.parametrize("joints", [COCO17, H36M17], ids=lambda joints: joints.name)
@pytest.mark.parametrize(
    "metadata",
    [
        COCO,
        H36M,
        COCO | {"keypoints_symmetry": H36M["keypoints_symmetry"]},
        {"layout_name": "coco"},
        {"num_joints": 16},
    ],
)
def test_metadata_fit_one_joint_set_or_none(metadata, joints):
    fits = metadata == (COCO if joints is COCO17 else H36M) or (
        metadata == {"layout_name": "coco"} and joints is COCO17
    )
    if fits:
        check_layout(metadata, joints, "file")
    else:
        with pytest.raises(ArchiveError, match=r"^file has another layout of joints than"):
            check_layout(metadata, joints, "file")


def test_a_name_that_says_nothing_may_need_the_pairs():
    for metadata in ({}, {"layout_name": "mine"}):
        check_layout(metadata, H36M17, "file")
    check_layout(
        {"layout_name": "mine"} | {"keypoints_symmetry": H36M["keypoints_symmetry"]}, H36M17, "file", sure=True
    )
    with pytest.raises(ArchiveError, match="layout_name 'mine'"):
        check_layout({"layout_name": "mine"}, H36M17, "file", sure=True)


@pytest.mark.parametrize("main", [refine.main, stream.main])
def test_commands_refuse_arrays_that_say_that_they_are_coco_s(main, tmp_path, capsys):
    file = tmp_path / "poses.npz"
    np.savez(file, poses=np.ones((9, 17, 2)), metadata=COCO)
    words = ["--pose-2d", str(file), "--key-2d", "poses", "--image-size", "640", "480"]
    assert main([*words, "--output", str(tmp_path / "out.npy"), "--lifter", "lifter-nano-rays"]) == 5
    assert "poses.npz has another layout of joints than Human3.6M's 17 (layout_name 'coco'" in capsys.readouterr().err


def test_files_without_metadata_say_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", poses=np.ones((9, 17, 2)))
    np.save(tmp_path / "a.npy", np.ones((9, 17, 2)))
    np.savez(tmp_path / "b.npz", poses=np.ones((9, 17, 2)), metadata=np.array("by hand"))
    for name in ("a.npz", "a.npy", "b.npz"):
        check_stated_layout(tmp_path / name, "h36m17")
    with pytest.raises(ArchiveError, match="there is no file"):
        check_stated_layout(tmp_path / "c.npz", "h36m17")
