"""MPI-INF-3DHP's test annotations: what a file holds, and files that are something else."""

from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest

from refiner.camera import look_at_camera
from refiner.data.mpi_inf_3dhp import (
    IMAGE_SIZES,
    SEQUENCES,
    Sequence3dhp,
    camera_of,
    load_test_sequence,
    load_test_set,
    sequence_of,
)
from refiner.errors import (
    ArchiveError,
    LengthError,
    MissingComponentError,
    NonFiniteError,
    ShapeError,
    UsageError,
)


def arrays_of(seed, frames=12):
    """As h5py gives them: MATLAB's (3, 17, 1, F) is (F, 1, 17, 3)."""
    rng = np.random.default_rng(seed)
    return {
        "annot2": rng.uniform(100, 1900, (frames, 1, 17, 2)),
        "annot3": rng.normal(0, 400, (frames, 1, 17, 3)),
        "univ_annot3": rng.normal(0, 500, (frames, 1, 17, 3)),
        "valid_frame": (rng.random((frames, 1)) < 0.7).astype(np.float64),
    }


@pytest.fixture
def fake_h5py(monkeypatch):
    """Stands for h5py: a file is a dict of arrays that was registered under its path."""
    files = {}

    class Dataset:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, key):
            assert key == ()
            return self.array

    class File(dict):
        def __init__(self, path, mode):
            assert mode == "r"
            if str(path) not in files:
                raise OSError("unable to open file (file signature not found)")
            super().__init__({name: Dataset(np.asarray(array)) for name, array in files[str(path)].items()})

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=File))
    return files


