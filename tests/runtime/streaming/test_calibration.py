"""The cost of a frame is measured for streams of every kind. Its amount is nobody's affair here."""

from __future__ import annotations

import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from stand_ins import OffsetLifter, SmoothingEngine

from refiner import StreamingRefiner
from refiner.errors import InputError
from refiner.runtime.streaming import calibration
from refiner.runtime.streaming.calibration import frame_cost
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1280.0, 720.0)


@pytest.mark.parametrize(
    ("people", "lifted", "size", "options"),
    [(1, False, SIZE, {}), (2, False, None, {"hop": 2, "look_ahead": 3}), (1, True, SIZE, {"look_ahead": 2})],
)
def test_streams_with_delays_people_and_lifters_are_measured(monkeypatch, people, lifted, size, options):
    monkeypatch.setattr(calibration, "PATIENCE_S", 0.02)
    opened = []

    def make():
        lifter = OffsetLifter() if lifted else None
        opened.append(StreamingRefiner(WindowBackend(SmoothingEngine(), slots=people, lifter=lifter, **options), size))
        return opened[-1]

    assert frame_cost(make, people, lifted, size, frames=4) > 0.0
    assert len(opened) == calibration.CLIENTS
    counters = opened[0].counters
    # A stream with a delay may not have come to the last frames when its client leaves.
    assert 0 < counters.frames <= 12 * people and counters.frames % people == 0
    assert counters.invalid == counters.infilled_joints == counters.restarts == 0


def test_a_stream_that_refuses_the_frames_is_an_error():
    def make():  # it has no lifter
        return StreamingRefiner(WindowBackend(SmoothingEngine()), SIZE)

    with pytest.raises(InputError, match=r"no refined frames.*without pose_3d"):
        frame_cost(make, 1, True, SIZE, frames=2)
