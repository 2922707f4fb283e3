"""Damaged and hostile copies of every sample file: a result or an error of ours, and nothing else."""

from __future__ import annotations

import copy
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refiner.data import load_test_set, open_motion_folder
from refiner.data.safe_npz import load_npz
from refiner.errors import RefinerError
from refiner.formats import read_detections, read_estimate

SAMPLES = Path(__file__).parents[2] / "examples" / "samples"
JSON_FILES = ("alphapose.json", "mmpose.json", "coco.json", "mediapipe.json")
NPZ_FILES = ("data_2d_custom_walk.npz", "data_test_3dhp.npz")
ARRAYS = ("X3D.npy", "room.npy", "pose_3d.npy")
SIZE = (1280.0, 720.0)

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
bytes_changes = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat"]), st.floats(0, 1, exclude_max=True), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=4,
)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 10**30, 10**400, 1e308, math.nan, math.inf, -math.inf, "", "x", "1", [], {}, [[]]]),
    st.text(max_size=4),
)
places = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6)


def damaged(raw, changes):
    for kind, where, new in changes:
        at = int(where * max(len(raw), 1))
        if kind == "flip" and raw:
            raw = raw[:at] + bytes([raw[at] ^ (new[0] if new else 255)]) + raw[at + 1 :]
        elif kind == "cut":
            raw = raw[:at]
        elif kind == "insert":
            raw = raw[:at] + new + raw[at:]
        else:
            raw = raw[:at] + raw[at // 2 : at] + raw[at:]
    return raw


def replaced(content, path, value):
    """A copy with one node exchanged, which is found by going down at shares of the keys."""
    if not isinstance(content, (dict, list)) or not content or not path:
        return value
    copied = copy.copy(content)
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[int(path[0] * len(keys))]
    copied[key] = replaced(content[key], path[1:], value)
    return copied


def without(content, path):
    """A copy without one node."""
    if not isinstance(content, (dict, list)) or not content:
        return content
    copied = copy.copy(content)
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[int(path[0] * len(keys))]
    if len(path) == 1:
        del copied[key]
    else:
        copied[key] = without(content[key], path[1:])
    return copied


def answer(reader, *names):
    """What a reader returns; None for an error of ours, which must name the file."""
    try:
        return reader()
    except RefinerError as error:
        message = str(error)
    assert any(name in message for name in names), message
    return None


def read(file, video=None):
    """Read a file, and check that the people of all frames have finite pixels or missing joints."""
    found = answer(lambda: read_detections(file, video), file.name)
    if found is None:
        return
    for people in found.frames:
        for person in people:
            assert person.keypoints.shape == (found.joints.joints, 2)
            assert person.confidence.shape == (found.joints.joints,)
            assert ((person.confidence >= 0) & (person.confidence <= 1)).all()
            assert np.isfinite(person.keypoints[person.confidence > 0]).all()
    assert found.fps is None or found.fps > 0


@pytest.mark.parametrize("name", [*JSON_FILES, *NPZ_FILES])
@quick
@given(changes=bytes_changes)
def test_changed_bytes(name, tmp_path, changes):
    file = tmp_path / name
    file.write_bytes(damaged((SAMPLES / name).read_bytes(), changes))
    read(file, "TS1" if name in NPZ_FILES[1:] else None)


@pytest.mark.parametrize("name", JSON_FILES)
@quick
@given(path=places, value=odd, lose=st.booleans())
def test_changed_json(name, tmp_path, path, value, lose):
    content = json.loads((SAMPLES / name).read_text())
    changed = without(content, path) if lose else replaced(content, path, value)
    file = tmp_path / name
    file.write_text(json.dumps(changed))
    read(file)


@quick
@given(path=places, value=odd, frame=st.integers(0, 15), lose=st.booleans())
def test_changed_openpose(tmp_path, path, value, frame, lose):
    folder = tmp_path / "openpose"
    folder.mkdir(exist_ok=True)
    for file in (SAMPLES / "openpose").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / f"walk_{frame:012d}_keypoints.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(without(content, path) if lose else replaced(content, path, value)))
    read(folder)
    read(file)


def arrays_of(name):
    return load_npz(SAMPLES / name)


odd_arrays = st.one_of(
    odd,
    st.sampled_from(
        [
            np.zeros(0),
            np.zeros((0, 17, 2)),
            np.ones((3, 17, 2)),
            np.full((16, 17, 2), np.nan),
            np.full((16, 17, 3), 1e300),
            np.array(["a"] * 16),
            np.ones((16, 17, 2), complex),
            np.array([None, {}], object),
            np.int64(3),
            np.full(16, 2.0),
        ]
    ),
)


@pytest.mark.parametrize("name", NPZ_FILES)
@quick
@given(path=places, value=odd_arrays, lose=st.booleans())
def test_changed_npz(name, tmp_path, path, value, lose):
    content = arrays_of(name)
    changed = without(content, path) if lose else replaced(content, path, value)
    if not isinstance(changed, dict):
        changed = {"data": changed}
    file = tmp_path / name
    np.savez(file, **{str(key): np.array(entry, dtype=object) for key, entry in changed.items()})
    read(file, "TS1" if name in NPZ_FILES[1:] else None)
    answer(lambda: load_test_set(file, "univ_annot3", partial=True), file.name)


@pytest.mark.parametrize("name", ARRAYS)
@quick
@given(changes=bytes_changes)
def test_changed_arrays(name, tmp_path, changes):
    file = tmp_path / name
    file.write_bytes(damaged((SAMPLES / name).read_bytes(), changes))
    found = answer(lambda: read_estimate(file, np.load(SAMPLES / "pose_2d.npy"), SIZE), file.name)
    assert found is None or found.pose_3d.shape == (16, 17, 3)


@pytest.mark.parametrize("name", ["data_3d_walk.npz", "clips.json"])
@quick
@given(changes=bytes_changes)
def test_changed_motion_folders(name, tmp_path, changes):
    for file in (SAMPLES / "motion").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(damaged((SAMPLES / "motion" / name).read_bytes(), changes))
    answer(lambda: open_motion_folder(tmp_path), str(tmp_path), name)


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("name", NPZ_FILES)
@quick
@given(path=places)
def test_no_code_of_a_file_runs(name, tmp_path, capsys, path):
    file = tmp_path / name
    changed = replaced(arrays_of(name), path, Hostile())
    np.savez(file, **{str(key): np.array(entry, dtype=object) for key, entry in changed.items()})
    with pytest.raises(RefinerError, match="print"):
        read_detections(file, "TS1")
    assert capsys.readouterr().out == ""


def test_members_that_a_zip_lies_about(tmp_path):
    for size in (0, 10**18):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({size}, 17, 2)}}".ljust(117) + "\n"
            archive.writestr("data.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        file = tmp_path / "data_test_3dhp.npz"
        file.write_bytes(buffer.getvalue())
        with pytest.raises(RefinerError, match="data_test_3dhp"):
            read_detections(file)
