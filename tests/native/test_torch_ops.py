"""The kernels as PyTorch operators: gradients, shapes for the compiler, compiled and exported graphs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner import native, torch_ops  # noqa: E402


def poses(count=4, joints=6, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(count, joints, 3, generator=generator, dtype=dtype)
    return target + 0.3 * torch.randn(count, joints, 3, generator=generator, dtype=dtype), target


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("operator", [torch_ops.procrustes_align, torch_ops.p_mpjpe])
def test_gradients_are_those_of_finite_differences(operator, scale, mirrored):
    pred, target = poses()
    if mirrored:
        pred = pred * torch.tensor([1.0, 1.0, -1.0])
    pred.requires_grad_(), target.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: operator(p, t, scale), (pred, target), atol=1e-7)


def test_values_are_the_kernels():
    pred, target = poses(dtype=torch.float32)
    torch.testing.assert_close(torch_ops.p_mpjpe(pred, target), native.p_mpjpe(pred, target))
    torch.testing.assert_close(torch_ops.procrustes_align(pred, target), native.procrustes_align(pred, target))


def test_a_perfect_prediction_has_no_gradient():
    _, target = poses()
    pred = target.clone().requires_grad_()
    torch_ops.p_mpjpe(pred, target).sum().backward()
    assert torch.isfinite(pred.grad).all() and pred.grad.abs().max() < 1.0


def test_an_aligned_loss_trains():
    """Bent poses straighten, and may stay turned, moved and scaled: that is not part of the loss."""
    pred, target = poses(count=8, joints=17)
    pred = (2.0 * pred + 3.0).requires_grad_()
    optimiser = torch.optim.Adam([pred], lr=0.02)
    first = torch_ops.p_mpjpe(pred, target).mean().item()
    for _ in range(200):
        optimiser.zero_grad()
        loss = torch_ops.p_mpjpe(pred, target).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first and pred.mean().item() > 2.0


def gaussian(size=6, inputs=9):
    generator = np.random.default_rng(3)
    arrays = [generator.normal(size=s) for s in (size, inputs, (size, inputs), (size, size))]
    arrays[3] = np.tril(arrays[3])
    return [torch.from_numpy(array.astype(np.float32)) for array in arrays]


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        ("procrustes_align", (*poses(), True)),
        ("p_mpjpe", (*poses(dtype=torch.float32), False)),
        ("sample_conditional", (torch.randn(5, 9), *gaussian(), 7, 2)),
    ],
)
def test_operators_keep_pytorchs_rules(operator, arguments):
    torch.library.opcheck(
        getattr(torch.ops.refiner, operator).default,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_they_are_inside_exported_graphs():
    class Loss(torch.nn.Module):
        def forward(self, pred, target, condition, *parts):
            drawn = torch.ops.refiner.sample_conditional(condition, *parts, 3, 0)
            return torch.ops.refiner.p_mpjpe(pred, target) + drawn.sum()

    pred, target = poses(dtype=torch.float32)
    arguments = (pred, target, torch.randn(5, 9), *gaussian())
    program = torch.export.export(Loss(), arguments)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"refiner.p_mpjpe.default", "refiner.sample_conditional.default"} <= called
    torch.testing.assert_close(program.module()(*arguments), Loss()(*arguments))
