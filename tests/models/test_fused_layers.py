"""The layers for training on a CPU: values and gradients against float64, and who takes them when."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from refiner.models import PoseDenoiser, STCFormer, fused, fused_layers, stc
from refiner.models.fused_layers import fused_linear, fused_mlp, layers_by_pytorch, takes_layers
from refiner.models.mixste import MixSTE

# A sum of n float32 terms is off by at most n 6e-8 of the sum of their sizes; n is at most 1,300 here, and the errors
# of the terms are independent. GELU and its slope contain a 16th power, so that they are off by up to 16 x 6e-8.
# Differences of such sums, as in the gradient of a layer norm, are up to ten times smaller than the sums.
CLOSE = 2e-5
ISAS = ["", "v3", "baseline"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def fast(monkeypatch):
    """As on a processor on which the kernels pay."""
    monkeypatch.setattr(fused_layers, "_faster", lambda: True)


def random_norm(dim: int) -> nn.LayerNorm:
    norm = nn.LayerNorm(dim)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    return norm


def leaf(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (scale * torch.randn(shape) + 0.2).requires_grad_()


def in_float64(function, *inputs):
    """The result and its function's inputs in float64, to take gradients from."""
    wide = [None if value is None else value.detach().double().requires_grad_() for value in inputs]
    return function(*wide), wide


def plain_linear(x, gain, shift, weight, bias, residual):
    if gain is not None:
        x = functional.layer_norm(x, x.shape[-1:], gain, shift, 1e-5)
    result = x @ weight.T + bias
    return result if residual is None else result + residual


def plain_mlp(x, gain, shift, first, second):
    hidden = functional.layer_norm(x, x.shape[-1:], gain, shift, 1e-5) @ first.T
    return x + (0.5 * hidden * (1.0 + torch.erf(hidden / 2.0**0.5))) @ second.T


def assert_same(found, expected, inputs, wide):
    """Compare a result and the gradients of a random weighted sum of it, each relative to its largest element."""
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    pairs = [(found, expected), *((a.grad, b.grad) for a, b in zip(inputs, wide, strict=True) if a is not None)]
    for number, (value, reference) in enumerate(pairs):
        assert value.isfinite().all(), number
        assert (value - reference).abs().max() <= CLOSE * reference.abs().max(), number


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(2, 16, 48), (145, 64, 192), (700, 96, 80), (1300, 128, 16)])
def test_a_linear_layer_against_float64(isa, norm, residual, rows, inputs, outputs, monkeypatch):
    monkeypatch.setenv("REFINER_ISA", isa)
    layer_norm = random_norm(inputs) if norm else None
    x, weight, bias = leaf(rows, inputs), leaf(outputs, inputs, scale=0.3), leaf(outputs)
    added = leaf(rows, outputs) if residual else None
    gain, shift = (None, None) if layer_norm is None else (layer_norm.weight, layer_norm.bias)
    given = x, gain, shift, weight, bias, added
    assert_same(fused_linear(x, weight, bias, layer_norm, added), *_with(plain_linear, given))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "dim", "hidden"), [(1, 16, 48), (145, 64, 512), (700, 96, 80), (1300, 128, 1024)])
def test_an_mlp_against_float64(isa, rows, dim, hidden, monkeypatch):
    monkeypatch.setenv("REFINER_ISA", isa)
    norm = random_norm(dim)
    x, first, second = leaf(rows, dim), leaf(hidden, dim, scale=0.2), leaf(dim, hidden, scale=0.1)
    given = x, norm.weight, norm.bias, first, second
    assert_same(fused_mlp(x, norm, first, second), *_with(plain_mlp, given))


def _with(function, given):
    expected, wide = in_float64(function, *given)
    return expected, given, wide


def test_the_ends_of_the_gelu():
    """Hidden elements of up to 40 in both directions: exp and erf must not overflow, and their gradients fade."""
    norm = nn.LayerNorm(16)
    x, second = leaf(64, 16), leaf(16, 32)
    first = leaf(32, 16, scale=6.0)
    expected, given, wide = _with(plain_mlp, (x, norm.weight, norm.bias, first, second))
    hidden = functional.layer_norm(wide[0], (16,)) @ wide[3].T
    assert hidden.max() > 40 and hidden.min() < -40
    assert_same(fused_mlp(x, norm, first, second), expected, given, wide)


def gradients_of(module, x, threads=1):
    torch.set_num_threads(threads)
    module.zero_grad()
    start = x.clone().requires_grad_()
    result = module(start)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
    (result * weights).sum().backward()
    return [result, start.grad, *(value.grad for value in module.parameters() if value.grad is not None)]


def test_the_number_of_threads_changes_no_bit(fast):
    lifter = STCFormer(32, 2)
    x = torch.randn(7, 27, 17, 2)
    once = gradients_of(lifter, x)
    for threads in (2, 5):
        assert all(torch.equal(a, b) for a, b in zip(once, gradients_of(lifter, x, threads), strict=True))


def test_nan_stays_in_its_row():
    norm = random_norm(32)
    first, second, weight, bias = leaf(64, 32), leaf(32, 64), leaf(48, 32), leaf(48)
    x = torch.randn(300, 32)
    spoilt = x.clone()
    spoilt[150, 7] = float("nan")
    for layer in (lambda v: fused_mlp(v, norm, first, second), lambda v: fused_linear(v, weight, bias, norm)):
        results = []
        for rows in (x, spoilt):
            start = rows.clone().requires_grad_()
            result = layer(start)
            result.sum().backward()
            results.append((result.detach(), start.grad))
        for clean, found in zip(*results, strict=True):
            assert found[150].isnan().all()
            others = torch.arange(300) != 150
            assert torch.equal(found[others], clean[others])


