"""Every way in which a frame differs from a plain one has a reason, and "ok" means that all was well."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from stand_ins import WINDOW, SmoothingEngine

from refiner import StreamingRefiner
from refiner.camera import human36m_cameras
from refiner.data import DetectorModel, camera_clips
from refiner.data.synthetic import synthetic_motion
from refiner.errors import InputWarning, JointOrderError
from refiner.reasons import REASONS, STATUSES, status_of
from refiner.runtime.streaming.window_backend import WindowBackend
from refiner.skeleton import from_h36m17

FRAMES = 120


def recording(action="Walking"):
    """2D and 3D of a synthetic person with errors of 4 cm, and the size of the image."""
    motion = {action: synthetic_motion(3, action, FRAMES)}
    clip = camera_clips({"SYN": motion}, human36m_cameras(), detector=DetectorModel.default())[1]
    rng = np.random.default_rng(5)
    body = clip.pose_3d.astype(np.float64) + rng.normal(0, 0.025, (1, 17, 3))
    return clip.pose_2d.astype(np.float64), body + np.array([0.2, 0.1, 4.0]), clip.image_size


def make(size, **options):
    return StreamingRefiner(WindowBackend(SmoothingEngine()), size, **options)


def pushed(live, pixels, body, begin=0, end=FRAMES):
    return [frame for index in range(begin, end) for frame in live.push(pixels[index], body[index], index / 50)]


MISTAKES = {
    "axes": [
        lambda body: body * [1, -1, 1],
        lambda body: np.stack([body[..., 0], body[..., 2], -body[..., 1]], axis=-1),
    ],
    "mirrored": [lambda body: body * [-1, 1, 1]],
    "scale": [lambda body: 0.45 * body, lambda body: 2.0 * body],
    "unusual size": [lambda body: 0.65 * body],
    "frames shifted": [lambda body: np.roll(body, 9, axis=0)],
}


@pytest.mark.parametrize(
    ("reason", "index"), [(name, i) for name, all_of in MISTAKES.items() for i in range(len(all_of))]
)
def test_a_mistake_is_named_as_long_as_it_lasts(reason, index):
    action = "Dancing" if reason == "frames shifted" else "Walking"
    pixels, body, size = recording(action)
    wrong = MISTAKES[reason][index](body)
    live = make(size)
    with pytest.warns(InputWarning) as warned:
        found = pushed(live, pixels, wrong)
    assert len(warned) == 1
    # A shift is found where the motion shows it. The verdict comes two frames after the comparison.
    last = found[-18:]
    assert all(frame.status == "degraded" and reason in frame.reasons for frame in last)
    assert not any(frame.status == "ok" for frame in found) or reason == "frames shifted"
    # It is put right: the stream is well again once most of the frames that count are right.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # what is half wrong may look like another mistake
        again = [frame for i in range(FRAMES) for frame in live.push(pixels[i], body[i], (FRAMES + i) / 50)]
    assert again[-1].status == "ok" and reason not in again[-1].reasons


def test_right_poses_have_no_such_reason():
    for action in ("Walking", "Dancing", "Boxing", "SittingDown"):
        pixels, body, size = recording(action)
        found = pushed(make(size), pixels, body)
        assert {frame.status for frame in found} == {"warm-up", "ok"}
        assert {reason for frame in found for reason in frame.reasons} == {"warm-up", "spread assumed"}


def test_another_joint_order_is_refused_frame_by_frame():
    pixels, body, size = recording()
    coco = from_h36m17(pixels, "coco17")
    live, right = make(size, joints="coco17"), make(size, joints="coco17", joints_3d="h36m17")
    for index in range(30):
        with pytest.raises(JointOrderError, match='joints_3d="h36m17"'):
            live.push(coco[index], body[index], index / 50)
        assert right.push(coco[index], body[index], index / 50)[0].status in ("warm-up", "ok")
    assert live.counters.frames == 0


def only(reasons):
    return [set(frame) - {"spread assumed"} for frame in reasons]


CHANGES = {
    "guessed joints": lambda pixels, body, times: pixels.__setitem__((60, [3, 13]), np.nan),
    "small in the image": lambda pixels, body, times: pixels.__imul__(0.01).__iadd__(400),
    "outside the image": lambda pixels, body, times: pixels.__iadd__([1500.0, 0.0]),
    "resampled": lambda pixels, body, times: times.__imul__(50 / 30),
    "uneven time-stamps": lambda pixels, body, times: times.__iadd__(np.random.default_rng(0).normal(0, 0.004, FRAMES)),
    "gap": lambda pixels, body, times: times[60:].__iadd__(0.1),
    "missed frame": lambda pixels, body, times: times[60:].__iadd__(0.02),
    "began anew": lambda pixels, body, times: times[60:].__iadd__(3.0),
    "too few joints": lambda pixels, body, times: pixels.__setitem__((60, slice(5, 17)), np.nan),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_whatever_is_done_to_a_frame_has_a_reason(reason):
    pixels, body, size = recording()
    times = np.arange(FRAMES) / 50
    pixels, times = pixels.copy(), times.copy()
    CHANGES[reason](pixels, body, times)
    live = make(size)
    found = [frame for row in zip(pixels, body, times, strict=True) for frame in live.push(*row)]
    reasons = only(frame.reasons for frame in found)
    assert any(reason in frame for frame in reasons[55:])
    for frame in found:
        assert frame.status == status_of(frame.reasons)
        assert list(frame.reasons) == [name for name in REASONS if name in frame.reasons]
        if frame.infilled.any():
            assert frame.status in ("degraded", "invalid")
    worst = max((frame.status for frame in found[55:]), key=STATUSES.index)
    expected = REASONS[reason].status
    assert worst == expected or (expected == "warm-up" and worst == "warm-up")


def test_reasons_of_the_stream_itself():
    pixels, body, size = recording()
    live = make(size)
    first = pushed(live, pixels, body, 0, WINDOW)
    assert all("warm-up" in frame.reasons for frame in first[:-1])
    (renumbered,) = live.push(pixels[WINDOW], body[WINDOW], WINDOW / 50, person_id=5)
    assert "renumbered" in renumbered.reasons and renumbered.person_id == 5
    (after,) = live.push(pixels[WINDOW + 1], body[WINDOW + 1], (WINDOW + 1) / 50, person_id=5)
    assert "renumbered" not in after.reasons
