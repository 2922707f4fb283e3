"""Files on disk: sizes, truncation, bombs, foreign formats, and a user's own arrays."""

from __future__ import annotations

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from refiner.data.safe_npz import load_npz, load_user_array
from refiner.errors import ArchiveError, UnsafeArchiveError


class Touches:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def header(text, content=b"", version=b"\x01\x00"):
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def declared(descr, shape, content=b"", version=b"\x01\x00"):
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", content, version)


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.fixture
def poses():
    return np.random.default_rng(7).normal(size=(6, 17, 3))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_plain_and_pickled_members_come_back(tmp_path, poses, save):
    save(tmp_path / "a.npz", poses=poses, table={"S1": {"Walking": poses.astype(np.float32)}}, names=["a", "b"])
    content = load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(content["poses"], poses)
    np.testing.assert_array_equal(content["table"]["S1"]["Walking"], poses.astype(np.float32))
    assert content["names"].tolist() == ["a", "b"]


def test_the_headers_of_old_and_new_numpy_are_read(tmp_path, poses):
    zipped(tmp_path / "a.npz", [("one.npy", npy(poses, version=(1, 0))), ("two.npy", npy(poses, version=(2, 0)))])
    content = load_npz(tmp_path / "a.npz")
    for name in ("one", "two"):
        np.testing.assert_array_equal(content[name], poses)


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: a[::-1],
        lambda a: a[:, ::2],
        lambda a: a.astype(">f8"),
        lambda a: a.T,
        lambda a: a[:0],
    ],
    ids=["fortran", "negative stride", "sliced", "big-endian", "transposed", "empty"],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_users_array_comes_back_native_and_contiguous(tmp_path, poses, view, suffix):
    array, path = view(poses), tmp_path / f"pose.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, array)
    loaded = load_user_array(path)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable
    assert loaded.dtype.isnative


def test_one_of_several_arrays_needs_its_name(tmp_path, poses):
    path = tmp_path / "two.npz"
    np.savez(path, first=poses, second=poses + 1)
    np.testing.assert_array_equal(load_user_array(path, "second"), poses + 1)
    with pytest.raises(ArchiveError, match=r"several arrays \(first, second\)"):
        load_user_array(path)
    with pytest.raises(ArchiveError, match="no array 'third'; it holds: first, second"):
        load_user_array(path, "third")


@pytest.mark.parametrize("value", [{"a": 1}, ["text"], np.array([1j]), np.array([None, 2])])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_users_file_without_numbers_is_refused(tmp_path, value, suffix):
    path = tmp_path / f"odd.{suffix}"
    np.save(path, value, allow_pickle=True) if suffix == "npy" else np.savez(path, value)
    with pytest.raises(ArchiveError, match="expected one array of numbers"):
        load_user_array(path)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path, suffix):
    mark, path = tmp_path / "mark", tmp_path / f"attack.{suffix}"
    value = np.array({"S1": Touches(mark)}, dtype=object)
    np.save(path, value, allow_pickle=True) if suffix == "npy" else np.savez(path, positions_3d=value)
    with pytest.raises(UnsafeArchiveError, match=r"\w+\.system, which is not NumPy data and could run code"):
        load_user_array(path)
    assert not mark.exists()


def test_every_truncation_is_refused(tmp_path, poses):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, poses=poses, table={"S1": poses})
    content = whole.read_bytes()
    for size in np.unique(np.linspace(0, len(content) - 1, 40).astype(int)):
        (tmp_path / "cut.npz").write_bytes(content[:size])
        with pytest.raises(ArchiveError, match=r"cut\.npz"):
            load_npz(tmp_path / "cut.npz")


def test_every_truncated_npy_is_refused(tmp_path, poses):
    content = npy(poses)
    for size in np.unique(np.linspace(0, len(content) - 1, 40).astype(int)):
        (tmp_path / "cut.npy").write_bytes(content[:size])
        with pytest.raises(ArchiveError, match=r"cut\.npy"):
            load_user_array(tmp_path / "cut.npy")


def test_flipped_bytes_inside_a_member_are_noticed(tmp_path, poses):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, poses=poses)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="not a whole"):
        load_npz(path)


