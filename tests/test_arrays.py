"""Arrays of other libraries and of odd kinds: the right numbers, or an error of the library's own."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.arrays import as_array, as_numbers
from refiner.errors import DTypeError, InputError, ShapeError

VALUES = np.arange(12.0).reshape(2, 3, 2)


def masked(values, index=(1, 2, 0)):
    mask = np.zeros(values.shape, dtype=bool)
    mask[index] = True
    return np.ma.array(values, mask=mask)


EXACT = {
    "an array": VALUES,
    "read-only": np.broadcast_to(VALUES, VALUES.shape),
    "Fortran order": np.asfortranarray(VALUES),
    "reversed": VALUES[::-1][::-1],
    "big-endian": VALUES.astype(">f8"),
    "float16": VALUES.astype(np.float16),
    "a long double": VALUES.astype(np.longdouble),
    "integers": VALUES.astype(np.uint8),
    "lists": VALUES.tolist(),
    "tuples of arrays": tuple(VALUES),
    "no mask": np.ma.array(VALUES),
}


@pytest.mark.parametrize("case", EXACT)
def test_what_is_read(case):
    found = as_array(EXACT[case], "pose_2d", "expected (2, 3, 2)")
    np.testing.assert_array_equal(found, VALUES)
    assert type(found) is np.ndarray and found.dtype.itemsize <= 8
    assert as_numbers(EXACT[case], "pose_2d", "").dtype == np.float64


def test_tensors_are_read():
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(VALUES).float()
    cases = {
        "gradients": tensor.clone().requires_grad_(),
        "a result with gradients": tensor.clone().requires_grad_() * 1,
        "bfloat16": tensor.bfloat16(),
        "half": tensor.half(),
        "float8": tensor.to(torch.float8_e4m3fn),
        "not contiguous": tensor.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "in lists": [part.requires_grad_() for part in tensor.clone()],
        "single numbers in lists": [[list(joint) for joint in frame] for frame in tensor.bfloat16()],
        "a parameter": torch.nn.Parameter(tensor.clone()),
    }
    for case, value in cases.items():
        found = as_array(value, "pose_2d", "")
        assert isinstance(found, np.ndarray), case
        np.testing.assert_array_equal(
            found, VALUES.round() if case != "float8" else tensor.to(torch.float8_e4m3fn).float()
        )
    for refused in (tensor.to_sparse(), tensor.to("meta")):
        with pytest.raises(DTypeError, match="pose_2d cannot be read as an array"):
            as_array(refused, "pose_2d", "expected (2, 3, 2)")


@pytest.mark.parametrize("make", [masked, lambda values: list(masked(values)), lambda values: masked(values).tolist()])
def test_masked_entries_are_missing(make):
    """A list of None comes from ``tolist`` of a masked array; it is an array of objects, which callers refuse."""
    found = as_array(make(VALUES), "pose_2d", "")
    if found.dtype == object:
        assert found[1, 2, 0] is None
        return
    expected = VALUES.copy()
    expected[1, 2, 0] = np.nan
    np.testing.assert_array_equal(found, expected)


def test_masked_integers_and_single_entries():
    found = as_array(masked(VALUES.astype(np.int64)), "pose_2d", "")
    assert np.isnan(found[1, 2, 0]) and found.dtype == np.float64
    nested = [[[np.ma.masked, 1.0], [2.0, 3.0]]]
    np.testing.assert_array_equal(as_array(nested, "pose_2d", ""), [[[np.nan, 1.0], [2.0, 3.0]]])
    assert as_array(masked(VALUES.astype(np.float16)), "pose_2d", "").dtype == np.float32


def test_too_large_for_a_double():
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        assert np.isinf(as_array(np.array([np.finfo(np.longdouble).max]), "pose_2d", "")).all()


class Hostile:
    """Raises whatever happens to it."""

    def __array__(self, *_, **__):
        raise KeyError("no array here")


class Deep(list):
    """A list that holds itself."""

    def __init__(self):
        super().__init__()
        self.append(self)


@pytest.mark.parametrize(
    ("value", "error"), [([[1, 2], [3]], ShapeError), (Hostile(), DTypeError), (Deep(), DTypeError)]
)
def test_what_cannot_be_read(value, error):
    with pytest.raises(error, match="pose_2d cannot be read as an array"):
        as_array(value, "pose_2d", "expected (frames, 17, 2)")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1000",
        ["1", "2"],
        [True, False],
        [1, 2j],
        [10**400, 1],
        [None, 1],
        {"w": 1},
        {1, 2},
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("x", "f4")]),
        iter([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number(value):
    with pytest.raises(InputError, match="image_size"):
        as_numbers(value, "image_size", "expected two numbers")