def test_inputs_and_gradients_that_are_not_in_order():
    norm, first, second = random_norm(32), leaf(32, 64), leaf(64, 32)
    x = torch.randn(9, 32, 5).transpose(1, 2)

    def run(start, up, down):
        start = start.requires_grad_()
        result = fused_mlp(start, norm, up, down)
        # The gradient of an expanded sum has strides of 0.
        result.sum().backward()
        return result, start.grad

    found = run(x.detach(), first.T, second.T)
    ordered = run(x.detach().contiguous(), first.T.contiguous(), second.T.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(found, ordered, strict=True))


@pytest.mark.parametrize(
    "network",
    [
        lambda: STCFormer(64, 2, joint_embedding=True),
        lambda: PoseDenoiser(48, 1, heads=4),
        lambda: PoseDenoiser(32, 2, mlps=2, band=5, joint_embedding=True),
        lambda: MixSTE(32, 2, heads=4, frames=9),
    ],
)
def test_a_network_has_the_gradients_of_its_plain_form_in_float64(network, fast):
    model = network()
    wide = copy.deepcopy(model).double()
    if isinstance(wide, PoseDenoiser):
        wide.time_mlp.register_forward_pre_hook(lambda module, given: given[0].double())
    pose_2d, pose_3d = torch.randn(3, 9, 17, 2), torch.randn(3, 9, 17, 3)
    inputs = (pose_3d, pose_2d, torch.tensor([0, 20, 49])) if isinstance(model, PoseDenoiser) else (pose_2d,)
    weights = torch.randn(3, 9, 17, 3)
    found = model(*inputs)
    with fused.attention_by("plain"):
        expected = wide(*(value if value.dtype == torch.int64 else value.double() for value in inputs))
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    for (name, value), reference in zip(model.named_parameters(), wide.parameters(), strict=True):
        assert (value.grad - reference.grad).abs().max() <= 5e-5 * reference.grad.abs().max() + 1e-7, name


@pytest.mark.parametrize("isa", ["v3", "baseline"])
def test_processors_without_avx512_leave_the_layers_to_pytorch(isa, monkeypatch):
    monkeypatch.setenv("REFINER_ISA", isa)
    assert not takes_layers(torch.randn(3, 32), 32)


def test_who_takes_the_layers(fast):
    x = torch.randn(3, 32)
    assert takes_layers(x, 32, 64)
    assert not takes_layers(x, 32, 40) and not takes_layers(x.double(), 32) and not takes_layers(x[:0], 32)
    with torch.no_grad():
        assert not takes_layers(x, 32)
    with layers_by_pytorch():
        assert not takes_layers(x, 32)
    with fused.attention_by("plain"):
        assert not takes_layers(x, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes_layers(x, 32)
    assert takes_layers(x, 32)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_an_mlp_with_dropout_is_left_to_pytorch(dropout, fast, monkeypatch):
    taken = []
    original = fused_layers.fused_mlp
    monkeypatch.setattr(stc, "fused_mlp", lambda *given: taken.append(1) or original(*given))
    feed_forward, norm = stc.FeedForward(32, 64, dropout), random_norm(32)
    x = torch.randn(200, 32)
    result = stc.residual_mlp(x, norm, feed_forward)
    assert bool(taken) == (dropout == 0.0)
    feed_forward.eval()
    evaluated = stc.residual_mlp(x, norm, feed_forward)
    assert torch.allclose(result, evaluated, atol=1e-5) == (dropout == 0.0)


def test_second_gradients_are_refused():
    x = leaf(4, 16)
    (gradient,) = torch.autograd.grad(
        fused_mlp(x, nn.LayerNorm(16), leaf(16, 16), leaf(16, 16)).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("joint_embedding", [True, False])
def test_autocast_keeps_the_attention_kernel(joint_embedding, monkeypatch):
    """Without a joint embedding the tokens themselves are bfloat16."""
    model = PoseDenoiser(64, 1, joint_embedding=joint_embedding)
    inputs = torch.randn(2, 9, 17, 3), torch.randn(2, 9, 17, 2), torch.tensor([3, 30])
    taken = []
    original = stc.fused_attention
    monkeypatch.setattr(stc, "fused_attention", lambda *given: taken.append(given[0].dtype) or original(*given))
    exact = _with_gradients(model, inputs, "plain", torch.float32)
    low = _with_gradients(model, inputs, "fused", torch.bfloat16)
    assert taken == [torch.bfloat16, torch.bfloat16]
    for name, value in exact.items():
        # bfloat16 has 8 bits; a relative error of 2 ** -9 for each of a few tens of roundings.
        assert (low[name] - value).norm() <= 0.05 * value.norm() + 1e-6, name


def _with_gradients(model, inputs, backend, dtype):
    model.zero_grad()
    with fused.attention_by(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        result = model(*inputs).float()
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(5))
    (result * weights).sum().backward()
    return {"result": result.detach(), **{name: value.grad.clone() for name, value in model.named_parameters()}}


def test_mixste_under_autocast_takes_the_kernel():
    model = MixSTE(32, 1, heads=4, frames=9)
    x = torch.randn(2, 9, 17, 2)
    with fused.attention_by("fused"), torch.autocast("cpu", torch.bfloat16):
        found = model(x).float()
    with fused.attention_by("plain"):
        expected = model(x)
    assert 0 < (found - expected).norm() <= 0.05 * expected.norm()