@pytest.mark.parametrize("annotation", ["annot3", "univ_annot3"])
def test_a_sequence_is_what_the_file_says(fake_h5py, tmp_path, annotation):
    arrays = arrays_of(1)
    file = tmp_path / "TS3" / "annot_data.mat"
    fake_h5py[str(file)] = arrays
    found = load_test_sequence(file, annotation)
    assert (found.name, found.annotation, found.image_size) == ("TS3", annotation, (2048, 2048))
    np.testing.assert_allclose(found.pose_2d, arrays["annot2"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(found.pose_3d * 1000.0, arrays[annotation][:, 0], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.valid, arrays["valid_frame"][:, 0] == 1)
    assert found.pose_3d.dtype == np.float32 and found.valid.dtype == bool


def test_the_test_set_is_six_sequences(fake_h5py, tmp_path):
    for number, name in enumerate(SEQUENCES):
        (tmp_path / name).mkdir()
        (tmp_path / name / "annot_data.mat").touch()
        fake_h5py[str(tmp_path / name / "annot_data.mat")] = arrays_of(number, frames=10 + number)
    found = load_test_set(tmp_path, "annot3")
    assert [(sequence.name, len(sequence.valid)) for sequence in found] == [
        (n, 10 + i) for i, n in enumerate(SEQUENCES)
    ]
    assert [sequence.image_size for sequence in found[4:]] == [(1920, 1080)] * 2
    (tmp_path / "TS5" / "annot_data.mat").unlink()
    with pytest.raises(ArchiveError, match=r"lacks TS5/annot_data\.mat"):
        load_test_set(tmp_path, "annot3")
    assert [sequence.name for sequence in load_test_set(tmp_path, "annot3", partial=True)] == [
        name for name in SEQUENCES if name != "TS5"
    ]
    with pytest.raises(ArchiveError, match="lacks TS1"):
        load_test_set(tmp_path / "TS1", "annot3", partial=True)
    # Any subset, in the order of the data set.
    for names in (["TS6"], ["TS4", "TS2"], ["TS1", "TS2", "TS3", "TS4", "TS6"]):
        found = load_test_set(tmp_path, "annot3", sequences=names)
        assert [sequence.name for sequence in found] == sorted(names)
    with pytest.raises(ArchiveError, match=r"lacks TS5/annot_data\.mat"):
        load_test_set(tmp_path, "annot3", sequences=["TS5", "TS6"])
    for names, told in ((["TS6", "TS9"], "are TS9; expected some of TS1"), ([], "are none")):
        with pytest.raises(UsageError, match=told):
            load_test_set(tmp_path, "annot3", sequences=names)


def test_a_matlab_file_by_h5py_itself(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: no MATLAB v7.3 file can be written or read")
    arrays = arrays_of(2)
    file = tmp_path / "TS6" / "annot_data.mat"
    file.parent.mkdir()
    with h5py.File(file, "w", userblock_size=512) as opened:
        for name, array in arrays.items():
            opened.create_dataset(name, data=array, chunks=True, compression="gzip")
        opened.create_dataset("activity_annotation", data=np.ones((12, 1)))
    # MATLAB writes its own 512 bytes in front.
    with open(file, "r+b") as opened:
        opened.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    found = load_test_sequence(file, "univ_annot3")
    np.testing.assert_allclose(found.pose_3d * 1000.0, arrays["univ_annot3"][:, 0], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.valid, arrays["valid_frame"][:, 0] == 1)
    file.write_bytes(b"MATLAB 5.0 MAT-file".ljust(2000))
    with pytest.raises(ArchiveError, match=r"cannot be read as a MATLAB v7\.3 file"):
        load_test_sequence(file, "annot3")


def test_without_h5py_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingComponentError, match=r"pip install 'pose-refiner\[3dhp\]'"):
        load_test_sequence(tmp_path / "TS1" / "annot_data.mat", "annot3")


def test_other_files_are_refused(fake_h5py, tmp_path):
    file = tmp_path / "TS1" / "annot_data.mat"
    with pytest.raises(ArchiveError, match=r"cannot be read as a MATLAB v7\.3 file"):
        load_test_sequence(file, "annot3")
    fake_h5py[str(file)] = {"annot2": np.ones((3, 1, 17, 2)), "other": np.ones(3)}
    with pytest.raises(ArchiveError, match="has no array of numbers 'annot3'; it holds: annot2, other"):
        load_test_sequence(file, "annot3")
    fake_h5py[str(file)] = arrays_of(1) | {"annot3": np.array([object()] * 3)}
    with pytest.raises(ArchiveError, match="no array of numbers 'annot3'"):
        load_test_sequence(file, "annot3")
    with pytest.raises(ArchiveError, match="'TS7', expected one of TS1"):
        load_test_sequence(tmp_path / "TS7" / "annot_data.mat", "annot3")
    with pytest.raises(UsageError, match="name one of annot3 or univ_annot3"):
        load_test_sequence(file, "annot2")  # type: ignore[arg-type]


def test_arrays_that_do_not_belong_together_are_refused():
    arrays = arrays_of(4)
    with pytest.raises(ShapeError, match=r"annot3 has shape \(12, 1, 28, 3\)"):
        sequence_of("TS1", arrays | {"annot3": np.ones((12, 1, 28, 3))}, "annot3", "a file")
    with pytest.raises(LengthError, match="annot2 has 12 frames, annot3 12, valid_frame 11"):
        sequence_of("TS1", arrays | {"valid_frame": np.ones(11)}, "annot3", "a file")
    with pytest.raises(ArchiveError, match="other numbers than 0 and 1"):
        sequence_of("TS1", arrays | {"valid_frame": np.full(12, 2)}, "annot3", "a file")
    broken = arrays["annot3"].copy()
    broken[3, 0, 2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="a file, annot3"):
        sequence_of("TS1", arrays | {"annot3": broken}, "annot3", "a file")


@pytest.mark.parametrize("name", ["TS2", "TS6"])
def test_the_lens_is_found_again(name):
    size = IMAGE_SIZES[name]
    camera = dataclasses.replace(
        look_at_camera(np.array([4.0, 1.0, 1.5]), np.array([0.0, 0.0, 0.9]), 1700.0, *size),
        focal_length=np.array([1690.0, 1672.0]),
        center=np.array([940.0, 560.0]),
    )
    world = np.random.default_rng(0).normal([0, 0, 0.9], 0.4, (12, 17, 3))
    points = camera.to_camera(world)
    pixels = camera.project(points) + np.random.default_rng(1).normal(0, 0.5, (12, 17, 2))
    found = camera_of(Sequence3dhp(name, "annot3", pixels, points, np.ones(12, bool), size))
    np.testing.assert_allclose(found.focal_length, camera.focal_length, atol=6)
    np.testing.assert_allclose(found.center, camera.center, atol=1)
    assert found.image_size == size and not found.radial.any()
    with pytest.raises(ArchiveError, match="no lens takes"):
        camera_of(Sequence3dhp(name, "annot3", pixels[::-1], points, np.ones(12, bool), size))
    with pytest.raises(ArchiveError, match="before a camera"):
        camera_of(Sequence3dhp(name, "annot3", pixels, points - np.array([0, 0, 9]), np.ones(12, bool), size))
