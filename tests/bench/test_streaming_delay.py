"""Error against delay: the quick way to what a stream gives equals the stream; filters know no more than they may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from refiner_bench.accuracy.filters import ONE_EURO_GRID, one_euro
from refiner_bench.streaming.delay import (
    FilterTuning,
    delayed_one_euro,
    delayed_savitzky_golay,
    window_streams,
    with_running_shape,
)

from refiner import StreamingRefiner
from refiner.data.synthetic import synthetic_folder
from refiner.runtime.engine import ModelDefaults
from refiner.runtime.streaming.window_backend import WindowBackend
from refiner.shape import pool_shape


class MixingEngine(ModelDefaults):
    """Stands for a refiner: the frames of a window mixed by their place."""

    fps, least_batch, largest_batch, frames, inputs = 50.0, 1, 2**31 - 1, 9, None
    rays = False

    def __init__(self):
        self.mixing = np.random.default_rng(3).dirichlet(np.ones(9), 9).astype(np.float32)

    def __call__(self, pose_2d, pose_3d, image_size):
        place = (pose_2d / image_size[:, None, None]).mean(axis=(2, 3))[..., None, None]
        mixed = np.einsum("tf,bfjc->btjc", self.mixing, pose_3d) + 0.01 * place
        mixed[:, :, 0] = 0.0
        return mixed.astype(np.float32)


@pytest.fixture(scope="module")
def clip():
    return synthetic_folder(3, subjects=3, frames=60, actions=("Walking",)).clips("test")[0]


@pytest.mark.parametrize("frames", [60, 5])
def test_all_look_aheads_at_once_are_the_streams(clip, frames):
    engine = MixingEngine()
    rng = np.random.default_rng(1)
    lifted = (clip.pose_3d[:frames] + rng.normal(0, 0.03, (frames, 17, 3))).astype(np.float32)
    lifted -= lifted[:, :1]
    short = replace(clip, pose_2d=clip.pose_2d[:frames], pose_3d=clip.pose_3d[:frames])
    for look_ahead, pose in window_streams(engine, short, lifted, (0, 1, 4, 8)).items():
        live = StreamingRefiner(WindowBackend(engine, 1, look_ahead), clip.image_size)
        found = [f for i in range(frames) for f in live.push(clip.pose_2d[i], lifted[i], i / 50)]
        # A stream that ends before a window is full is padded behind; the table has no such clips.
        known = len(found) if frames < 9 else frames
        found += live.flush()
        np.testing.assert_allclose(pose[:known], np.stack([frame.pose_3d for frame in found])[:known], atol=1e-5)


@pytest.mark.parametrize("delay", [0, 3])
def test_filters_know_the_frames_up_to_their_delay(delay):
    rng = np.random.default_rng(2)
    pose = rng.normal(0, 0.3, (40, 17, 3)).cumsum(axis=0)
    for stream in (delayed_one_euro(delay, min_cutoff=1.0, beta=0.5), delayed_savitzky_golay(delay, 9, 2)):
        whole = stream(pose, 50.0)
        assert whole.shape == pose.shape
        for last in (20, 30):
            np.testing.assert_allclose(stream(pose[: last + 1], 50.0)[last - delay], whole[last - delay], atol=1e-9)


def test_savitzky_golay_is_the_polynomial_through_its_window():
    rng = np.random.default_rng(4)
    pose = rng.normal(0, 0.3, (30, 2, 3))
    found = delayed_savitzky_golay(2, 7, 2)(pose, 50.0)
    for frame in (10, 17):
        times = np.arange(frame + 2 - 6, frame + 3)
        for joint, axis in ((0, 0), (1, 2)):
            line = np.polynomial.Polynomial.fit(times, pose[times, joint, axis], 2)
            assert found[frame, joint, axis] == pytest.approx(line(frame), abs=1e-9)


def test_filters_are_tuned_where_they_are_told():
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 0.01, (300, 17, 3)).cumsum(axis=0)
    noisy = truth + rng.normal(0, 0.05, truth.shape)
    found = FilterTuning([(noisy, truth, 50.0)]).tune(4)
    for stream, settings in found.values():
        error = np.linalg.norm(stream(noisy, 50.0) - truth, axis=-1).mean()
        assert error < 0.6 * np.linalg.norm(noisy - truth, axis=-1).mean() and len(settings) >= 2
    assert found["One-Euro"][1]["shift"] in (0, 1, 2, 4)
    assert found["Savitzky-Golay"][1]["window"] > 4


def test_a_running_shape_comes_to_the_clips(clip):
    rng = np.random.default_rng(6)
    pose = np.tile(clip.pose_3d - clip.pose_3d[:, :1], (8, 1, 1)) + rng.normal(0, 0.01, (480, 17, 3))
    shaped, pooled = with_running_shape(pose), pool_shape(pose)
    assert np.abs(shaped[-50:] - pooled[-50:]).max() < 0.003  # bins of a millimetre, frames so far
    assert np.abs(shaped[:2] - pooled[:2]).max() < 0.2


def test_the_calmest_filter_is_chosen_among_those_that_cost_little():
    rng = np.random.default_rng(4)
    truth = 0.02 * rng.normal(size=(300, 17, 3)).cumsum(axis=0)
    noisy = truth + 0.01 * rng.normal(size=truth.shape)
    stream, chosen = FilterTuning([(noisy, truth, 50.0)]).calmest_one_euro()

    def position(pose):
        return np.linalg.norm(pose - truth, axis=-1).mean()

    def change(pose):
        return np.linalg.norm(np.diff(pose - truth, 2, 0), axis=-1).mean()

    limit = 1.005 * position(noisy)
    every = [one_euro(noisy, 50.0, a, b) for a in ONE_EURO_GRID["min_cutoff"] for b in ONE_EURO_GRID["beta"]]
    allowed = [pose for pose in every if position(pose) <= limit]
    assert 0 < len(allowed) < len(every)
    assert change(stream(noisy, 50.0)) == pytest.approx(min(change(pose) for pose in allowed))
    assert set(chosen) == {"min_cutoff", "beta"}
    # Where every filter costs more, the one that costs least.
    still, _ = FilterTuning([(truth, truth, 50.0)]).calmest_one_euro()
    assert position(still(truth, 50.0)) == pytest.approx(
        min(position(one_euro(truth, 50.0, a, b)) for a in ONE_EURO_GRID["min_cutoff"] for b in ONE_EURO_GRID["beta"])
    )
