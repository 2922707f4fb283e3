"""The split comes from the archive's own description."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from refiner.data.description import ArchiveDescription, ArchiveUse, FolderDescription
from refiner.errors import ArchiveError, ConfigError

CMU = {"fps": 50, "split": {"train": ["S5", "S6", "S9"], "test": ["S2", "S14"]}}


def written(tmp_path, content):
    path = tmp_path / "clips.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_s9_is_a_training_person_of_one_archive_and_a_test_person_of_the_other(tmp_path):
    cmu = ArchiveDescription.from_json(written(tmp_path, CMU))
    human36m = ArchiveDescription.human36m()
    assert "S9" in cmu.train
    assert "S9" in human36m.test
    assert human36m.train == ("S1", "S5", "S6", "S7", "S8")
    assert human36m.validation == ()


def test_the_validation_person_leaves_the_training_people(tmp_path):
    path = written(tmp_path, CMU)
    default = ArchiveDescription.from_json(path)
    assert (default.train, default.validation, default.test) == (("S6", "S9"), ("S5",), ("S2", "S14"))
    assert ArchiveDescription.from_json(path, "S9").train == ("S5", "S6")
    assert ArchiveDescription.from_json(path, ["S9", "S5"]).train == ("S6",)
    assert ArchiveDescription.from_json(path, None).train == ("S5", "S6", "S9")
    assert ArchiveDescription.human36m("S8").train == ("S1", "S5", "S6", "S7")
    assert set(default.subjects) == {"S5", "S6", "S9", "S2", "S14"}


def test_a_validation_part_of_the_file_comes_first(tmp_path):
    split = {"train": ["S5", "S6"], "validation": ["S6"], "test": ["S2"]}
    described = ArchiveDescription.from_json(written(tmp_path, {"fps": 25.0, "split": split}))
    assert (described.train, described.validation, described.fps) == (("S5",), ("S6",), 25.0)


def test_without_s5_nobody_is_held_out_by_default(tmp_path):
    path = written(tmp_path, {"fps": 50, "split": {"train": ["A", "B"], "test": []}})
    assert ArchiveDescription.from_json(path).validation == ()


@pytest.mark.parametrize("person", ["S2", "S99"])
def test_a_validation_person_must_be_a_training_person(tmp_path, person):
    with pytest.raises(ConfigError, match=f"{person} is not a training person; choose among S5, S6, S9"):
        ArchiveDescription.from_json(written(tmp_path, CMU), person)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not JSON"),
        ("[]", "no archive description"),
        ({"fps": 50}, "no archive description"),
        ({"fps": "50", "split": CMU["split"]}, "no archive description"),
        ({"fps": 50, "split": {"train": ["S1"]}}, "split.test is None"),
        ({"fps": 50, "split": {"train": "S1", "test": []}}, "split.train is 'S1'"),
        ({"fps": 50, "split": {"train": ["S1", "S2"], "test": ["S2"]}}, "S2 would be in two parts"),
        ({"fps": 50, "split": {"train": [], "test": ["S2"]}}, "no training person"),
        ({"fps": 0, "split": CMU["split"]}, "frame rate is 0"),
    ],
)
def test_another_layout_is_refused(tmp_path, content, match):
    with pytest.raises(ArchiveError, match=match):
        ArchiveDescription.from_json(written(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="cannot read"):
        ArchiveDescription.from_json(tmp_path / "clips.json")


def test_the_documented_example_is_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    path = written(tmp_path, re.search(r"```json\n(.*?)```", page, re.DOTALL).group(1))
    split = ArchiveDescription.from_json(path)
    assert (split.train, split.validation, split.test, split.fps) == (("S1", "S6"), ("S5",), ("S9",), 50.0)
    folder = FolderDescription.from_json(path)
    assert (folder.fps, folder.test) == (50.0, ("S9",))
    assert folder.use_of("data_3d_studio.npz") == ArchiveUse(random_cameras=False, weight=1.0)
    assert folder.use_of("data_3d_idle.npz") == ArchiveUse(random_cameras=True, weight=0.1)


def test_names_that_end_with_free_have_random_cameras_unless_the_file_says_otherwise(tmp_path):
    nothing = FolderDescription.from_json(tmp_path / "clips.json")
    assert nothing == FolderDescription() and nothing.fps is None
    assert nothing.use_of("data_3d_more_free.npz").random_cameras
    assert not nothing.use_of("data_3d_free_more.npz").random_cameras
    archives = {"data_3d_a_free.npz": {"cameras": "fixed"}, "data_3d_b_free.npz": {"weight": 2}}
    told = FolderDescription.from_json(written(tmp_path, {"archives": archives}))
    assert told.use_of("data_3d_a_free.npz") == ArchiveUse(False, 1.0)
    assert told.use_of("data_3d_b_free.npz") == ArchiveUse(True, 2.0)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1]", "no archive description"),
        ({"fps": True}, "fps is True"),
        ({"archives": ["data_3d_a.npz"]}, "expected an object by file name"),
        ({"archives": {"data_3d_a.npz": 1}}, r"archives.data_3d_a.npz holds 1; expected cameras and weight"),
        ({"archives": {"data_3d_a.npz": {"camera": "fixed"}}}, "holds camera; expected cameras and weight"),
        ({"archives": {"data_3d_a.npz": {"cameras": "mine"}}}, "cameras is 'mine', expected 'fixed' or 'random'"),
        ({"archives": {"data_3d_a.npz": {"weight": 0}}}, "weight is 0, expected a number above 0"),
        ({"archives": {"data_3d_a.npz": {"weight": "small"}}}, "weight is 'small', expected a number"),
    ],
)
def test_another_use_of_archives_is_refused(tmp_path, content, match):
    with pytest.raises(ArchiveError, match=match):
        FolderDescription.from_json(written(tmp_path, content))
