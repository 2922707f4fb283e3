"""Muon for the matrices, AdamW for the rest: who gets which, and what a step does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refiner.models import STCFormer
from refiner.training.config import OptimiserConfig
from refiner.training.optimiser import MuonWithAdamW, build_optimiser, set_rate


def network():
    torch.manual_seed(3)
    return STCFormer(dim=32, layers=1, heads=4, mlp_ratio=2, joint_embedding=True)


def step(model, optimiser, rate):
    """One step with random gradients: how each parameter moved, and its gradient."""
    generator = torch.Generator().manual_seed(1)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)
    set_rate(optimiser, rate)
    optimiser.step()
    return {
        name: (value.detach() - before[name], value.grad.double().numpy()) for name, value in model.named_parameters()
    }


def turned(gradient):
    """Five steps of the quintic Newton-Schulz iteration, in float64."""
    x = gradient / np.linalg.norm(gradient)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_matrices_between_features_turn_and_the_rest_follows_adamw():
    model, twin = network(), network()
    moved = step(model, build_optimiser(model, OptimiserConfig(name="muon", rate=1e-3, matrix_rate=4e-3)), 5e-4)
    reference = step(twin, torch.optim.AdamW(twin.parameters(), weight_decay=0.0), 5e-4)
    # Fused and plain AdamW may round apart (about 1e-10 of steps of 5e-4), as the processor has it.
    matrices = {name for name in moved if not torch.allclose(moved[name][0], reference[name][0], rtol=0, atol=1e-8)}
    assert {name.split(".")[-2] for name in matrices} == {"qkv", "proj", "fc1", "fc2"}
    for name in matrices:
        update, gradient = moved[name]
        # 2e-3 is half of matrix_rate, as 5e-4 is of rate. PyTorch iterates in bfloat16 (8 bits).
        expected = -2e-3 * 0.2 * np.sqrt(max(update.shape)) * turned(gradient)
        assert np.linalg.norm(update.numpy() - expected) < 0.05 * np.linalg.norm(expected), name
    others = set(moved) - matrices
    assert any("layer_norm" in name for name in others) and any("joint_embedding" in name for name in others)
    for name in others:
        torch.testing.assert_close(moved[name][0], reference[name][0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_every_optimiser_lowers_the_loss(name):
    model = network()
    optimiser = build_optimiser(model, OptimiserConfig(name=name))
    x, y = torch.randn(8, 9, 17, 2), torch.randn(8, 9, 17, 3)
    losses = []
    for _ in range(40):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert isinstance(optimiser, MuonWithAdamW) == (name == "muon")
