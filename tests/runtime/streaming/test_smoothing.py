"""The filter behind a refiner."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import SmoothingEngine, motion, stream

from refiner import StreamingRefiner
from refiner.errors import ConfigError
from refiner.runtime.streaming.smoothing import OneEuro, Smoothing
from refiner.runtime.streaming.window_backend import WindowBackend

SIZE = (1000.0, 1000.0)


def by_hand(poses, fps, min_cutoff, beta, speed_cutoff):
    """The filter's definition, coordinate by coordinate."""
    answers = np.array(poses, dtype=np.float64)
    for place in np.ndindex(*poses.shape[1:]):
        filtered, speed = float(poses[(0, *place)]), 0.0
        for frame in range(1, len(poses)):
            value = float(poses[(frame, *place)])
            smooth = 1 / (1 + fps / (2 * np.pi * speed_cutoff))
            speed = (1 - smooth) * speed + smooth * (value - filtered) * fps
            gain = 1 / (1 + fps / (2 * np.pi * (min_cutoff + beta * abs(speed))))
            filtered = (1 - gain) * filtered + gain * value
            answers[(frame, *place)] = filtered
    return answers


def loaded(**options):
    return StreamingRefiner(WindowBackend(SmoothingEngine(), 1, 0, 1), SIZE, **options)


def test_it_is_the_filter_of_its_definition():
    _, poses = motion(40, seed=5)
    settings = Smoothing(min_cutoff=1.5, beta=7.0, speed_cutoff=0.8)
    smoother = OneEuro(settings, fps=50.0)
    found = np.stack([smoother.apply(pose) for pose in poses])
    np.testing.assert_allclose(found, by_hand(poses, 50.0, 1.5, 7.0, 0.8), rtol=0, atol=1e-6)
    assert np.abs(found - poses).max() > 1e-3
    smoother.reset()
    np.testing.assert_array_equal(smoother.apply(poses[7]), poses[7])


def test_a_stream_smooths_what_its_refiner_gives_and_moves_no_root():
    pixels, poses = motion(60, seed=6)
    plain = stream(loaded(), pixels, poses)
    smooth = stream(loaded(smoothing=Smoothing(1.0, 2.0)), pixels, poses)
    root = poses[:, :1]
    bodies = np.stack([frame.pose_3d for frame in plain]) - root
    expected = by_hand(bodies, 50.0, 1.0, 2.0, 1.0)
    np.testing.assert_allclose(np.stack([frame.pose_3d for frame in smooth]) - root, expected, rtol=0, atol=2e-6)
    # How sure the model is does not depend on what is done to its answer.
    np.testing.assert_array_equal([frame.std for frame in plain], [frame.std for frame in smooth])


def test_a_gap_begins_anew():
    pixels, poses = motion(30, seed=7)
    refiner = loaded(smoothing=True)
    before = stream(refiner, pixels, poses)
    again = [frame for index in range(30) for frame in refiner.push(pixels[index], poses[index], 9.0 + index / 50.0)]
    for first, second in zip(before[:29], again, strict=False):
        np.testing.assert_array_equal(first.pose_3d, second.pose_3d)


def test_one_body_shape_does_not_change_how_sure_a_stream_is():
    pixels, poses = motion(40, seed=8)
    plain, shaped = (stream(loaded(pool_shape=pooled), pixels, poses) for pooled in (False, True))
    assert np.abs(plain[-1].pose_3d - shaped[-1].pose_3d).max() > 1e-3
    np.testing.assert_array_equal([frame.std for frame in plain], [frame.std for frame in shaped])


@pytest.mark.parametrize("values", [{"min_cutoff": 0.0}, {"beta": -1.0}, {"speed_cutoff": float("nan")}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(ConfigError, match="above 0"):
        Smoothing(**values)
