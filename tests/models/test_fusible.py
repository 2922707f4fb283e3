"""Attention and convolution as sums of products: the same function as the usual calls, and taken only when compiled."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from refiner.models import fused, stc
from refiner.models.fusible import MOST_TOKENS, attend_by_sums, convolve_by_shifts, sums_of, takes_sums
from refiner.models.stc import STCAttention

EXACT = {"rtol": 1e-11, "atol": 1e-12}


def gradients(result, inputs, seed=9):
    """The gradients of a random weighted sum of ``result``."""
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed), dtype=result.dtype)
    return torch.autograd.grad((result * weights).sum(), inputs)


def leaves(*shapes):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def test_attention_has_the_values_and_gradients_of_the_usual_call():
    inputs = leaves((3, 2, 7, 4), (3, 2, 7, 4), (3, 2, 7, 4))
    expected = functional.scaled_dot_product_attention(*inputs, scale=0.7)
    found = attend_by_sums(*inputs, scale=0.7)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs), **EXACT)


def test_scores_that_are_large_do_not_overflow():
    query, key, value = (30 * part.detach().float() for part in leaves((1, 5, 4), (1, 5, 4), (1, 5, 4)))
    expected = functional.scaled_dot_product_attention(query, key, value, scale=2.0)
    torch.testing.assert_close(attend_by_sums(query, key, value, 2.0), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_the_convolution_has_the_values_and_gradients_of_the_usual_call(causal):
    grid, weight, bias = inputs = leaves((2, 5, 4, 6), (6, 1, 3, 3), (6,))
    images = grid.permute(0, 3, 1, 2)
    if causal:  # frame t sees t - 2 to t
        images = functional.pad(images, (1, 1, 2, 0))
        expected = functional.conv2d(images, weight, bias, groups=6).permute(0, 2, 3, 1)
    else:
        expected = functional.conv2d(images, weight, bias, padding=1, groups=6).permute(0, 2, 3, 1)
    found = convolve_by_shifts(grid, weight, bias, *((2, 0) if causal else (1, 1)))
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs), **EXACT)


@pytest.mark.parametrize("band", [None, 4])
def test_a_layer_is_the_same_either_way(band, monkeypatch):
    torch.manual_seed(0)
    layer = STCAttention(16, 2, band).double()
    x = leaves((2, 9, 17, 16))[0]
    inputs = [x, *layer.parameters()]
    expected = layer(x)
    monkeypatch.setattr(stc, "takes_sums", lambda part, x, training: True)
    calls = []
    usual = functional.conv2d
    monkeypatch.setattr(functional, "conv2d", lambda *arguments: calls.append(1) or usual(*arguments))
    found = layer(x)
    assert not calls
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(gradients(found, inputs), gradients(expected, inputs), **EXACT)


def test_types_stay_under_autocast(monkeypatch):
    """As on a device: half of the values' type comes in, and the same goes out."""
    monkeypatch.setattr(stc, "takes_sums", lambda part, x, training: True)
    torch.manual_seed(0)
    layer, x = STCAttention(16, 2), torch.randn(2, 9, 17, 16)
    with fused.attention_by("plain"):
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(x)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    grid, weight = torch.randn(1, 3, 4, 2).bfloat16(), torch.randn(2, 1, 3, 3)
    assert convolve_by_shifts(grid, weight, torch.zeros(2), 1, 1).dtype == torch.bfloat16
    assert attend_by_sums(grid, grid, grid, 1.0).dtype == torch.bfloat16


def test_nothing_changes_on_a_cpu_nor_uncompiled():
    x = torch.zeros(1)
    assert not takes_sums("attention", x, True) and not takes_sums("attention", x, False)
    seen = []

    def ask(x):
        seen.append(takes_sums("attention", x, True))
        return x + 1

    torch.compile(ask, backend="eager", fullgraph=True)(x)
    assert seen == [False]


def test_a_network_compiled_with_sums_has_the_gradients_of_the_plain_one(monkeypatch):
    """Traced forward and backward; the code that is made of it needs a device."""
    torch.manual_seed(0)
    plain = STCAttention(16, 2)
    traced = copy.deepcopy(plain)
    x = torch.randn(2, 9, 17, 16, requires_grad=True)
    with fused.attention_by("plain"):
        expected = gradients(plain(x), [x, *plain.parameters()])
        monkeypatch.setattr(stc, "takes_sums", lambda part, x, training: True)
        traced.compile(backend="aot_eager", fullgraph=True)
        found = gradients(traced(x), [x, *traced.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parts_are_chosen_apart(monkeypatch):
    """On what looks like a device, to whoever asks while compiling for training."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    there = SimpleNamespace(is_cuda=True)

    def taken(training=True):
        return [part for part in ("attention", "convolution") if takes_sums(part, there, training)]

    assert taken() == ["attention", "convolution"] and taken(training=False) == []
    with sums_of("convolution"):
        assert taken() == ["convolution"]
    assert taken() == ["attention", "convolution"]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert taken() == []


def test_long_sequences_take_the_usual_kernel(monkeypatch):
    layer, taken = STCAttention(16, 2), []
    monkeypatch.setattr(stc, "attend_by_sums", lambda *arguments: taken.append(arguments[0].shape[-2]))
    for tokens in (MOST_TOKENS, MOST_TOKENS + 1):
        layer._attend(*[torch.zeros(1, 2, tokens, 4)] * 3, True)
    assert taken == [MOST_TOKENS]
