"""Arrays of other libraries: read in place, and results where they belong."""

from __future__ import annotations

import numpy as np
import pytest

from refiner import native
from refiner.errors import DTypeError, InputError, ShapeError

RNG = np.random.default_rng(19)


class Foreign:
    """An array of a library that this one knows nothing of, but its DLPack."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device, self.shape, self.read = array, device, array.shape, 0

    def __dlpack__(self, **options):
        self.read += 1
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def poses(count=6):
    return RNG.normal(size=(2, count, 17, 3)).astype(np.float32)


def test_foreign_arrays_are_read_in_place():
    pred, target = poses()
    foreign = Foreign(pred)
    read = native._array(foreign)
    assert read.ctypes.data == pred.ctypes.data and foreign.read == 1
    np.testing.assert_array_equal(native.p_mpjpe(foreign, Foreign(target)), native.p_mpjpe(pred, target))


def test_tensors_are_read_and_written_in_place():
    torch = pytest.importorskip("torch")
    pred, target = map(torch.from_numpy, poses())
    assert native._array(pred).ctypes.data == pred.data_ptr()
    error = torch.empty(6)
    assert native.p_mpjpe(pred, target, out=error) is error
    np.testing.assert_array_equal(error.numpy(), native.p_mpjpe(pred.numpy(), target.numpy()))
    needs_gradient = pred.clone().requires_grad_()
    torch.testing.assert_close(native.p_mpjpe(needs_gradient, target), error)


def test_other_devices_are_not_mixed_in():
    pred, target = poses()
    with pytest.raises(DTypeError, match="Foreign on a device among arrays on the CPU"):
        native.p_mpjpe(Foreign(pred, device=(10, 0)), target)


def gaussian(size=51, inputs=85):
    return {
        "mean_error": RNG.normal(size=size).astype(np.float32),
        "mean_condition": RNG.normal(size=inputs).astype(np.float32),
        "gain": RNG.normal(size=(size, inputs)).astype(np.float32),
        "cholesky": np.tril(RNG.normal(size=(size, size))).astype(np.float32),
    }


def test_samples_go_where_they_are_told():
    condition, g = RNG.normal(size=(40, 85)).astype(np.float32), gaussian()
    out = np.full((40, 51), np.nan, np.float32)
    assert native.sample_conditional(condition, **g, seed=4, out=out) is out
    np.testing.assert_array_equal(out, native.sample_conditional(condition, **g, seed=4))
    with pytest.raises(ShapeError, match="out has shape"):
        native.sample_conditional(condition, **g, out=np.empty((39, 51), np.float32))
    square = {**gaussian(85, 85)}
    with pytest.raises(InputError, match="overlaps"):
        native.sample_conditional(condition, **square, out=condition)


def test_the_draws_of_all_layouts_agree_with_the_formula():
    """Sizes around the tiles of the vector code, in float64."""
    for size, inputs, frames in (
        (1, 1, 1),
        (31, 5, 13),
        (32, 33, 12),
        (33, 2, 25),
        (64, 7, 5),
        (65, 90, 97),
        (130, 1, 3),
    ):
        condition, g = RNG.normal(size=(frames, inputs)).astype(np.float32), gaussian(size, inputs)
        normal = native.philox_normal(9, 5, frames, size)
        expected = (
            g["mean_error"].astype(np.float64)
            + (condition.astype(np.float64) - g["mean_condition"]) @ g["gain"].T.astype(np.float64)
            + normal.astype(np.float64) @ g["cholesky"].T
        )
        found = native.sample_conditional(condition, **g, seed=9, first_frame=5)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
