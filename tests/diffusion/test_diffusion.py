"""Schedule, forward process and sampler against the equations."""

from __future__ import annotations

import numpy as np
import pytest

from refiner.diffusion import cosine_schedule, ddim_refine, ddim_timesteps, forward_coefficients, schedule_coefficients
from refiner.errors import ConfigError

RNG = np.random.default_rng(3)


def test_the_cosine_schedule_is_nichols_and_dhariwals():
    t = np.arange(1, 50) / 50  # below the last step, where beta is clipped
    f = lambda x: np.cos((x + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    np.testing.assert_allclose(cosine_schedule(50)[:-1], f(t) / f(0), rtol=1e-12)
    assert cosine_schedule(50)[-1] == pytest.approx(9.7e-7, rel=0.01)


def test_terminal_zero_changes_the_last_step_alone():
    literal, zero = (schedule_coefficients(cosine_schedule(), terminal) for terminal in ("literal", "zero"))
    np.testing.assert_array_equal(literal[0][:-1], zero[0][:-1])
    assert zero[0][-1] == 0.0 and zero[1][-1] == 1.0
    assert literal[0][-1] + literal[1][-1] == pytest.approx(1.000985, abs=1e-6)


def test_the_forward_factors_peak_in_the_middle():
    clean, noise = forward_coefficients()
    assert clean.max() == pytest.approx(np.sqrt(2), abs=1e-3) and abs(int(clean.argmax()) - 24) <= 1
    assert clean[-1] == 1.0 and noise[-1] == 1.0


@pytest.mark.parametrize(("steps", "times"), [(1, [49, -1]), (2, [49, 24, -1]), (5, [49, 39, 29, 19, 9, -1])])
def test_the_timesteps(steps, times):
    assert ddim_timesteps(steps) == times


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_perfect_prediction_returns_the_ground_truth(steps, library):
    truth = RNG.normal(0, 0.4, (4, 27, 17, 3)).astype(np.float32)
    error = RNG.normal(0, 0.05, truth.shape).astype(np.float32)
    seen = []
    if library == "torch":
        torch = pytest.importorskip("torch")
        truth, error = torch.from_numpy(truth), torch.from_numpy(error)

    def predict(pose, time):
        seen.append(time)
        return error

    refined = ddim_refine(predict, truth + error, steps)
    assert seen == ddim_timesteps(steps)[:-1]
    # One rounding of values of about 1 m for each step.
    np.testing.assert_allclose(np.asarray(refined), np.asarray(truth), atol=2e-7 * (steps + 1))


def test_the_literal_schedule_leaves_a_thousandth():
    truth = RNG.normal(size=(5, 17, 3))
    error = RNG.normal(0, 0.05, truth.shape)
    refined = ddim_refine(lambda pose, time: error, truth + error, 1, terminal="literal")
    np.testing.assert_allclose(
        refined, (truth + error * (1 - np.sqrt(1 - cosine_schedule()[-1]))) / 1.000985, rtol=1e-5
    )


def test_the_states_between_are_equation_8():
    truth, error = RNG.normal(size=(2, 9, 17, 3))
    clean, noise = forward_coefficients()
    states = {}
    ddim_refine(lambda pose, time: states.setdefault(time, pose) * 0 + error, truth + error, 5)
    for time, state in states.items():
        np.testing.assert_allclose(state, clean[time] * truth + noise[time] * error, atol=1e-12)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="between 1 and"):
        ddim_timesteps(51)
    with pytest.raises(ConfigError, match="at least one timestep"):
        cosine_schedule(0)
    with pytest.raises(ConfigError, match="terminal"):
        schedule_coefficients(cosine_schedule(), "none")  # type: ignore[arg-type]
