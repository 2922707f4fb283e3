"""Every kind of bad input: one error class each, naming what was found and what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.data.inputs import check_fps, check_image_size, check_pose_2d, check_pose_3d
from refiner.errors import (
    DTypeError,
    EmptySequenceError,
    InputError,
    JointCountError,
    LengthError,
    NonFiniteError,
    ShapeError,
    SwappedInputError,
    UnitError,
    UsageError,
)
from refiner.runtime import Lifter, Refiner
from refiner.skeleton import COCO17, H36M17

SIZE = (1000, 1002)


def changed(array, index, value):
    copy = array.copy()
    copy[index] = value
    return copy


BAD = {
    "one frame": (lambda p, q: (p[0], q[0]), ShapeError, ["(17, 2)", "expected (frames, 17, 2)", "pose[None]"]),
    "several people": (lambda p, q: (p[None], q[None]), ShapeError, ["(1, 12, 17, 2)", "one person"]),
    "four coordinates": (lambda p, q: (p, np.repeat(q, 2, -1)[..., :4]), ShapeError, ["(12, 17, 4)", "17, 3)"]),
    "swapped": (lambda p, q: (q, p), SwappedInputError, ["pose_2d", "swapped with pose_3d", "confidence"]),
    "2D twice": (lambda p, q: (p, p), SwappedInputError, ["pose_3d", "swapped with pose_2d"]),
    "16 joints": (lambda p, q: (p[:, :16], q[:, :16]), JointCountError, ["16 joints", "h36m17 has 17"]),
    "32 joints": (lambda p, q: (p, np.repeat(q, 2, 1)[:, :32]), JointCountError, ["pose_3d has 32 joints"]),
    "NaN": (lambda p, q: (p, changed(q, (7, 3, 1), np.nan)), NonFiniteError, ["1 of 12", "frame 7"]),
    "infinite": (lambda p, q: (p, changed(q, (5, 0, 0), np.inf)), NonFiniteError, ["pose_3d", "frame 5"]),
    "millimetres": (lambda p, q: (p, q * 1000), UnitError, ["expected metres", "divide by 1000"]),
    "centimetres": (lambda p, q: (p, q * 100), UnitError, ["expected metres", "divide by 100"]),
    "kilometres": (lambda p, q: (p, q / 1000), UnitError, ["expected metres"]),
    "root in millimetres": (lambda p, q: (p, q + np.array([0, 0, 4000])), UnitError, ["4,00", "1,000 m"]),
    "a jump": (lambda p, q: (p, changed(q, (4, 2), 300)), UnitError, ["frame 4", "median frame"]),
    "overflow": (lambda p, q: (p, changed(q, 3, 3e38)), UnitError, ["pose_3d"]),
    "normalised": (lambda p, q: (p / 500 - 1, q), UnitError, ["normalised", "1000 x 1002 pixels"]),
    "larger image": (lambda p, q: (p * 100, q), UnitError, ["check image_size"]),
    "no frames": (lambda p, q: (p[:0], q[:0]), EmptySequenceError, ["(0, 17, 2)", "at least one frame"]),
    "an empty list": (lambda p, q: ([], []), EmptySequenceError, ["no frames"]),
    "lengths": (lambda p, q: (p, q[:-1]), LengthError, ["12 frames", "11"]),
    "text": (lambda p, q: (p.astype(str), q), DTypeError, ["expected real numbers"]),
    "objects": (lambda p, q: (p, q.astype(object)), DTypeError, ["object", "expected real numbers"]),
    "complex": (lambda p, q: (p, q + 0j), DTypeError, ["complex"]),
    "ragged": (lambda p, q: ([[1, 2], [3]], q), ShapeError, ["pose_2d", "expected (frames, 17, 2)"]),
    "nothing": (lambda p, q: (None, q), DTypeError, ["pose_2d", "object"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(case, ramp_engine, clip):
    change, error, texts = BAD[case]
    pose_2d, pose_3d = change(*clip(12))
    with pytest.raises(InputError) as caught:
        Refiner(ramp_engine).refine(pose_2d, pose_3d, image_size=SIZE)
    assert type(caught.value) is error
    for text in texts:
        assert text in str(caught.value)
    assert ramp_engine.batches == []  # refused before the model ran


@pytest.mark.parametrize(
    "size", [(1000,), 1000, (1000, 1002, 3), (0, 1002), (-1, 5), (1.0, 1.0), "big", None, (np.nan, 9)]
)
def test_image_sizes(size, ramp_engine, ramp_lifter, clip):
    pose_2d, pose_3d = clip(3)
    with pytest.raises(InputError, match=r"image_size is .*expected \(width, height\)"):
        Refiner(ramp_engine).refine(pose_2d, pose_3d, image_size=size)
    with pytest.raises(InputError, match="image_size"):
        Lifter(ramp_lifter).lift(pose_2d, image_size=size)


@pytest.mark.parametrize("fps", [0, -25, np.nan, np.inf, 1e9, 1e-3, "fast"])
def test_frame_rates(fps, ramp_engine, clip):
    with pytest.raises(UsageError, match="frames per second"):
        Refiner(ramp_engine).refine(*clip(3), image_size=SIZE, fps=fps)


def test_an_unknown_joint_set(ramp_engine, clip):
    with pytest.raises(UsageError, match="coco17"):
        Refiner(ramp_engine).refine(*clip(3), image_size=SIZE, joints="coco")


def test_what_is_accepted():
    assert check_image_size(np.array([1920, 1080])) == (1920.0, 1080.0)
    assert check_fps(None, 50.0) == 50.0 and check_fps(np.float32(30), 50.0) == 30.0
    rng = np.random.default_rng(1)
    pose = rng.normal(0, 0.4, (4, 17, 3))
    for dtype in (np.float16, np.float32, np.float64, np.longdouble, ">f4"):
        given = pose.astype(dtype)
        kept = given.copy()
        checked = check_pose_3d(given, H36M17)
        assert checked.dtype == np.float32 and checked.dtype.isnative
        np.testing.assert_allclose(checked, pose, atol=1e-3)
        checked += 1
        np.testing.assert_array_equal(given, kept)
    pixels = rng.integers(100, 900, (4, 17, 2))
    for given in (pixels, pixels.astype(np.uint16), pixels[::-1], np.asfortranarray(pixels), pixels.tolist()):
        np.testing.assert_array_equal(check_pose_2d(given, (1000, 1000), COCO17), np.asarray(given))


def test_tensors_are_taken():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pose = torch.randn(4, 17, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    np.testing.assert_array_equal(check_pose_3d(pose, H36M17), pose.detach().numpy())


def test_single_joints_outside_of_the_image_do_not_hide_shares_of_it(ramp_engine, clip):
    pose_2d, pose_3d = clip(30)
    shares = pose_2d / 1000
    shares[:, 3] = 2.3
    with pytest.raises(UnitError, match="shares of the image"):
        Refiner(ramp_engine).refine(shares, pose_3d, image_size=(1000, 1002))
