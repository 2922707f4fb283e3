"""The unpickler takes NumPy data as every NumPy and Python wrote it, and runs nothing."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refiner.data.numpy_pickle import load_numpy_pickle
from refiner.errors import ArchiveError, RefinerError, UnsafeArchiveError


def load(value, protocol=4):
    return load_numpy_pickle(pickle.dumps(value, protocol=protocol), "file.npz")


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


ARRAYS = {
    "float32": lambda rng: rng.normal(size=(5, 17, 3)).astype(np.float32),
    "fortran": lambda rng: np.asfortranarray(rng.normal(size=(5, 17, 3))),
    "negative strides": lambda rng: rng.normal(size=(5, 17, 3))[::-1, :, ::-1],
    "sliced": lambda rng: rng.normal(size=(5, 34, 3))[:, ::2],
    "big-endian": lambda rng: rng.normal(size=(5, 4)).astype(">f4"),
    "int": lambda rng: rng.integers(-9, 9, (3, 4)),
    "bool": lambda rng: rng.random((3, 4)) < 0.5,
    "text": lambda rng: np.array(["Hip", "RHip"]),
    "bytes": lambda rng: np.array([b"Hip", b"RHip"]),
    "empty": lambda rng: np.empty((0, 17, 3), np.float32),
    "0-d": lambda rng: np.array(rng.normal()),
    "half": lambda rng: rng.normal(size=(3,)).astype(np.float16),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", list(ARRAYS))
def test_arrays_come_back_in_every_protocol(kind, protocol):
    array = ARRAYS[kind](np.random.default_rng(protocol))
    loaded = load({"a": [array, (array, 3)]}, protocol)
    for found in (loaded["a"][0], loaded["a"][1][0]):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_object_arrays_scalars_and_containers_come_back(protocol):
    rng = np.random.default_rng(1)
    objects = np.empty((2, 2), dtype=object)
    objects[:] = [[rng.normal(size=3), "text"], [None, {"k": (1, 2.5, True)}]]
    value = {
        "objects": objects,
        "scalar": np.float32(rng.normal()),
        3: {1, 2},
        "bytes": b"\x00\xff",
        "none": b"",
    }
    loaded = load(value, protocol)
    np.testing.assert_array_equal(loaded["objects"][0, 0], objects[0, 0])
    assert loaded["objects"][1, 1] == {"k": (1, 2.5, True)}
    assert loaded["scalar"] == value["scalar"]
    assert loaded["scalar"].dtype == np.float32
    assert (loaded[3], loaded["bytes"], loaded["none"]) == ({1, 2}, b"\x00\xff", b"")


def test_an_array_held_twice_stays_one_array():
    array = np.random.default_rng(2).normal(size=3)
    first, second = load([array, array])
    assert first is second


def python2_pickle(array):
    """What Python 2 wrote for ``{'S1': array}``: byte strings for text and for the array's data."""
    raw = array.tobytes()
    shape = b"".join(b"K" + bytes([size]) for size in array.shape)
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    return (
        b"\x80\x02}U\x02S1cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01(" + shape + b"t" + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tbs."
    )  # fmt: skip


def test_a_python_2_pickle_is_read():
    array = np.random.default_rng(3).normal(size=(4, 5, 3)).astype(np.float32)
    loaded = load_numpy_pickle(python2_pickle(array), "file.npz")
    assert list(loaded) == ["S1"]
    np.testing.assert_array_equal(loaded["S1"], array)


