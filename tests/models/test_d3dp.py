"""D3DP: the denoiser and the sampler against straight-line passes; hypotheses, flips and seeds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.diffusion import cosine_schedule  # noqa: E402
from refiner.diffusion.clean_pose import draw_noises  # noqa: E402
from refiner.errors import ConfigError, UsageError  # noqa: E402
from refiner.models import D3DP, SampledLifter, from_published  # noqa: E402
from refiner.models.d3dp import CleanPoseDenoiser  # noqa: E402
from refiner.skeleton import flip_pose  # noqa: E402

DIM, DEPTH, FRAMES, HEADS = 32, 2, 5, 8


@pytest.fixture
def d3dp(layouts, random_state):
    """A model from a state dict in the published layout, and that state dict."""
    shapes = layouts.mixste(DIM, DEPTH, FRAMES, channels=5) | layouts.time_mlp(DIM)
    state = random_state({f"pose_estimator.{name}": shape for name, shape in shapes.items()})
    # Poses of about half a metre, most of them within the limit.
    state["pose_estimator.head.1.weight"] *= 0.4
    return from_published("d3dp", state), state


@pytest.fixture
def reference(layouts, in_float64, d3dp):
    """``reference(noisy, pose_2d, timestep)`` in float64."""
    weights = in_float64(d3dp[1], "pose_estimator.")

    def denoise(noisy, pose_2d, timesteps):
        joined = np.concatenate([pose_2d, noisy], axis=-1)
        tokens = layouts.linear(joined, weights, "Spatial_patch_to_embedding") + weights["Spatial_pos_embed"]
        time = layouts.embed_time(timesteps, weights, DIM)
        return layouts.blocks(tokens + time[:, None, None], weights, HEADS)

    return denoise


def windows(seed, batch=2):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.4, (batch, FRAMES, 17, 2)).astype(np.float32)


def test_the_denoiser_is_the_straight_line_pass(d3dp, reference):
    rng = np.random.default_rng(3)
    noisy, pose_2d = rng.normal(size=(3, FRAMES, 17, 3)).astype(np.float32), windows(4, 3)
    timesteps = np.array([999, 0, 412])
    with torch.no_grad():
        found = d3dp[0](*(torch.from_numpy(array) for array in (noisy, pose_2d, timesteps))).numpy()
    np.testing.assert_allclose(found, reference(noisy, pose_2d, timesteps), rtol=1e-5, atol=1e-5)


def published_sampling(denoise, pose_2d, noises, flip, eta=1.0):
    """K steps of one window with its hypotheses, from the description; ``noises`` ``(K, H, T, 17, 3)``."""
    steps, hypotheses = noises.shape[:2]
    abar = cosine_schedule(1000)
    times = [int(time) for time in np.linspace(-1, 999, steps + 1)][::-1]
    screen = np.repeat(pose_2d[None], hypotheses, axis=0)
    pose = noises[0].astype(np.float64)
    for index, (time, following) in enumerate(pairwise(times)):
        seen, stamp = np.clip(pose, -1.1, 1.1), np.full(hypotheses, time)
        clean = denoise(seen, screen, stamp)
        if flip:
            clean = 0.5 * (clean + flip_pose(denoise(flip_pose(seen), flip_pose(screen), stamp)))
        clean = np.clip(clean, -1.1, 1.1)
        if following < 0:
            return clean
        # The noise follows from the pose as it is, not from the one that was kept within the limit.
        noise = (np.sqrt(1 / abar[time]) * pose - clean) / np.sqrt(1 / abar[time] - 1)
        sigma = eta * np.sqrt((1 - abar[time] / abar[following]) * (1 - abar[following]) / (1 - abar[time]))
        kept = np.sqrt(1 - abar[following] - sigma**2)
        pose = clean * np.sqrt(abar[following]) + kept * noise + sigma * noises[index + 1]
    raise AssertionError


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("steps", "hypotheses", "eta"), [(1, 1, 1.0), (3, 2, 1.0), (2, 3, 0.0)])
def test_sampling_is_the_published_one(d3dp, reference, steps, hypotheses, eta, flip):
    pose_2d, noises = windows(6), draw_noises(steps, hypotheses, FRAMES, seed=8)
    with torch.no_grad():
        found = d3dp[0].sample(torch.from_numpy(pose_2d), torch.from_numpy(noises)[:, None], eta=eta, flip=flip)
    assert found.shape == (2, hypotheses, FRAMES, 17, 3)
    for row in range(2):
        expected = published_sampling(reference, pose_2d[row], noises, flip, eta)
        assert (np.abs(expected) < 1.1).mean() > 0.5
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=2e-5, atol=2e-5)


def test_noise_may_differ_from_window_to_window(d3dp):
    pose_2d = torch.from_numpy(windows(1))
    noises = torch.randn(2, 2, 3, FRAMES, 17, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        both = d3dp[0].sample(pose_2d, noises)
        for row in range(2):
            alone = d3dp[0].sample(pose_2d[row : row + 1], noises[:, row : row + 1])
            torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_sampled_lifter_gives_the_mean_and_a_window_the_same_in_any_batch(d3dp):
    pose_2d = torch.from_numpy(windows(9, 4))
    lifter = SampledLifter(d3dp[0], steps=2, hypotheses=3, seed=5).eval()
    with torch.no_grad():
        pose = lifter(pose_2d)
        torch.testing.assert_close(pose, lifter.hypotheses(pose_2d).mean(dim=1))
        torch.testing.assert_close(pose[2:3], lifter(pose_2d[2:3]), rtol=1e-5, atol=1e-5)
        other = SampledLifter(d3dp[0], steps=2, hypotheses=3, seed=6).eval()(pose_2d)
    assert (pose - other).abs().max() > 1e-3


def test_mirrored_input_gives_the_mirrored_prediction_of_a_flipped_step(d3dp):
    """With the same noise, mirrored: averaging both passes makes one step symmetric."""
    pose_2d = windows(2)
    noises = torch.from_numpy(draw_noises(2, 2, FRAMES, seed=1))[:, None]
    with torch.no_grad():
        straight = d3dp[0].sample(torch.from_numpy(pose_2d), noises)
        turned = d3dp[0].sample(torch.from_numpy(flip_pose(pose_2d)), flip_pose(noises))
    torch.testing.assert_close(straight, flip_pose(turned), rtol=1e-5, atol=1e-5)


def test_diffusing_is_the_forward_process_within_the_limit():
    model = D3DP(CleanPoseDenoiser(dim=16, depth=1, heads=2, frames=FRAMES))
    rng = np.random.default_rng(2)
    pose, noise = (rng.normal(0, 0.5, (4, FRAMES, 17, 3)).astype(np.float32) for _ in range(2))
    timesteps = np.array([0, 250, 500, 999])
    found = model.diffuse(*(torch.from_numpy(array) for array in (pose, timesteps, noise))).numpy()
    abar = cosine_schedule(1000)[timesteps].reshape(4, 1, 1, 1)
    expected = np.clip(np.sqrt(abar) * pose + np.sqrt(1 - abar) * noise, -1.1, 1.1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.abs(expected) == np.float32(1.1)).any() or (np.abs(found) > 1.09).any()


def test_impossible_sampling_is_refused(d3dp):
    with pytest.raises(ConfigError, match="at least one hypothesis"):
        SampledLifter(d3dp[0], steps=1, hypotheses=0)
    with pytest.raises(ConfigError, match="steps must lie between"):
        SampledLifter(d3dp[0], steps=0, hypotheses=1)
    with pytest.raises(ConfigError, match="eta"):
        SampledLifter(d3dp[0], steps=1, hypotheses=1, eta=1.5)
    with pytest.raises(UsageError, match="cannot be told the action"):
        d3dp[0].sample(torch.from_numpy(windows(1)), torch.ones(1, 1, 1, FRAMES, 17, 3), torch.tensor([0, 1]))
