"""The frame-by-frame network of Martinez et al. and VideoPose3D's convolutions, against straight-line NumPy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.models.frame_mlp import FrameMLP  # noqa: E402
from refiner.models.lifters import build_lifter  # noqa: E402
from refiner.models.temporal_convolutions import TemporalConvolutions  # noqa: E402


def weights_of(model):
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def normed(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return np.maximum(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"], 0)


def randomised(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("inputs", [2, 6])
def test_the_frame_network_is_the_straight_line_pass(inputs):
    model = randomised(FrameMLP(dim=24, blocks=2, inputs=inputs))
    given = torch.randn(3, 5, 17, inputs, generator=torch.Generator().manual_seed(1))
    weights = weights_of(model)
    x = given.double().numpy().reshape(3, 5, -1)
    x = normed(x @ weights["first.weight"].T + weights["first.bias"], weights, "norm")
    for block in range(2):
        mixed = x
        for layer in range(2):
            name = f"blocks.{block}.layers.{layer}"
            mixed = mixed @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
            mixed = normed(mixed, weights, f"blocks.{block}.norms.{layer}")
        x = x + mixed
    expected = (x @ weights["head.weight"].T + weights["head.bias"]).reshape(3, 5, 17, 3)
    with torch.no_grad():
        np.testing.assert_allclose(model(given).numpy(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("inputs", "frames"), [(2, 27), (6, 5), (6, 1)])
def test_the_convolutions_are_the_straight_line_pass(inputs, frames):
    model = randomised(TemporalConvolutions(dim=12, blocks=2, inputs=inputs))
    given = torch.randn(2, frames, 17, inputs, generator=torch.Generator().manual_seed(1))
    weights = weights_of(model)

    def convolved(x, kernel, dilation):  # [B, T, C], [out, in, 3]: the frames beyond the ends are the last ones
        places = [np.clip(np.arange(frames) + shift * dilation, 0, frames - 1) for shift in (-1, 0, 1)]
        return sum(x[:, place] @ kernel[..., tap].T for tap, place in enumerate(places))

    x = given.double().numpy().reshape(2, frames, -1)
    x = normed(convolved(x, weights["first.weight"], 1), weights, "norm")
    for block, dilation in enumerate((3, 9)):
        mixed = normed(
            convolved(x, weights[f"blocks.{block}.wide.weight"], dilation), weights, f"blocks.{block}.norms.0"
        )
        mixed = mixed @ weights[f"blocks.{block}.single.weight"][..., 0].T
        x = x + normed(mixed, weights, f"blocks.{block}.norms.1")
    expected = (x @ weights["head.weight"][..., 0].T + weights["head.bias"]).reshape(2, frames, 17, 3)
    with torch.no_grad():
        np.testing.assert_allclose(model(given).numpy(), expected, rtol=2e-5, atol=2e-5)


def test_they_see_one_frame_and_27():
    for model, reach in ((FrameMLP(dim=16), 0), (TemporalConvolutions(dim=16), 13)):
        model = randomised(model)
        given = torch.randn(1, 61, 17, 2)
        changed = given.clone()
        changed[:, 30] += 1.0
        with torch.no_grad():
            moved = (model(given) - model(changed)).abs().amax(dim=(0, 2, 3)) > 1e-7
        assert moved.nonzero().flatten().tolist() == list(range(30 - reach, 31 + reach))


@pytest.mark.parametrize("architecture", ["mlp", "tcn"])
def test_a_configuration_names_them_and_dropout_is_for_training_alone(architecture):
    sizes = {"architecture": architecture, "input": "rays", "dim": 32, "blocks": 1, "dropout": 0.5}
    model = build_lifter({"model": sizes, "frames": 9})
    given = torch.randn(2, 9, 17, 6)
    assert not torch.equal(model.train()(given), model(given))
    assert torch.equal(model.eval()(given), model(given))
