"""Odd values in all public calls: the right result, or an error of the library's own. Never a TypeError or a warning
of NumPy's, which pytest turns into errors here.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refiner.errors import InputWarning, NonFiniteError, RefinerError, UsageError
from refiner.runtime import Lifter, Refiner
from refiner.runtime.streaming import Frame, StreamingRefiner
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1000, 1002)


def torch_of(make):
    def convert(values):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        return make(torch.from_numpy(values.copy()))

    return convert


# Other forms of the same numbers, and how exact they are.
FORMS = {
    "read-only": (lambda values: np.broadcast_to(values, values.shape), 0.0),
    "Fortran order": (np.asfortranarray, 0.0),
    "not contiguous": (lambda values: np.repeat(values, 2, axis=0)[::2], 0.0),
    "big-endian": (lambda values: values.astype(">f4"), 0.0),
    "float16": (lambda values: values.astype(np.float16), 1e-3),
    "a long double": (lambda values: values.astype(np.longdouble), 0.0),
    "lists": (lambda values: values.tolist(), 0.0),
    "a list of arrays": (list, 0.0),
    "masked nowhere": (np.ma.array, 0.0),
    "gradients": (torch_of(lambda tensor: tensor.requires_grad_()), 0.0),
    "bfloat16": (torch_of(lambda tensor: tensor.bfloat16()), 1e-2),
    "a list of tensors": (torch_of(lambda tensor: list(tensor.requires_grad_())), 0.0),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_the_same_numbers(form, level_engine, ramp_lifter, clip):
    convert, relative = FORMS[form]
    pose_2d, pose_3d = clip(12)
    refiner, lifter = Refiner(level_engine), Lifter(ramp_lifter)
    given_2d, given_3d = convert(pose_2d), convert(pose_3d)
    found = refiner.refine(given_2d, given_3d, SIZE)
    assert type(found) is np.ndarray and found.dtype == np.float32
    np.testing.assert_allclose(found, refiner.refine(pose_2d, pose_3d, SIZE), atol=relative * 5)
    np.testing.assert_allclose(lifter.lift(given_2d, SIZE), lifter.lift(pose_2d, SIZE), atol=relative * 5)
    live, again = (StreamingRefiner(WindowBackend(level_engine), SIZE) for _ in range(2))
    for index in range(12):
        (ready,) = live.push(given_2d[index], given_3d[index], index / 50)
        (expected,) = again.push(pose_2d[index], pose_3d[index], index / 50)
        np.testing.assert_allclose(ready.pose_3d, expected.pose_3d, atol=relative * 5)
        assert ready.status == expected.status


def test_masked_joints_are_missing(level_engine, ramp_lifter, clip):
    """Under a mask there may be any number; it must not be used."""
    pose_2d, pose_3d = clip(12)
    mask = np.zeros(pose_2d.shape, dtype=bool)
    mask[5, 13] = True
    covered = np.where(mask, 123456.0, pose_2d)
    given_2d = np.ma.array(covered, mask=mask)
    missing = np.where(mask, np.nan, pose_2d)
    lifter, score = Lifter(ramp_lifter), np.ones((12, 17))
    np.testing.assert_array_equal(
        lifter.lift(given_2d, SIZE, confidence=score), lifter.lift(missing, SIZE, confidence=score)
    )
    covered_score = np.ma.array(score, mask=mask[..., 0])
    np.testing.assert_array_equal(
        lifter.lift(pose_2d, SIZE, confidence=covered_score), lifter.lift(missing, SIZE, confidence=score)
    )
    live, again = (StreamingRefiner(WindowBackend(level_engine), SIZE) for _ in range(2))
    for index in range(12):
        (ready,) = live.push(given_2d[index], pose_3d[index], index / 50)
        (expected,) = again.push(missing[index], pose_3d[index], index / 50)
        np.testing.assert_array_equal(ready.pose_3d, expected.pose_3d)
        np.testing.assert_array_equal(ready.infilled, expected.infilled)
        assert ready.infilled[13] == (index == 5)
    with pytest.raises(NonFiniteError, match="frame 5"):
        Refiner(level_engine).refine(pose_2d, np.ma.array(pose_3d, mask=np.repeat(mask[..., :1], 3, axis=-1)), SIZE)


ODD_ARRAYS = [
    None,
    0,
    1.5,
    "poses",
    b"poses",
    [],
    [[]],
    [[[]]],
    {},
    {1: 2},
    object(),
    iter([1.0]),
    [None] * 12,
    [[10**400] * 2] * 17,
    np.zeros((12, 17, 0)),
    np.zeros((0, 17, 2)),
    np.zeros((12, 0, 2)),
    np.full((12, 17, 2), 10**400, object),
    np.full((12, 17, 2), 1e300),
    np.full((12, 17, 3), -1e300),
    np.full((12, 17, 2), np.finfo(np.longdouble).max),
    np.full((12, 17, 2), np.nan),
    np.full((12, 17, 2), np.inf),
    np.full((12, 17, 3), np.inf, np.float16),
    np.full((12, 17, 2), 2**63, np.uint64),
    np.full((12, 17, 2), 300 + 2j),
    np.full((12, 17, 2), "300"),
    np.full((12, 17, 2), True),
    np.full((12, 17, 2), 300, "m8[s]"),
    np.zeros((12, 17), "f4,f4"),
    np.ma.masked_all((12, 17, 2)),
    np.ma.masked_all((12, 17, 3)),
]
ODD_NUMBERS = [
    None, 0, -1, 1.9, True, np.nan, np.inf, 10**400, -(10**400), 10**5000, 1e300, "2", "", b"2", [], [1], {}, 2j,
    np.array([25, 25]), np.ma.masked, object(), (1000, 10**400), ("1000", "1002"), (True, True), (1000, 1002j),
    (1000, None), np.array([1000, 1002], object),
]  # fmt: skip

TIMES = ["least_confidence", "longest_gap_s", "forget_s"]
STREAM_OPTIONS = ["image_size", "joints", *TIMES, "pool_shape", "smoothing", "focal_length", "camera"]
# The stand-ins for engines keep nothing from one example to the next.
FIXTURES = [HealthCheck.function_scoped_fixture]


def outcome(call):
    """The errors of a call, which must be the library's own; warnings of the library's own are no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        try:
            found = call()
        except RefinerError:
            return None
    return found