ATTACKS = {
    "posix.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "subprocess.Popen": lambda mark: Calls(subprocess.Popen, ["touch", mark]),
    "builtins.eval": lambda mark: Calls(eval, f"open({mark!r}, 'w').close()"),
    "builtins.exec": lambda mark: Calls(exec, f"open({mark!r}, 'w').close()"),
    "builtins.getattr": lambda mark: Calls(getattr, "abc", "upper"),
    "io.open": lambda mark: Calls(open, mark, "w"),
    "functools.partial": lambda mark: functools.partial(os.system, f"touch {mark}"),
    "numpy.load": lambda mark: Calls(np.load, mark),
    "numpy.fromfile": lambda mark: Calls(np.fromfile, mark),
    "datetime.date": lambda mark: datetime.date(2020, 1, 2),
    "builtins.bytearray": lambda mark: bytearray(b"abc"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_any_other_global_is_refused_by_name_and_not_run(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    value = {"S1": {"Walking": [np.ones(2), ATTACKS[name](str(mark))]}}
    function = name.rsplit(".", 1)[1]
    with pytest.raises(UnsafeArchiveError, match=rf"asks to load (\w+)\.{function}, which is not NumPy data"):
        load(value, protocol)
    assert not mark.exists()
    # The same stream does run under the ordinary unpickler, so that the test would notice.
    if name == "posix.system":
        pickle.loads(pickle.dumps(value["S1"], protocol=protocol))
        assert mark.exists()


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        (b"(S'touch /nowhere'\nios\nsystem\n.", r"os\.system"),  # INST
        (b"(cos\nsystem\nS'touch /nowhere'\no.", r"os\.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"os\.system"),  # STACK_GLOBAL
        (b"\x80\x04\x8c\x0fnumpy.ctypeslib\x8c\x0cload_library\x93.", "load_library"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", r"numpy\.ndarray\.dumps"),
        (b"c_codecs\nencode\n(Va\nVutf-16\ntR.", "_codecs.encode with 'utf-16'"),
        (b"Pthing\n.", "persistent"),
        (b"K\x01Q.", "persistent"),
    ],
)
def test_every_way_to_name_a_global_is_closed(stream, match):
    with pytest.raises(UnsafeArchiveError, match=match):
        load_numpy_pickle(stream, "file.npz")


DTYPE = b"cnumpy\ndtype\n(Vf4\nI00\nI01\ntR(K\x03V<\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tVb\ntR"


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        (b"cnumpy\nndarray\n(J\x00\x00\x00\x7ftR.", "damaged pickle"),  # numpy.ndarray(2e9)
        (b"cnumpy\nndarray\n(J\x00\x00\x00\x7ft\x81.", "damaged pickle"),
        (b"cnumpy\nndarray\n.", "a NumPy type where data is expected"),
        (DTYPE + b".", "a NumPy type where data is expected"),
        (ARRAY.replace(b"K\x00", b"J\x00\x00\x00\x7f") + b".", "plain numpy.ndarray"),
        (ARRAY + b".", "has no content"),
        (ARRAY + b"(K\x01(J\x00\x00\x00\x7ft" + DTYPE + b"I00\nC\x04abcdtb.", "declares 2130706432 values"),
        (ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + DTYPE + b"I00\nC\x04abcdtb.", "impossible shape"),
        (ARRAY + b"(K\x01(K\x01t" + DTYPE + b"I00\n]tb.", "holds list"),
        (ARRAY + b"(K\x01(K\x01tNI00\nC\x04abcdtb.", "has no type"),
        (ARRAY + b"}(Vdata\nK\x01ub.", "state that NumPy does not write"),
        (b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(K\x03V|\nNNNK\x08K\x08K\x00tb.", "a NumPy type where"),
        (b"cnumpy\ndtype\n(VV8\nI00\nI01\ntR.", "values of type 'V8'"),
        (b"cnumpy\ndtype\n(VM8\nI00\nI01\ntR.", "values of type 'M8'"),
        (DTYPE[:-2].replace(b"NNN", b"N(Va\nt}") + b"tb.", "structured"),
        (b"cnumpy.core.multiarray\nscalar\n(" + DTYPE + b"C\x02abtR.", "holds 2 bytes"),
        (b"cnumpy.core.multiarray\nscalar\n(NC\x02abtR.", "no plain type"),
        (b"]q\x00h\x00a.", "contains itself"),
        (b"Nr\xff\xff\xff\xff.", "memo index 4294967295"),
        (b"Np4294967295\n.", "memo index 4294967295"),
        (b"c__builtin__\nbytes\n(J\x00\x00\x00\x7ftR.", "damaged pickle"),
        (b"h\x05.", "damaged"),
        (b"", "damaged or truncated"),
        (b"N", "damaged or truncated"),
        (b"\x80\x09N.", "damaged pickle"),
        (b"\x82\x01.", "damaged pickle"),
    ],
)  # fmt: skip
def test_forged_and_damaged_pickles_are_refused(stream, match):
    with pytest.raises(ArchiveError, match=match):
        load_numpy_pickle(stream, "file.npz")


def test_a_forged_object_type_does_not_make_bytes_into_pointers():
    # NumPy's own dtype takes these flags from the file and would treat the eight bytes as a PyObject pointer.
    dtype = b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(K\x03V|\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    with pytest.raises(ArchiveError, match="does not hold the 1 entries"):
        load_numpy_pickle(ARRAY + b"(K\x01(K\x01t" + dtype + b"I00\nC\x08AAAAAAAAtb.", "file.npz")


def test_deep_nesting_is_refused():
    with pytest.raises(ArchiveError, match="too deep"):
        load_numpy_pickle(b"]" * 100_000 + b"a" * 99_999 + b".", "file.npz")


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_truncated_pickle_is_refused(fraction, protocol):
    stream = pickle.dumps({"S1": np.random.default_rng(4).normal(size=(9, 3))}, protocol=protocol)
    with pytest.raises(ArchiveError, match="truncated"):
        load_numpy_pickle(stream[: int(fraction * len(stream))], "file.npz")


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_give_data_or_one_of_our_errors(data):
    value = {"S1": {"W": np.arange(6, dtype=np.float32).reshape(2, 3)}, "o": np.array([None, "a"], object)}
    stream = bytearray(pickle.dumps(value, protocol=data.draw(st.sampled_from([0, 2, 4]))))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    # Any other exception fails the test.
    with contextlib.suppress(RefinerError):
        load_numpy_pickle(bytes(stream), "file.npz")
