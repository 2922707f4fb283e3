"""The sampler that predicts the clean pose: its numbers, and that a perfect network is found out whatever is drawn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from refiner.diffusion import cosine_schedule
from refiner.diffusion.clean_pose import clean_pose_schedule, draw_noises, sample_clean_pose
from refiner.errors import ConfigError


def test_the_times_of_the_published_sampler():
    assert [step.time for step in clean_pose_schedule(1)] == [999]
    assert [step.time for step in clean_pose_schedule(5)] == [999, 799, 599, 399, 199]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_step_keeps_the_variance(eta):
    abar = cosine_schedule(1000)
    schedule = clean_pose_schedule(10, eta=eta)
    for step, following in pairwise(schedule):
        assert step.next_signal**2 == pytest.approx(abar[following.time])
        assert step.next_old_noise**2 + step.next_new_noise**2 == pytest.approx(1 - abar[following.time])
        assert (step.next_new_noise == 0) == (eta == 0)
    assert schedule[-1][3:] == (1.0, 0.0, 0.0)


def test_the_share_drawn_anew_is_the_posterior_s_for_neighbouring_times():
    """eta = 1 of all 50 steps of 50 is the ancestral sampler: sigma^2 = beta (1 - abar') / (1 - abar)."""
    abar = cosine_schedule(50)
    schedule = clean_pose_schedule(50, abar)
    for step in schedule[:-1]:
        beta = 1 - abar[step.time] / abar[step.time - 1]
        assert step.next_new_noise**2 == pytest.approx(beta * (1 - abar[step.time - 1]) / (1 - abar[step.time]))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_perfect_prediction_comes_out_and_intermediate_poses_are_diffused_ones(steps):
    rng = np.random.default_rng(1)
    truth = rng.uniform(-0.9, 0.9, (3, 200, 17, 3))
    seen = []

    def perfect(noisy, time):
        seen.append((noisy, time))
        return truth

    noises = rng.standard_normal((steps, *truth.shape))
    np.testing.assert_array_equal(sample_clean_pose(perfect, noises, clean_pose_schedule(steps)), truth)
    assert all(np.abs(noisy).max() <= 1.1 for noisy, _ in seen)
    # Without the limit: sqrt(abar) y0 + sqrt(1 - abar) times a standard normal number.
    unlimited = []
    sample_clean_pose(
        lambda noisy, time: unlimited.append((noisy, time)) or truth, noises, clean_pose_schedule(steps), 99
    )
    abar = cosine_schedule(1000)
    for noisy, time in unlimited:
        rest = (noisy - np.sqrt(abar[time]) * truth) / np.sqrt(1 - abar[time])
        assert abs(rest.mean()) < 0.02 and abs(rest.std() - 1) < 0.02


def test_what_the_network_says_is_kept_within_the_limit():
    noises = np.random.default_rng(0).standard_normal((2, 1, 3, 17, 3))
    found = sample_clean_pose(lambda noisy, time: 5.0 * noisy, noises, clean_pose_schedule(2))
    assert np.abs(found).max() == 1.1


def test_noise_follows_from_its_seed():
    first = draw_noises(2, 3, 9, seed=4)
    assert first.shape == (2, 3, 9, 17, 3) and first.dtype == np.float32
    np.testing.assert_array_equal(first, draw_noises(2, 3, 9, seed=4))
    assert not np.array_equal(first, draw_noises(2, 3, 9, seed=5))


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="eta"):
        clean_pose_schedule(2, eta=-0.1)
    with pytest.raises(ConfigError, match="2 steps take as many draws of noise, got 3"):
        sample_clean_pose(lambda noisy, time: noisy, np.zeros((3, 1)), clean_pose_schedule(2))