@pytest.mark.parametrize("members", [1, 8])
def test_a_decompression_bomb_is_refused_unread(tmp_path, members):
    path = zipped(tmp_path / "bomb.npz", [(f"{n}.npy", bytes((80 << 20) // members)) for n in range(members)])
    assert path.stat().st_size < 100_000
    with pytest.raises(ArchiveError, match="decompression bomb"):
        load_npz(path)


def test_a_few_zero_arrays_are_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", np.zeros((1000, 17, 3)))
    assert load_npz(tmp_path / "zeros.npz")["arr_0"].shape == (1000, 17, 3)


def test_the_size_cap_counts_all_members(tmp_path, poses):
    path = tmp_path / "big.npz"
    np.savez(path, a=poses, b=poses)
    with pytest.raises(ArchiveError, match=r"more than the 4000 allowed"):
        load_npz(path, max_bytes=4000)
    np.save(tmp_path / "big.npy", poses)
    with pytest.raises(ArchiveError, match=r"more than the 100 allowed"):
        load_user_array(tmp_path / "big.npy", max_bytes=100)


def test_a_member_larger_than_it_declares_is_refused(tmp_path, poses):
    path = tmp_path / "lie.npz"
    np.savez(path, poses=poses)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    size = struct.unpack_from("<I", content, at)[0]
    for lie in (size - 8, size + 8):
        struct.pack_into("<I", content, at, lie)
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match=r"lie\.npz"):
            load_npz(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (declared("'<f4'", "(1000000000000,)"), "declares 1000000000000 values"),
        (declared("'<f4'", "(-1,)", b"\0" * 4), "impossible shape"),
        (declared("'<f4'", "(2,)", b"\0" * 4), "holds 4 bytes"),
        (declared("'<f4'", "(2,)", b"\0" * 12), "holds 12 bytes"),
        (declared("'zzz'", "(2,)"), "not a whole .npy array"),
        (declared("[('a', 'O')]", "(1,)", b"N."), "expected numbers or a pickled"),
        (declared("'|O'", "()", b"N."), "holds something else"),
        (declared("'<f4'", "(0,)", version=b"\x07\x00"), "not a whole .npy array"),
        (header("{'descr': '<f4', 'shape': (2,), }", b"\0" * 8), "not a whole .npy array"),
        (header("__import__('os').system('true')"), "not a whole .npy array"),
        (header("(" * 5000), "not a whole .npy array"),
        (b"\x93NUMPY", "not a whole .npy array"),
        (b"", "not a whole .npy array"),
    ],
)  # fmt: skip
def test_forged_array_headers_are_refused(tmp_path, content, match):
    with pytest.raises(ArchiveError, match=match):
        load_npz(zipped(tmp_path / "forged.npz", [("a.npy", content)]))


def test_members_that_numpy_does_not_write_are_refused(tmp_path, poses):
    with pytest.raises(ArchiveError, match="neither stored nor deflated"):
        load_npz(zipped(tmp_path / "lzma.npz", [("a.npy", npy(poses))], zipfile.ZIP_LZMA))
    with pytest.raises(ArchiveError, match=r"holds no \.npy members"):
        load_npz(zipped(tmp_path / "docs.npz", [("readme.txt", b"hello")]))
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "twice.npz", [("a.npy", npy(poses)), ("a.npy", npy(poses + 1))])
    with pytest.raises(ArchiveError, match=r"holds a\.npy twice"):
        load_npz(path)


@pytest.mark.parametrize("reader", [load_npz, load_user_array])
def test_what_is_no_file_is_refused(tmp_path, reader):
    with pytest.raises(ArchiveError, match="there is no file"):
        reader(tmp_path / "none.npz")
    with pytest.raises(ArchiveError, match="is a folder"):
        reader(tmp_path)
    (tmp_path / "empty.npz").touch()
    with pytest.raises(ArchiveError, match="is empty"):
        reader(tmp_path / "empty.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ArchiveError, match="not a regular file"):
        reader(tmp_path / "pipe.npz")


@pytest.mark.parametrize("content", [b"0", b"<html>not found</html>", b"\x80\x04N.", b"PK\x03\x04garbage"])
@pytest.mark.parametrize("reader", [load_npz, load_user_array])
def test_a_foreign_file_is_refused(tmp_path, reader, content):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"not a whole \.npz|neither \.npy nor \.npz"):
        reader(path)