@pytest.mark.parametrize("index", range(len(ODD_ARRAYS)))
def test_odd_arrays_everywhere(index, level_engine, ramp_lifter, clip):
    odd = ODD_ARRAYS[index]
    pose_2d, pose_3d = clip(12)
    refiner, lifter = Refiner(level_engine), Lifter(ramp_lifter)
    score = np.ones((12, 17))
    calls = [
        lambda: refiner.refine(odd, pose_3d, SIZE),
        lambda: refiner.refine(pose_2d, odd, SIZE),
        lambda: refiner.refine(odd, pose_3d, SIZE, confidence=score),
        lambda: refiner.refine(pose_2d, pose_3d, SIZE, confidence=odd),
        lambda: lifter.lift(odd, SIZE),
        lambda: lifter.lift(pose_2d, odd),
        lambda: lifter.lift(pose_2d, SIZE, confidence=odd),
        lambda: Refiner(level_engine, pool_shape=odd).refine(pose_2d, pose_3d, SIZE),
    ]
    for call in calls:
        found = outcome(call)
        assert found is None or np.isfinite(found).all()
    live = StreamingRefiner(WindowBackend(level_engine), SIZE)
    for frame in (
        Frame(odd, pose_3d[0], 0.0),
        Frame(pose_2d[0], odd, 0.0),
        Frame(pose_2d[0], pose_3d[0], 0.0, confidence=odd),
        Frame(pose_2d[0], pose_3d[0], 0.0, image_size=odd),
        Frame(pose_2d[0], pose_3d[0], 0.0, focal_length=odd),
        Frame(pose_2d[0], pose_3d[0], odd),
        Frame(pose_2d[0], pose_3d[0], 0.0, person_id=odd),
    ):
        outcome(lambda frame=frame: live.push_many([frame]))


numbers = st.one_of(
    st.sampled_from(ODD_NUMBERS), st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.complex_numbers()
)


@settings(max_examples=300, deadline=None, suppress_health_check=FIXTURES)
@given(
    name=st.sampled_from(["image_size", "fps", "joints", "focal_length", "camera", "action", "confidence"]),
    value=numbers,
)
def test_odd_arguments_of_refine_and_lift(name, value, ramp_engine, ramp_lifter, clip):
    pose_2d, pose_3d = clip(12)
    options = {"image_size": SIZE} | {name: value}
    found = [outcome(lambda: Lifter(ramp_lifter).lift(pose_2d, **options))]
    if name != "action":
        found.append(outcome(lambda: Refiner(ramp_engine).refine(pose_2d, pose_3d, **options)))
    assert all(poses is None or (poses.shape == pose_3d.shape and np.isfinite(poses).all()) for poses in found)


@settings(max_examples=300, deadline=None, suppress_health_check=FIXTURES)
@given(
    name=st.sampled_from(["hop", "batch", "flip_test", "smoothing", "pool_shape", "live", "look_ahead"]), value=numbers
)
def test_odd_options_of_models(name, value, ramp_engine, ramp_lifter):
    outcome(lambda: Refiner(ramp_engine, **{name: value}) if name not in ("live", "look_ahead") else None)
    outcome(lambda: Lifter(ramp_lifter, **{name: value}) if name in ("hop", "batch", "flip_test", "live") else 0)
    outcome(lambda: WindowBackend(ramp_engine, **{name: value}) if name in ("hop", "look_ahead") else 0)


@settings(max_examples=200, deadline=None, suppress_health_check=FIXTURES)
@given(
    name=st.sampled_from(
        [
            "image_size",
            "joints",
            "least_confidence",
            "longest_gap_s",
            "forget_s",
            "pool_shape",
            "smoothing",
            "focal_length",
            "camera",
        ]
    ),
    value=numbers,
)
def test_odd_options_of_streams(name, value, ramp_engine):
    outcome(lambda: StreamingRefiner(WindowBackend(ramp_engine), **({"image_size": SIZE} | {name: value})))


@pytest.mark.parametrize("load", [Refiner.load, Lifter.load, StreamingRefiner.load])
@pytest.mark.parametrize(
    "options",
    [
        {"path": 5},
        {"path": b"refiner"},
        {"path": ["refiner"]},
        {"path": "a\0b"},
        {"threads": 0},
        {"threads": 10**6},
        {"threads": -1},
        {"threads": 1.5},
        {"threads": True},
        {"threads": "2"},
        {"threads": np.nan},
        {"threads": 10**400},
        {"engine": 3},
        {"device": ["cpu"]},
    ],
    ids=lambda options: "-".join(f"{name} {type(value).__name__}" for name, value in options.items()),
)
def test_odd_options_of_load(load, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        load(**options)


@pytest.mark.parametrize("steps", [1.9, True, 0, -1, "2", 10**400, np.nan, [2]], ids=lambda steps: type(steps).__name__)
def test_odd_numbers_of_steps(steps):
    for load in (Refiner.load, StreamingRefiner.load):
        with pytest.raises(UsageError, match="steps is"):
            load(steps=steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": 1.5}, "people is 1.5"),
        ({"people": True}, "people is True"),
        ({"people": 10**400}, "people is 1000"),
        ({"mode": ["window"]}, "no mode"),
        ({"pipelined": "yes"}, "pipelined is 'yes'"),
        ({"mode": "window", "hop": 1.5}, "hop, in a window of"),
        ({"mode": "window", "hop": "2"}, "hop, in a window of"),
        ({"mode": "window", "look_ahead": np.nan}, "look_ahead, beside a hop of 1, is nan"),
    ],
)
def test_odd_options_of_streams_when_loaded(options, message):
    with pytest.raises(UsageError, match=message):
        StreamingRefiner.load(**options)
